"""Plain nnU-Net training on the schedule of IMA, to compare with or to start from."""

from nnunet_ima.training.scheduled import ScheduledTrainer


class nnUNetTrainerPlain(ScheduledTrainer):
    """nnU-Net's own training step and loss; only epochs, iterations and seed come from the settings."""
