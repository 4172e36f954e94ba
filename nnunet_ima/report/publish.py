"""From what an audit found to its summary, report and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.audit.case_audit import Settings
from nnunet_ima.audit.cases import Case
from nnunet_ima.audit.pipeline import Pipeline
from nnunet_ima.audit.run import Findings
from nnunet_ima.audit.store import Store
from nnunet_ima.audit.summary import summarise, write_summary
from nnunet_ima.audit.volume import raw_noise, read_volume
from nnunet_ima.files import write_atomically
from nnunet_ima.report.audit_figures import WorstCase, draw_dice_curves, draw_margins, draw_worst_case
from nnunet_ima.report.audit_table import report_text


def publish(
    findings: Findings, pipelines: Mapping[str, Pipeline], cases: Sequence[Case], settings: Settings, store: Store
) -> str:
    """Write summary, tables, report and figures into the audit's folder; returns the report and where all that lies.

    Args:
        findings: of the audit.
        pipelines: inference of each model by its name.
        cases: those of the audit.
        settings: of the audit.
        store: its results.
    """
    folder = store.folder
    summary = summarise(findings, settings)
    write_summary(summary, findings.records, folder)
    text = report_text(summary, _facts(pipelines, cases, settings))
    figures = ["dice.png"] if settings.eps else []
    if settings.eps:
        draw_dice_curves(summary, folder / "dice.png")
    if summary["margins"]:
        draw_margins(summary, folder / "margins.png")
        figures.append("margins.png")
    for name, pipeline in pipelines.items():
        if worst := _worst_case(name, pipeline, findings, cases, folder):
            figures.append(f"worst_case_{name}.png")
            draw_worst_case(worst, folder / figures[-1])
    write_atomically(folder / "report.md", text + "\n\n" + "\n\n".join(f"![{name}]({name})" for name in figures) + "\n")
    return f"{text}\n\nReport, figures and all results: {folder}"


def _facts(pipelines: Mapping[str, Pipeline], cases: Sequence[Case], settings: Settings) -> dict[str, str]:
    """What the numbers depend on, in words."""
    facts = {name: _pipeline_in_words(pipeline) for name, pipeline in pipelines.items()}
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
        parts = [f"{entry.name} with steps = {settings.steps or entry.steps}" for entry in PRESETS[attack]]
        facts[f"attack {attack}"] = "; ".join(parts) + (" (of each case, the worst counts)" if len(parts) > 1 else "")
    facts["random noise"] = "mean over uniform and Gaussian white noise of the same size"
    facts["as a file"] = "Dice after the noisy image was written like the raw one, and read and predicted again"
    facts["seed"] = str(settings.seed)
    return facts


def _pipeline_in_words(pipeline: Pipeline) -> str:
    model = pipeline.model
    mirrored = "mirrored copies averaged" if pipeline.mirroring and model.mirror_axes else "no mirrored copies"
    return (
        f"{model.configuration_name} of {model.trainer}, fold {', '.join(model.folds)}; sliding window "
        f"{'×'.join(map(str, model.configuration.patch_size))} with step {pipeline.step_size:g}, {mirrored}; "
        f"on {model.device}"
    )


def _worst_case(
    name: str, pipeline: Pipeline, findings: Findings, cases: Sequence[Case], folder: Path
) -> WorstCase | None:
    """The case that an attack harms most: where Dice falls furthest, by the smallest noise that does it."""
    records = [record for record in findings.records if record["model"] == name and record["attack"] != "clean"]
    records.sort(key=lambda record: (record["dice"] - record["clean_dice"], record["eps"]))
    for record in records:
        images = folder / "images" / name / record["case"]
        place = f"{record['attack']}@{record['eps']:g}"
        file = images / f"noise_{place}.npy"
        if file.is_file():  # kept of each level's worst attack
            break
    else:
        return None
    model = pipeline.model
    volume = read_volume(next(case for case in cases if case.name == record["case"]), model)
    reader = model.plans.image_reader_writer_class()
    ending = model.dataset_json["file_ending"]
    noise = raw_noise(volume, torch.from_numpy(np.load(file)).float(), model)
    channel = int(np.square(noise).sum((1, 2, 3)).argmax())
    raw, _ = reader.read_images([str(image) for image in volume.case.images])

    def prediction(what: str) -> Any:
        return reader.read_seg(str(images / f"{what}{ending}"))[0][0]

    channels = f", channel {channel}" if len(noise) > 1 else ""
    return WorstCase(
        title=f"{name}: {record['case']} under {record['attack']}, ε = {record['eps']:g}{channels}; "
        f"Dice {record['clean_dice']:.3f} without noise, {record['dice']:.3f} with it",
        image=raw[channel],
        noise=noise[channel],
        unit="σ" if volume.scale is None else "raw units",
        label=volume.label,
        clean=prediction("clean"),
        attacked=prediction(place),
        spacing=volume.properties["spacing"],
    )
