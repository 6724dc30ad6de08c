"""Self-supervised pre-training for 3D point clouds."""
