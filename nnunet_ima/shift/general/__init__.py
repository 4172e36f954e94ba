"""Disturbances of scans of any modality, one file each."""
