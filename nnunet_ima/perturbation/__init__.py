"""The geometry of noise: norms and the units of budgets. Pure PyTorch."""
