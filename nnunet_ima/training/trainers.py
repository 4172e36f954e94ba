"""The trainers, one for each method: `nnUNetv2_train DATASET CONFIGURATION FOLD -tr nnUNetTrainerIMA`."""

from __future__ import annotations

from nnunet_ima._methods import METHODS
from nnunet_ima.methods import method_class
from nnunet_ima.training.robust import RobustTrainer
from nnunet_ima.training.scheduled import ScheduledTrainer


class nnUNetTrainerPlain(ScheduledTrainer):
    """nnU-Net's own training step and loss on our schedule, to compare with or to start from."""


def __getattr__(name: str) -> type[RobustTrainer]:
    """Make the trainer of a method when it is first asked for."""
    for method, (_, trainer) in METHODS.items():
        if trainer == name:
            made = type(name, (RobustTrainer,), {"method_name": method, "__module__": __name__})
            made.__doc__ = method_class(method).__doc__
            globals()[name] = made
            return made
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
