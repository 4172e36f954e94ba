"""Trainings of classifiers, as several commands have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nnunet_ima.commands.plan import parse_settings

if TYPE_CHECKING:
    from nnunet_ima.classification.image_set import ImageSet
    from nnunet_ima.classification.settings import Settings
    from nnunet_ima.classification.splits import Splits


@dataclass(kw_only=True)
class ImageTraining:
    """Options, images and trainings that fitting and comparing share."""

    data: Path
    """Folder that holds a folder of images per class (PNG, JPEG, NIfTI, DICOM), or a CSV file with the columns image
    and label and, if known, split (train, validation, test) and patient, or folder of the original files of
    Fashion-MNIST (IDX), SVHN (.mat) or CIFAR-10 (.bin or Python)."""

    preset: str = "cpu"
    """Settings to begin with: cpu (small images and network) or paper (224×224, ResNet-18), both of CT slices;
    fashion-mnist, svhn, cifar10."""

    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """Settings to change, for example: epochs=30 size=96 norm=Linf; also those of a method, such as beta=0.4."""

    classes: tuple[str, ...] = ()
    """Classes to use, in the order of their numbers; all by default."""

    encoder: Path | None = None
    """Results folder of a trained nnU-Net whose encoder the classifier uses."""

    frozen: bool = False
    """Keep that encoder as it is and train the last layer only."""

    skip_faulty: bool = False
    """Leave out images that cannot be read."""

    seed: int = 0
    """Seed of splits, weights, order and noise."""

    output: Path = Path("nnunet-ima-classify")
    """Folder of splits, models and results. The same command goes on where it was stopped."""

    device: str = ""
    """Where to run: cpu, cuda, cuda:1; by default the first GPU, else the CPU."""

    def resolve(self, methods: Sequence[str]) -> dict[str, Settings]:
        """Settings of each method and of those that it starts from, in the order of their trainings."""
        from nnunet_ima.classification.settings import resolve_settings

        changes: dict[str, Any] = parse_settings(self.settings) if self.settings else {}
        options: dict[str, Any] = {"seed": self.seed}
        if self.encoder is not None:
            options |= {"encoder": str(self.encoder.resolve()), "frozen": self.frozen}
        elif self.frozen:
            msg = "--frozen is meant for a trained encoder; name one with --encoder"
            raise ValueError(msg)
        if twice := [key for key in options if key in changes]:
            msg = f"{twice[0]}={changes[twice[0]]!r} belongs to --{twice[0]}, not to --set"
            raise ValueError(msg)
        changes |= options
        found: dict[str, Settings] = {}

        def add(method: str, after: tuple[str, ...]) -> None:
            if method in found:
                return
            if method in after:
                msg = f"{' starts from '.join((*after, method))}: give one of them start_from=null"
                raise ValueError(msg)
            settings = resolve_settings(method, self.preset, changes)
            if settings.start_from is not None:
                add(settings.start_from, (*after, method))
            found[method] = settings

        for method in methods:
            add(method, ())
        return found

    def load(self, settings: Settings) -> tuple[ImageSet, Splits]:
        """Read the images and their splits, and say what a reader of results should know about them."""
        from nnunet_ima.classification.data import load_images, shorten
        from nnunet_ima.classification.splits import leaks, open_splits

        data = load_images(self.data, settings.size, self.classes or None, self.skip_faulty)
        splits = open_splits(self.output / "splits.json", data, seed=self.seed)
        counts = ", ".join(f"{number} {name}" for name, number in data.class_counts().items())
        sizes = ", ".join(f"{len(names)} {split}" for split, names in splits.ids().items())
        print(f"{data.source}: {counts}; {sizes}")
        for note in data.notes:
            print(f"Note: {note}.")
        for group in leaks(splits, data):
            print(f"Note: equal images in several splits: {', '.join(group)}.")
        if data.skipped:
            print(f"Left out: {shorten(data.skipped)}.")
        return data, splits

    def train(self, plans: dict[str, Settings], data: ImageSet, splits: Splits, device: str) -> dict[str, Path]:
        """Train what is not trained yet; returns the files of the classifiers. Writes nothing before all is checked."""
        from nnunet_ima.classification.fit import check, fit
        from nnunet_ima.classification.splits import write_splits
        from nnunet_ima.classification.training_data import TrainingData

        training = TrainingData.of(data, splits)
        for method, settings in plans.items():
            check(training, settings, self.output / method, device)
        write_splits(splits, self.output / "splits.json")
        files: dict[str, Path] = {}
        for method, settings in plans.items():
            start = None if settings.start_from is None else files[settings.start_from]
            files[method] = fit(training, settings, self.output / method, device, start)
        return files
