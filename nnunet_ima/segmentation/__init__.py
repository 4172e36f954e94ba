"""Audits of trained nnU-Net models."""
