"""Disturbances of MR scans, one file each."""
