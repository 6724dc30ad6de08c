"""What objectives and tasks share: encoder, masking, diffusion."""
