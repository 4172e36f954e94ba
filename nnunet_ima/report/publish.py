"""From what an audit found to its summary, report and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.audit.settings import Settings
from nnunet_ima.audit.summary import summarise, write_summary
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Result
from nnunet_ima.evidence.store import Store, level_key
from nnunet_ima.files import write_atomically
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volume import raw_noise
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.report.audit_figures import WorstCase, draw_dice_curves, draw_margins, draw_worst_case
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.markdown import markdown


def publish(
    findings: Findings,
    pipelines: Mapping[str, Pipeline],
    cases: Sequence[Case],
    settings: Settings,
    store: Store,
    volumes: Volumes | None = None,
) -> str:
    """Write summary, tables, report and figures into the audit's folder; returns the report and where all that lies.

    Args:
        findings: of the audit.
        pipelines: inference of each model by its name.
        cases: those of the audit.
        settings: of the audit.
        store: its results.
        volumes: reads the cases; None: one of its own.
    """
    folder = store.folder
    summary = summarise(findings, settings)
    write_summary(summary, findings.records, folder)
    text = markdown(audit_report(summary, _facts(pipelines, cases, settings, folder)))
    figures = ["dice.png"] if settings.eps else []
    if settings.eps:
        draw_dice_curves(summary, folder / "dice.png")
    if summary["margins"]:
        draw_margins(summary, folder / "margins.png")
        figures.append("margins.png")
    for name, pipeline in pipelines.items():
        record = _worst_record(name, findings, folder, pipeline)
        if record is not None:
            figures.append(f"worst_case_{name}.png")
            draw_worst_case(_worst_case(record, pipeline, cases, folder, volumes or Volumes()), folder / figures[-1])
        elif settings.eps and any(record.model == name for record in findings.records):
            text += f"\n\nNo figure of {name}'s worst case: its noise or its predictions are not in images/"
    images = "\n\n".join(f"![{name}]({quote(name)})" for name in figures)
    write_atomically(folder / "report.md", f"{text}\n\n{images}\n" if images else f"{text}\n")
    return f"{text}\n\nReport, figures and all results: {folder}"


def _facts(
    pipelines: Mapping[str, Pipeline], cases: Sequence[Case], settings: Settings, folder: Path
) -> dict[str, str]:
    """What the numbers depend on, in words."""
    facts = {name: _pipeline_in_words(pipeline) + _work(name, pipeline, folder) for name, pipeline in pipelines.items()}
    facts["cases"] = f"{len(cases)}, each whole, every slice and every window of it"
    facts["ε"] = {
        "paper": f"the noise's {settings.norm} norm on {settings.reference_elements} elements; on a case it is scaled "
        "with the square root of the number of elements"
        if settings.norm == "L2"
        else "the largest noise of a voxel, in σ of the normalised image",
        "l2": f"the noise's {settings.norm} norm on the whole case, in σ of the normalised image",
        "rms": "σ of the normalised image, per voxel",
        "raw": "raw intensity units, per voxel",
    }[settings.unit]
    for attack in settings.attacks:
        used = [entry.with_steps(settings.steps) for entry in PRESETS[attack]]
        parts = [f"{entry.name} with steps = {entry.steps}" for entry in used]
        facts[f"attack {attack}"] = "; ".join(parts) + (" (of each case, the worst counts)" if len(parts) > 1 else "")
    facts["random noise"] = "mean over uniform and Gaussian white noise of the same size"
    facts["as a file"] = "Dice after the noisy image was written like the raw one, and read and predicted again"
    facts["seed"] = str(settings.seed)
    return facts | _machines(folder)


def _machines(folder: Path) -> dict[str, str]:
    """Versions and devices that took part, as the manifest holds them."""
    provenance = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["provenance"]
    versions = [", ".join(f"{name} {it}" for name, it in entry.get("versions", {}).items()) for entry in provenance]
    devices = [f"{entry['device']}, {entry['precision']}" for entry in provenance if "device" in entry]
    facts = {"versions": versions, "computed on": devices}
    return {name: "; ".join(dict.fromkeys(found)) for name, found in facts.items() if any(found)}


def _work(name: str, pipeline: Pipeline, folder: Path) -> str:
    """Size of a model's preprocessed cases and passes that each takes, by the noise kept of them."""
    files = {file.parent: file for file in folder.joinpath("images", name).glob("*/noise_*.npy")}
    shapes = {np.load(file, mmap_mode="r").shape for file in files.values()}
    if not shapes:
        return ""
    passes, elements = [pipeline.windows(shape[1:]) for shape in shapes], [prod(shape) for shape in shapes]
    return (
        f"; a preprocessed case has {_range(elements)} elements and takes {_range(passes)} passes through a network "
        "(windows × mirrored copies × folds)"
    )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _pipeline_in_words(pipeline: Pipeline) -> str:
    model = pipeline.model
    mirrored = "mirrored copies averaged" if pipeline.mirroring and model.mirror_axes else "no mirrored copies"
    return (
        f"{model.configuration_name} of {model.trainer}, fold {', '.join(model.folds)}; sliding window "
        f"{'×'.join(map(str, model.configuration.patch_size))} with step {pipeline.step_size:g}, {mirrored}; "
        f"on {model.device}"
    )


def _worst_record(name: str, findings: Findings, folder: Path, pipeline: Pipeline) -> Result | None:
    """The result where Dice falls furthest, by the smallest noise that does it; None if no files of any are kept."""
    records = [record for record in findings.records if record.model == name and record.attack != "clean"]
    records.sort(key=lambda record: (record.dice - record.clean_dice, record.eps))
    for record in records:  # noise is kept of each level's worst attack alone
        if all(file.is_file() for file in _files(record, folder, pipeline)):
            return record
    return None


def _files(record: Result, folder: Path, pipeline: Pipeline) -> tuple[Path, Path, Path]:
    """Noise, clean prediction and attacked prediction of a result."""
    images = folder / "images" / record.model / record.case
    place = f"{record.attack}@{level_key(record.eps)}"
    ending = pipeline.model.dataset_json["file_ending"]
    return images / f"noise_{place}.npy", images / f"clean{ending}", images / f"{place}{ending}"


def _worst_case(record: Result, pipeline: Pipeline, cases: Sequence[Case], folder: Path, volumes: Volumes) -> WorstCase:
    """Everything on the raw grid that the figure of a result shows."""
    noise_file, *predictions = _files(record, folder, pipeline)
    model = pipeline.model
    volume = volumes(next(case for case in cases if case.name == record.case), model)
    reader = model.plans.image_reader_writer_class()
    noise = raw_noise(volume, torch.from_numpy(np.load(noise_file)).float(), model)
    channel = int(np.square(noise).sum((1, 2, 3)).argmax())
    raw, _ = reader.read_images([str(image) for image in volume.case.images])
    label, clean, attacked = (volume.label, *(reader.read_seg(str(file))[0][0] for file in predictions))
    ignore = model.label_manager.ignore_label
    if ignore is not None:  # voxels that count nowhere are no failure
        label, clean, attacked = (np.where(volume.label == ignore, 0, array) for array in (label, clean, attacked))
    channels = f", channel {channel}" if len(noise) > 1 else ""
    return WorstCase(
        title=f"{record.model}: {record.case} under {record.attack}, ε = {record.eps:g}{channels}; "
        f"Dice {record.clean_dice:.3f} without noise, {record.dice:.3f} with it",
        image=raw[channel],
        noise=noise[channel],
        unit="σ" if volume.scale is None else "raw units",
        label=label,
        clean=clean,
        attacked=attacked,
        spacing=volume.properties["spacing"],
    )
