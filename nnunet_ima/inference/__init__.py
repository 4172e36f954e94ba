"""nnU-Net's inference as a differentiable function."""
