"""The pictures of the worst changes, from the files that an audit keeps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import WorstShift
from nnunet_ima.evidence.store import Store
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.report.worst_shift_figure import WorstChange, draw_worst_change, worst_change
from nnunet_ima.segmentation.predictions import Predictions
from nnunet_ima.segmentation.worst_shift import NAME
from nnunet_ima.shift.scan_files import read_scan


def draw_worst_changes(
    findings: Findings, pipelines: Mapping[str, Pipeline], cases: Sequence[Case], store: Store
) -> list[str]:
    """Draw the case of each model whose Dice its worst change takes lowest; returns the files' names."""
    drawn = []
    for name, pipeline in pipelines.items():
        records = sorted((it for it in findings.worst_shifts if it.model == name), key=lambda record: record.dice)
        for record in records[:1]:
            case = next(it for it in cases if it.name == record.case)
            found = _worst_change(record, case, pipeline, store)
            if found is not None:
                drawn.append(f"worst_shift_{name}.png")
                draw_worst_change(found, store.folder / drawn[-1])
    return drawn


def _worst_change(record: WorstShift, case: Case, pipeline: Pipeline, store: Store) -> WorstChange | None:
    """The case before and after its change; None where one of its files is gone."""
    predictions = Predictions(record.model, pipeline, record.case, store)
    what = f"{NAME}@{record.severity}"
    images = [predictions.file(f"{what}_{channel:04d}") for channel in range(len(case.images))]
    label = predictions.file(f"{what}_label")
    if not all(file.is_file() for file in (*images, label, predictions.file(what), predictions.file("clean"))):
        return None
    before = read_scan(case.images, case.label, record.modality)
    after = read_scan(images, label, record.modality)
    fall = f"Dice {record.clean_dice:.3f}, {record.dice:.3f} under the worst change found"
    predicted = predictions.read("clean"), predictions.read(what)
    return worst_change(f"{record.model}, {record.case}: {fall}", tuple(record.told.values()), before, after, predicted)
