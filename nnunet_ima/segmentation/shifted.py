"""A case under realistic disturbances: of the raw images, so that preprocessing sees them as it would in practice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnunet_ima.evidence.engine import Unit
from nnunet_ima.evidence.records import UNTOUCHED, Checked, Score, Shifted
from nnunet_ima.evidence.schema import fingerprint
from nnunet_ima.inference.volume import Volume, read_volume
from nnunet_ima.segmentation.case_audit import CaseAudit
from nnunet_ima.segmentation.input_check import check_scan
from nnunet_ima.segmentation.scores import score
from nnunet_ima.segmentation.settings import Shift
from nnunet_ima.segmentation.target import Watch
from nnunet_ima.shift import Disturbance, Scan, find_disturbance
from nnunet_ima.shift.exported import exported
from nnunet_ima.shift.likeness import Likeness
from nnunet_ima.shift.scan_files import read_scan, write_scan

_Entry = tuple[Disturbance | None, int]  # a disturbance and its severity
NOTHING = 1e-6  # mean absolute change, as a share of the standard deviation, that rounding leaves
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Prepared:
    """A disturbed case, preprocessed.

    Attributes:
        volume: as the network gets it.
        parameters: of the disturbance.
        changed: mean absolute change of the raw images, as a share of their standard deviation.
        exported: the scan as an export would write it, made when it is asked for.
    """

    volume: Volume
    parameters: dict[str, object]
    changed: float
    exported: Callable[[], Scan]


def shifted(
    case: CaseAudit, shift: Shift, watch: Watch | None = None, likeness: Likeness | None = None
) -> Iterator[tuple[Shifted, Checked | None]]:
    """Measure a case under each disturbance and severity, and once untouched; while one is predicted, the next is made.

    The same random numbers are drawn for all severities of a disturbance, so that they differ in strength alone.
    Disturbances that cannot happen to this scan (a single channel cannot be swapped) are left out, and so are those
    that leave none of its structures in the image, and severities that have happened to it before (it has no more than
    256 grey levels): such a result says nothing of the model.

    Args:
        case: the case.
        shift: what to look at.
        watch: told of the progress.
        likeness: what the model's training scans look like, for the input check; None: nothing is checked.

    Returns:
        The score under each disturbance, and what the input check says of the scan.

    Raises:
        ValueError: the case cannot be read as a volume, or not be disturbed.
    """
    scan = read_scan(case.case.images, case.case.label, shift.modality)
    found = [find_disturbance(name) for name in shift.disturbances]
    wanted: list[_Entry] = [(None, 0)]
    wanted += [(it, severity) for it in found if not it.refusal(scan) for severity in shift.severities]
    engine, missing = case.engine, []
    for entry in wanted:
        held = engine.holds(_unit(case, *entry), Shifted)
        if not held or (likeness and not engine.holds(_check_unit(case, *entry, likeness), Checked)):
            missing.append(entry)
    prepared = _ahead(lambda entry: _prepare(case, scan, *entry), missing)
    for entry in wanted:
        made = next(prepared) if entry in missing else None
        try:
            record, checked = _looked_at(case, entry, made, watch, likeness)
        except _NothingLeftError:
            continue
        if not (entry[0] is not None and entry[0].settles and record.changed <= NOTHING):
            yield record, checked


class _NothingLeftError(Exception):
    """The disturbance has moved every structure out of the image: Dice is undefined, and no model's fault."""


def _looked_at(
    case: CaseAudit, entry: _Entry, made: _Prepared | None, watch: Watch | None, likeness: Likeness | None
) -> tuple[Shifted, Checked | None]:
    """Score and answer of the input check, each as it is stored, or else of the case that was made for it."""

    def ready() -> _Prepared:
        if made is None:
            msg = f"a result of {case.case.name} has gone while the audit ran; start it again"
            raise ValueError(msg)
        return made

    record = case.engine.result(_unit(case, *entry), Shifted, lambda _: _measure(case, ready(), *entry, watch))
    if likeness is None:
        return record, None

    def check(unit: Unit) -> Checked:
        return check_scan(likeness, ready().exported(), case.name, case.case.name, _name(entry[0]), entry[1])

    return record, case.engine.result(_check_unit(case, *entry, likeness), Checked, check)


def _unit(case: CaseAudit, disturbance: Disturbance | None, severity: int) -> Unit:
    return case.unit(f"shift/{_name(disturbance)}", severity, given=_told(disturbance, severity))


def _check_unit(case: CaseAudit, disturbance: Disturbance | None, severity: int, likeness: Likeness) -> Unit:
    """Apart from the score, which an audit may have made before anybody learnt what the training scans look like."""
    given = (*_told(disturbance, severity), f"likeness {fingerprint(likeness)}")
    return case.unit(f"checks/{_name(disturbance)}", severity, given=given)


def _name(disturbance: Disturbance | None) -> str:
    return UNTOUCHED if disturbance is None else disturbance.name


def _told(disturbance: Disturbance | None, severity: int) -> tuple[str, ...]:
    return () if disturbance is None else (f"{disturbance.severities[severity - 1]:g} {disturbance.unit}",)


def _prepare(case: CaseAudit, scan: Scan, disturbance: Disturbance | None, severity: int) -> _Prepared:
    parameters: dict[str, object] = {}
    disturbed = scan
    if disturbance is not None:
        words = (case.settings.seed, case.case.name, "shift", disturbance.name)
        rng = np.random.default_rng(list("/".join(map(str, words)).encode()))
        parameters = json.loads(json.dumps(disturbance.draw(severity, scan, rng)))
        disturbed = disturbance.apply(scan, parameters)
    with case.engine.store.scratch() as folder:
        volume = through_files(case, disturbed, folder, "scan")
    written = partial(exported, disturbed, scan)
    return _Prepared(volume, parameters, _change(scan, disturbed), written)


def through_files(case: CaseAudit, scan: Scan, folder: Path, name: str) -> Volume:
    """What nnU-Net's preprocessing makes of a scan of the case, from files NAME_0000, …, and NAME_label in a folder."""
    model = case.pipeline.model
    ending = model.dataset_json["file_ending"]
    images = [folder / f"{name}_{channel:04d}{ending}" for channel in range(len(scan.channels))]
    label = folder / f"{name}_label{ending}"
    write_scan(scan, images, label)
    return read_volume(replace(case.case, images=tuple(images), label=label), model)


def _change(scan: Scan, disturbed: Scan) -> float:
    """Mean absolute change of intensities, as a share of their standard deviation; 1 on another grid."""
    if scan.shape != disturbed.shape or not np.allclose(scan.affine, disturbed.affine):
        return 1.0
    return float(np.abs(disturbed.channels - scan.channels).mean() / max(float(scan.channels.std()), 1e-8))


def _measure(
    case: CaseAudit, made: _Prepared, disturbance: Disturbance | None, severity: int, watch: Watch | None
) -> Shifted:
    if not np.isin(made.volume.label, case.pipeline.model.label_manager.all_labels[1:]).any():
        raise _NothingLeftError
    predicted, sure = case.predictions.predict_surely(made.volume.image, made.volume)
    scores = score(predicted, made.volume, case.pipeline.model, case.settings.tolerance, sure)
    name = _name(disturbance)
    if watch is not None:
        watch(f"{name}@{severity}", scores.dice)
    return Shifted(
        **{field.name: getattr(scores, field.name) for field in fields(Score)},
        model=case.name,
        case=case.case.name,
        disturbance=name,
        severity=severity,
        level=disturbance.severities[severity - 1] if disturbance else 0.0,
        unit=disturbance.unit if disturbance else "",
        parameters=json.dumps(made.parameters),
        changed=made.changed,
        clean_dice=case.clean().dice,
    )


def _ahead(make: Callable[[T], U], items: Sequence[T]) -> Iterator[U]:
    """What is made of each item, the next one in the background while this one is in use."""
    with ThreadPoolExecutor(1) as pool:
        made = [pool.submit(make, item) for item in items[:1]]
        for number in range(len(items)):
            current = made.pop().result()
            made += [pool.submit(make, item) for item in items[number + 1 : number + 2]]
            yield current
