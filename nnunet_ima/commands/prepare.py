"""`nnunet-ima-prepare`: make a data set ready for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nnunet_ima.commands._run import run_cli
from nnunet_ima.datasets.phantom_dataset import PhantomSettings
from nnunet_ima.datasets.prepare import Prepared, prepare_archive, prepare_phantom
from nnunet_ima.datasets.tasks import load_task

PROGRAM = "nnunet-ima-prepare"


@dataclass(kw_only=True)
class _Archive:
    task: ClassVar[str]

    source: Path
    """The original archive: its folder, or its .tar file."""

    skip_faulty: bool = False
    """Leave cases with faults out instead of stopping."""

    overwrite: bool = False
    """Replace an existing data set of the same name, with its preprocessed data and all its plans."""

    processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of worker processes; one per core, at most 8, if not given."""

    dataset_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of the data set in nnU-Net, if it must differ from the archive's."""

    def run(self) -> None:
        """Check, convert, plan and preprocess."""
        prepared = prepare_archive(
            load_task(self.task),
            self.source,
            dataset_id=self.dataset_id,
            skip_faulty=self.skip_faulty,
            overwrite=self.overwrite,
            processes=self.processes,
        )
        _print_outcome(prepared)


@dataclass(kw_only=True)
class Heart(_Archive):
    """Task D2: Task02_Heart of the Medical Segmentation Decathlon (left atrium)."""

    task = "D2"


@dataclass(kw_only=True)
class Hippocampus(_Archive):
    """Task D4: Task04_Hippocampus of the Medical Segmentation Decathlon."""

    task = "D4"


@dataclass(kw_only=True)
class Prostate(_Archive):
    """Task D5: Task05_Prostate of the Medical Segmentation Decathlon (two MR channels)."""

    task = "D5"


@dataclass(kw_only=True)
class Phantom:
    """Small random MR-like volumes of an organ with a core, for a first try and for tests."""

    cases: int = PhantomSettings.cases
    """Number of labelled volumes, at least 5."""

    shape: tuple[int, int, int] = PhantomSettings.shape
    """Voxels along x, y and z."""

    spacing: tuple[float, float, float] = PhantomSettings.spacing
    """Voxel edge along x, y and z, in mm."""

    channels: int = PhantomSettings.channels
    """Input channels with different contrast, 1 or 2."""

    seed: int = PhantomSettings.seed
    """The same seed gives the same volumes."""

    regions: bool = PhantomSettings.regions
    """Describe the labels as overlapping regions (whole, core)."""

    ignore: bool = PhantomSettings.ignore
    """Leave a quarter of every label map unannotated (nnU-Net's ignore label)."""

    noise: float = PhantomSettings.noise
    """Standard deviation of the receiver's noise, relative to the signal of tissue."""

    bias: float = PhantomSettings.bias
    """Strength of the bias field (standard deviation of its logarithm)."""

    dataset_id: int = 999
    """Number of the data set in nnU-Net."""

    dataset_name: str = "Phantom"
    """Name of the data set."""

    overwrite: bool = False
    """Replace an existing data set of the same name, with its preprocessed data and all its plans."""

    processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of worker processes; one per core, at most 8, if not given."""

    def run(self) -> None:
        """Generate, plan and preprocess."""
        settings = PhantomSettings(
            cases=self.cases,
            shape=self.shape,
            spacing=self.spacing,
            channels=self.channels,
            seed=self.seed,
            regions=self.regions,
            ignore=self.ignore,
            noise=self.noise,
            bias=self.bias,
        )
        prepared = prepare_phantom(
            settings,
            dataset_id=self.dataset_id,
            dataset_name=self.dataset_name,
            overwrite=self.overwrite,
            processes=self.processes,
        )
        _print_outcome(prepared)


Verb = (
    Annotated[Heart, tyro.conf.subcommand("D2")]
    | Annotated[Hippocampus, tyro.conf.subcommand("D4")]
    | Annotated[Prostate, tyro.conf.subcommand("D5")]
    | Annotated[Phantom, tyro.conf.subcommand("phantom")]
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Verb, argv, "Make a data set ready for training with nnU-Net and nnUNetTrainerIMA.")


def _print_outcome(prepared: Prepared) -> None:
    """Say what was made, what was left out and what to type next."""
    if prepared.skipped:
        skipped = dict.fromkeys(fault.case for fault in prepared.skipped)
        print(f"\nLeft out ({len(skipped)}):", *(f"  {fault}" for fault in prepared.skipped), sep="\n")
    number = prepared.dataset_id
    print(
        f"\n{prepared.raw.name} is ready, with {prepared.cases} training cases:",
        f"  raw data        {prepared.raw}",
        f"  preprocessed    {prepared.preprocessed}",
        f"  plans           {prepared.plans}",
        f"  configurations  {', '.join(prepared.configurations)}",
        "",
        "Next, on a CPU:",
        f"  nnUNetv2_train {number} 2d_cpu 0 -device cpu -tr nnUNetTrainerPlain",
        f"  nnUNetv2_train {number} 2d_cpu 0 -device cpu -tr nnUNetTrainerIMA",
        "or on a GPU:",
        f"  nnUNetv2_train {number} 3d_fullres 0 -tr nnUNetTrainerIMA",
        sep="\n",
    )


if __name__ == "__main__":
    main()
