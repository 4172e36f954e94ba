"""What an audit has kept of its cases, on the raw images' grid, for figures and viewers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Result
from nnunet_ima.evidence.store import level_key
from nnunet_ima.image_files import check_whole, image_errors
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import raw_noise
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.report.audit_figures import WorstCase
from nnunet_ima.report.volumes import Attacked, CaseVolumes, affine_of


@dataclass(frozen=True)
class Kept:
    """The images of an audit.

    Attributes:
        findings: of the audit.
        cases: of the audit.
        folder: of the audit.
        volumes: reads the cases.
    """

    findings: Findings
    cases: Sequence[Case]
    folder: Path
    volumes: Volumes

    def worst(self, model: str, pipeline: Pipeline) -> WorstCase | None:
        """The case where Dice falls furthest, by the smallest noise that does it; None if no files of any are kept."""
        records = self.findings.records
        order = sorted(
            (record.dice - record.clean_dice, record.eps, place)
            for place, record in enumerate(records)
            if record.model == model and record.attack != "clean"
        )
        for *_, place in order:  # noise is kept of each level's worst attack alone
            if self._are_there(record := records[place], pipeline):
                return self._worst_case(record, pipeline)
        return None

    def shown(self, model: str, pipeline: Pipeline, most: int) -> Iterator[CaseVolumes]:
        """The worst cases of a model that are kept, worst first, one at a time."""
        of_case: dict[str, dict[float, tuple[float, int]]] = {}  # Dice at each level, and where its record is
        records = self.findings.records
        for place, record in enumerate(records):
            if record.model == model and record.attack != "clean" and self._are_there(record, pipeline):
                of_case.setdefault(record.case, {})[record.eps] = (record.dice, place)
        lowest = {case: min(dice for dice, _ in levels.values()) for case, levels in of_case.items()}
        worst = sorted(of_case, key=lambda case: lowest[case])[:most]
        for case in worst:
            yield self._volumes([records[place] for _, (_, place) in sorted(of_case[case].items())], pipeline)

    def _are_there(self, record: Result, pipeline: Pipeline) -> bool:
        return all(file.is_file() for file in self._files(record, pipeline))

    def _files(self, record: Result, pipeline: Pipeline) -> tuple[Path, Path, Path]:
        """Noise, clean prediction and attacked prediction of a result."""
        images = self.folder / "images" / record.model / record.case
        place = f"{record.attack}@{level_key(record.eps)}"
        ending = pipeline.model.dataset_json["file_ending"]
        return images / f"noise_{place}.npy", images / f"clean{ending}", images / f"{place}{ending}"

    def _volumes(self, records: Sequence[Result], pipeline: Pipeline) -> CaseVolumes:
        """A case with the results of its levels; of several channels, the one with most of the largest noise."""
        model = pipeline.model
        volume = self.volumes(next(case for case in self.cases if case.name == records[0].case), model)
        reader = model.plans.image_reader_writer_class()
        found = []
        for record in records:
            noise, _, predicted = self._files(record, pipeline)
            raw = raw_noise(volume, torch.from_numpy(np.array(read_noise(noise))).float(), model)
            found.append((record, raw, _read_seg(predicted, reader)))
        channel = int(np.square(found[-1][1]).sum((1, 2, 3)).argmax())
        raw, _ = reader.read_images([str(image) for image in volume.case.images])
        clean = _read_seg(self._files(records[0], pipeline)[1], reader)
        fragile = self.folder / "images" / records[0].model / records[0].case / "fragility.nii.gz"
        ignore = model.label_manager.ignore_label
        counts = np.ones_like(volume.label) if ignore is None else (volume.label != ignore)
        return CaseVolumes(
            model=records[0].model,
            case=records[0].case,
            dice=records[0].clean_dice,
            affine=affine_of(volume.properties),
            image=raw[channel],
            label=volume.label * counts,  # voxels that count nowhere are no failure
            clean=clean * counts,
            fragility=_fragility(fragile, reader, volume.label.shape),
            unit="σ" if volume.scale is None else "raw units",
            levels=tuple(
                Attacked(record.eps, record.attack, record.dice, noise[channel], predicted * counts)
                for record, noise, predicted in found
            ),
            channel=channel if len(raw) > 1 else None,
        )

    def _worst_case(self, record: Result, pipeline: Pipeline) -> WorstCase:
        found = self._volumes([record], pipeline)
        (level,) = found.levels
        volume = self.volumes(next(case for case in self.cases if case.name == record.case), pipeline.model)
        named = "" if found.channel is None else f", channel {found.channel}"
        return WorstCase(
            title=f"{record.model}: {record.case} under {record.attack}, ε = {record.eps:g}{named}; "
            f"Dice {record.clean_dice:.3f} without noise, {record.dice:.3f} with it",
            image=found.image,
            noise=level.noise,
            unit=found.unit,
            label=found.label,
            clean=found.clean,
            attacked=level.predicted,
            spacing=volume.properties["spacing"],
        )


def read_noise(file: Path) -> np.ndarray:
    """Kept noise (C, *spatial), not yet in memory.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        noise: np.ndarray = np.load(file, mmap_mode="r")
    except (ValueError, EOFError, TypeError, OverflowError) as error:
        msg = f"{file} is damaged ({error}); remove it and start the same command again: the report does without it"
        raise ValueError(msg) from error
    return noise


def _read_seg(file: Path, reader: Any) -> np.ndarray:
    """Kept label map (Z, Y, X)."""
    with image_errors(file):
        check_whole(file)
        found: np.ndarray = reader.read_seg(str(file))[0][0]
        return found


def _fragility(file: Path, reader: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """The kept map (Z, Y, X) as a model's reader turns it; None where it is missing."""
    if not file.is_file():
        return None
    with image_errors(file):
        check_whole(file)
        return _read_map(file, reader).reshape(shape)


def _read_map(file: Path, reader: Any) -> np.ndarray:
    if ".nii.gz" in reader.supported_file_endings:
        read: np.ndarray = reader.read_images([str(file)])[0][0]
    else:
        read = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    return read
