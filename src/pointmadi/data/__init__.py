"""Shapes in, batches of tensors out."""
