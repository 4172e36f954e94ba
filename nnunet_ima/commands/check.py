"""`nnunet-ima-check`: are these scans like those that a model was trained on?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nnunet_ima.commands._run import check_output, run_cli
from nnunet_ima.files import csv_text, read_json, write_atomically

PROGRAM = "nnunet-ima-check"


@dataclass(kw_only=True)
class Check:
    """Compare scans with those that a model was trained on, before it predicts them: a matter of a second each.

    Spacing, field of view, orientation, histogram, noise, sharpness, grey levels and unevenness are compared; what the
    scans show is not. Learn first what the training scans look like: nnunet-ima-check --learn --model FOLDER.

    The exit status is 0 if all scans are alike, 1 if one is not, 2 after a wrong input.
    """

    images: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of images, named as nnU-Net wants them (CASE_0000.nii.gz, one per channel)."""

    model: Path
    """Results folder of the model."""

    learn: bool = False
    """Learn from the training cases of the model's fold, in nnUNet_raw, and write what was learnt into its folder."""

    fold: Annotated[str, tyro.conf.arg(aliases=["-f"])] = "0"
    """Fold whose training cases are learnt from."""

    modality: Literal["mr", "ct", "any"] | None = None
    """Of the scans, with --learn; by default CT where the model's channels are called so, else MR."""

    output: Path | None = None
    """CSV file of all features to write."""

    def run(self) -> None:
        """Learn, or read, compare and tell."""
        if (self.images is None) != self.learn:
            msg = "name a folder of images to compare, or --learn from the training cases; one of them"
            raise ValueError(msg)
        if self.output is not None:
            check_output(self.output.parent)
        info = read_json(self.model / "dataset.json", missing="--model is the folder that nnU-Net trained into")
        if not isinstance(info, dict) or not isinstance(info.get("file_ending"), str):
            msg = f"{self.model / 'dataset.json'} names no file_ending; --model is the folder that nnU-Net trained into"
            raise ValueError(msg)
        if self.learn:
            self._learn(info)
        else:
            self._compare(info)

    def _learn(self, info: dict[str, Any]) -> None:
        """Learn from the training cases."""
        from nnunet_ima.inference.cases import dataset_cases
        from nnunet_ima.inference.plans import read_model_json
        from nnunet_ima.shift.likeness import FALSE_ALARMS, learn, write_likeness
        from nnunet_ima.shift.scan_files import read_scan

        name = read_model_json(self.model)[0].dataset_name
        held_out = {case.name for case in dataset_cases(name, [self.fold])} if self.fold != "all" else set()
        cases = [
            case for case in dataset_cases(name, [self.fold], allow_training_cases=True) if case.name not in held_out
        ]
        modality = self.modality.upper() if self.modality in ("mr", "ct") else self.modality or _modality(info)
        likeness = learn(read_scan(case.images, None, modality) for case in cases)
        file = write_likeness(likeness, self.model)
        print(
            f"{file}: {likeness.scans} scans of modality {likeness.modality}; a new one of the same kind exceeds the "
            f"threshold of {likeness.threshold:.1f} with a probability of about {FALSE_ALARMS:.0%}"
        )

    def _compare(self, info: dict[str, Any]) -> None:
        """Tell of each scan whether it is alike."""
        from nnunet_ima.shift.likeness import read_likeness
        from nnunet_ima.shift.scan_files import read_scan

        likeness = read_likeness(self.model)
        rows, unlike = [], 0
        for name, files in _scans(self.images, info["file_ending"], likeness.channels):  # type: ignore[arg-type]
            far = likeness.unlike(read_scan(files, None, likeness.modality))
            worst = [
                f"{feature} ({distance:.1f})" for feature, distance in far.items() if distance > likeness.threshold
            ]
            unlike += bool(worst)
            print(f"{name}: {'UNLIKE the training scans: ' + ', '.join(worst[:4]) if worst else 'alike'}")
            rows.append({"case": name, "unlike": bool(worst), "threshold": likeness.threshold, **far})
        if self.output is not None:
            write_atomically(self.output, csv_text(rows))
        if unlike:
            print(f"{unlike} of {len(rows)} scans are unlike those that the model was trained on.")
            raise SystemExit(1)


def _modality(info: dict[str, Any]) -> str:
    names = info.get("channel_names", info.get("modality", {}))
    return "CT" if any(str(name).upper() == "CT" for name in names.values()) else "MR"


def _scans(folder: Path, ending: str, channels: int) -> Iterator[tuple[str, list[Path]]]:
    """Name and files of each case of a folder."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        found.setdefault(file.name[: -len(ending) - 5], []).append(file)
    if not found:
        msg = f"{folder} holds no image named CASE_0000{ending}"
        raise FileNotFoundError(msg)
    for name, files in found.items():
        if len(files) != channels:
            msg = f"{name} has {len(files)} channels in {folder}, the model wants {channels}"
            raise ValueError(msg)
        yield name, files


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    run_cli(PROGRAM, Check, argv)


if __name__ == "__main__":
    main()
