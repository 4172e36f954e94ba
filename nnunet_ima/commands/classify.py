"""`nnunet-ima-classify`: train classifiers of images with IMA and its rivals, compare them, use them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nnunet_ima.commands._compare_images import CompareImages
from nnunet_ima.commands._images import ImageTraining
from nnunet_ima.commands._run import check_output, run_cli, usable_device
from nnunet_ima.files import csv_text, read_json, write_atomically

PROGRAM = "nnunet-ima-classify"


@dataclass(kw_only=True)
class Fit(ImageTraining):
    """Train a classifier with one method.

    Its folder (OUTPUT/METHOD) gets model.pt, snapshots on the way, log.csv, progress.png and, of methods with margins,
    their histogram with the noise level that it suggests for plain adversarial training.
    """

    method: str
    """ce, ima, adv, trades, te, mma, ddn, fat or gairat, with a noise level if wanted: adv10."""

    def run(self) -> None:
        """Train, and say what came out."""
        from nnunet_ima.classification.fit import suggested_eps

        check_output(self.output)
        plans, device = self.resolve([self.method]), usable_device(self.device)
        data, splits = self.load(plans[self.method])
        files = self.train(plans, data, splits, device)
        folder = files[self.method].parent
        print(f"{files[self.method]} is trained: {_last_epoch(folder)}")
        if (folder / "margins.json").is_file():
            level = suggested_eps(_margins(folder / "margins.json"))
            print(f"The margins suggest a noise level for plain adversarial training: --method adv{level:.1f}")
        print(f"Next: {PROGRAM} predict --model {files[self.method]} IMAGES")


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


Verb = Fit | Annotated[CompareImages, tyro.conf.subcommand("compare")] | Predict


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Verb, argv, "Train, compare and use classifiers of images.")


if __name__ == "__main__":
    main()
