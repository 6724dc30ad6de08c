"""Shapes that need no download."""
