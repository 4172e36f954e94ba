"""DICOM series as volumes: read through SimpleITK (GDCM) as they are meant, or refused by a sentence that says why."""
