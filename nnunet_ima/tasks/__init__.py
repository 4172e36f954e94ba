"""What is learned: losses, what counts as right, and the quality that an audit reports. Pure PyTorch."""
