"""Norms of noise, one file each, behind one small interface (`base.Norm`)."""

from nnunet_ima.perturbation.norms.base import Norm, per_sample
from nnunet_ima.perturbation.norms.l2 import L2
from nnunet_ima.perturbation.norms.linf import Linf

__all__ = ["L2", "NORMS", "Linf", "Norm", "per_sample"]

NORMS: dict[str, Norm] = {norm.name: norm for norm in (L2(), Linf())}
