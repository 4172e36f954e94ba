"""Disturbances of CT scans in Hounsfield units, one file each."""
