"""Data sets: from the original archives, or from a random generator, to nnU-Net's layout and plans."""
