"""Increasing-margin adversarial (IMA) training: the method, in pure PyTorch.

Source: Ma & Liang, "Increasing-Margin Adversarial (IMA) Training to Improve Adversarial Robustness of Neural
Networks", Computer Methods and Programs in Biomedicine 2023, doi 10.1016/j.cmpb.2023.107687, arXiv 2005.09147.
"""
