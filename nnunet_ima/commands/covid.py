"""`nnunet-ima-covid`: train classifiers of CT slices with IMA and its rivals, audit them, use them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nnunet_ima.commands._run import check_output, run_cli, usable_device
from nnunet_ima.commands.plan import parse_settings
from nnunet_ima.files import csv_text, read_json, write_atomically

if TYPE_CHECKING:
    from nnunet_ima.classification.data import ImageSet
    from nnunet_ima.classification.settings import Settings
    from nnunet_ima.classification.splits import Splits

PROGRAM = "nnunet-ima-covid"


@dataclass(kw_only=True)
class _Training:
    """What `fit` and `compare` share."""

    data: Path
    """Folder that holds a folder of images per class (PNG, JPEG, NIfTI, DICOM), or a CSV file with the columns image
    and label and, if known, split (train, validation, test) and patient."""

    preset: str = "cpu"
    """Settings to begin with: cpu (small images and network) or paper (224×224, ResNet-18)."""

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

    output: Path = Path("nnunet-ima-covid")
    """Folder of splits, models and results. The same command goes on where it was stopped."""

    device: str = ""
    """Where to run: cpu, cuda, cuda:1; by default the first GPU, else the CPU."""

    def _resolve(self, methods: Sequence[str]) -> dict[str, Settings]:
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

    def _load(self, settings: Settings) -> tuple[ImageSet, Splits]:
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

    def _train(self, plans: dict[str, Settings], data: ImageSet, splits: Splits, device: str) -> dict[str, Path]:
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


@dataclass(kw_only=True)
class Fit(_Training):
    """Train a classifier with one method.

    Its folder (OUTPUT/METHOD) gets model.pt, snapshots on the way, log.csv, progress.png and, of methods with margins,
    their histogram with the noise level that it suggests for plain adversarial training.
    """

    method: str
    """ce, ima, adv, trades, mma, ddn, fat or gairat, with a noise level if wanted: adv10."""

    def run(self) -> None:
        """Train, and say what came out."""
        from nnunet_ima.classification.fit import suggested_eps

        check_output(self.output)
        plans, device = self._resolve([self.method]), usable_device(self.device)
        data, splits = self._load(plans[self.method])
        files = self._train(plans, data, splits, device)
        folder = files[self.method].parent
        print(f"{files[self.method]} is trained: {_last_epoch(folder)}")
        if (folder / "margins.json").is_file():
            level = suggested_eps(_margins(folder / "margins.json"))
            print(f"The margins suggest a noise level for plain adversarial training: --method adv{level:.1f}")
        print(f"Next: {PROGRAM} predict --model {files[self.method]} IMAGES")


@dataclass(kw_only=True)
class Compare(_Training):
    """Train what is missing, audit all methods on the test images, and show which defence to take.

    Attacks: PGD and APGD at every noise level; the Square attack, SPSA and white noise beside them. Everything goes
    into OUTPUT/audit: report, table, figures, one JSON for each measurement.
    """

    methods: tuple[str, ...]
    """Methods to compare, for example: ce ima adv10 trades mma ddn fat gairat."""

    eps: tuple[float, ...] | None = None
    """Noise levels; those of the preset by default. 0 is always measured."""

    norm: Literal["L2", "Linf"] | None = None
    """Norm of the audit's noise, if it is not that of the training; the results get a folder of their own,
    OUTPUT/audit_NORM."""

    limit: int | None = None
    """Use this many test images, drawn at random; the preset's number by default (cpu: 200, paper: all)."""

    positive: str | None = None
    """Class whose sensitivity is reported; COVID, or else the last one, by default."""

    def run(self) -> None:
        """Train, audit, print."""
        if not self.methods:
            raise ValueError("--methods needs at least one, for example ce ima adv10")
        if len(set(self.methods)) < len(self.methods):
            msg = f"--methods names one twice: {' '.join(self.methods)}"
            raise ValueError(msg)
        if self.limit is not None and self.limit < 1:
            msg = f"--limit must be at least 1, got {self.limit}"
            raise ValueError(msg)
        from nnunet_ima.classification.compare import audit_settings, choose_images, compare, usual_images

        check_output(self.output)
        plans, device = self._resolve(self.methods), usable_device(self.device)
        trained = plans[self.methods[0]]
        settings = audit_settings(trained, self.eps, self.norm)
        folder = self.output / ("audit" if settings.norm == trained.norm else f"audit_{settings.norm}")
        data, splits = self._load(trained)
        positive = self._positive(data)
        files = self._train(plans, data, splits, device)
        images = choose_images(splits, data, self.limit or usual_images(self.preset), self.seed)
        audited = {name: files[name] for name in self.methods}
        print(compare(audited, data, images, settings, positive, folder, device))

    def _positive(self, data: ImageSet) -> str:
        from nnunet_ima.classification.settings import load_plan

        if self.positive is not None:
            if self.positive not in data.classes:
                msg = f"--positive {self.positive} is none of the classes {', '.join(data.classes)}"
                raise ValueError(msg)
            return self.positive
        usual = str(load_plan()["positive"])
        return usual if usual in data.classes else data.classes[-1]


@dataclass(kw_only=True)
class Predict:
    """Classify images with a trained classifier; prints a CSV line for each.

    No medical device: see the report of its audit for how much noise it stands.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, or folders of them."""

    model: Path
    """Classifier that `fit` or `compare` has written (model.pt)."""

    output: Path | None = None
    """CSV file to write instead of printing."""

    device: str = ""
    """Where to run: cpu, cuda, cuda:1; by default the first GPU, else the CPU."""

    def run(self) -> None:
        """Classify all images, or none if one cannot be read."""
        from nnunet_ima.classification.networks import load_classifier
        from nnunet_ima.classification.predict import image_files, predict

        if self.output is not None:
            if self.output.is_dir():
                raise ValueError(f"--output {self.output} is a folder; name a CSV file")
            if not self.output.parent.is_dir():
                raise ValueError(f"--output {self.output}: there is no folder {self.output.parent}")
            check_output(self.output.parent)
        files, device = image_files(self.images), usable_device(self.device)
        rows = predict(load_classifier(self.model, device), files, device)
        if self.output is None:
            print(csv_text(rows), end="")
        else:
            write_atomically(self.output, csv_text(rows))


def _last_epoch(folder: Path) -> str:
    """The last line of a training's log in words."""
    try:
        with (folder / "log.csv").open(newline="", encoding="utf-8") as stream:
            row = list(csv.DictReader(stream))[-1]
        sentence = (
            f"validation accuracy {float(row['validation']):.3f}, "
            f"{float(row['validation_robust']):.3f} under PGD, after epoch {row['epoch']}"
        )
        if row.get("margin_mean"):
            sentence += f"; mean margin {float(row['margin_mean']):.2f}, largest {float(row['margin_max']):.2f}"
    except (LookupError, TypeError, ValueError, csv.Error) as error:
        msg = f"{folder / 'log.csv'} is damaged, though the classifier is trained; remove {folder} to train it again"
        raise ValueError(msg) from error
    return sentence


def _margins(file: Path) -> list[float]:
    """The margins of all training images."""
    way_out = f"remove {file.parent} to train again"
    stored = read_json(file, damaged=way_out)
    margins = list(stored.values()) if isinstance(stored, dict) else []
    if not margins or not all(isinstance(margin, (int, float)) for margin in margins):
        raise ValueError(f"{file} does not list margins; {way_out}")
    return margins


Verb = Fit | Compare | Predict


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Verb, argv, "Train, audit and use classifiers of CT slices.")


if __name__ == "__main__":
    main()
