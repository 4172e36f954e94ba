"""Attacks that measure robustness. Pure PyTorch; every result is per sample."""
