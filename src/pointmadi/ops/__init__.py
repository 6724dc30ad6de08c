"""Geometry on tensors."""
