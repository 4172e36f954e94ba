"""Every way to train, in one line each: where it is, and the trainer under which nnU-Net finds it.

Standard library only and nothing imported, since every start of nnU-Net reads it.
"""

METHODS = {
    "plain": ("nnunet_ima.methods.plain:Plain", "nnUNetTrainerPlain"),
    "ima": ("nnunet_ima.methods.ima:IncreasingMargin", "nnUNetTrainerIMA"),
    "adv": ("nnunet_ima.methods.adv:Adversarial", "nnUNetTrainerAdv"),
    "trades": ("nnunet_ima.methods.trades:Trades", "nnUNetTrainerTRADES"),
    "mma": ("nnunet_ima.methods.mma:MaxMargin", "nnUNetTrainerMMA"),
    "ddn": ("nnunet_ima.methods.ddn:DecoupledDirectionNorm", "nnUNetTrainerDDN"),
    "fat": ("nnunet_ima.methods.fat:Friendly", "nnUNetTrainerFAT"),
    "gairat": ("nnunet_ima.methods.gairat:GeometryAware", "nnUNetTrainerGAIRAT"),
    "te": ("nnunet_ima.methods.te:TemporalEnsembling", "nnUNetTrainerTE"),
}
"""Name → module and class, trainer."""

ALIASES = {"ce": "plain"}
"""Names that earlier results use → names."""
