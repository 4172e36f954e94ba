"""IMA in nnU-Net's dialect: settings, trainers, margin log, snapshots."""
