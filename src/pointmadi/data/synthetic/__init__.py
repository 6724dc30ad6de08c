"""Shapes that need no download: the procedural corpus and everyday objects."""
