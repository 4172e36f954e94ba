"""From what an audit found to its summary, report and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.store import Store
from nnunet_ima.files import write_atomically
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.pipeline import Pipeline
from nnunet_ima.inference.volumes import Volumes
from nnunet_ima.report import cards
from nnunet_ima.report.audit_figures import draw_dice_curves, draw_margins, draw_worst_case
from nnunet_ima.report.audit_table import audit_report
from nnunet_ima.report.document import Shown
from nnunet_ima.report.dossier import dossier
from nnunet_ima.report.html import html
from nnunet_ima.report.kept import Kept, read_noise
from nnunet_ima.report.markdown import markdown
from nnunet_ima.report.material import Material, of_case, read_material, write_material
from nnunet_ima.report.shift_figure import draw_shift
from nnunet_ima.report.volumes import fit
from nnunet_ima.report.worst_shift_kept import draw_worst_changes
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise, write_summary

DOSSIER = "dossier.html"
SHOWN = 12  # cases of a model that a dossier shows, the worst ones
ROOM = 10_000_000  # bytes of their volumes in it


def publish(
    findings: Findings,
    pipelines: Mapping[str, Pipeline],
    cases: Sequence[Case],
    settings: Settings,
    store: Store,
    volumes: Volumes | None = None,
    protocol: str = "none was locked before the run",
) -> str:
    """Write summary, tables, report and figures into the audit's folder; returns the report and where all that lies.

    Args:
        findings: of the audit.
        pipelines: inference of each model by its name.
        cases: those of the audit.
        settings: of the audit.
        store: its results.
        volumes: reads the cases; None: one of its own.
        protocol: whether one was locked, and followed, in words.
    """
    folder = store.folder
    summary = summarise(findings, settings)
    write_summary(summary, findings.records, folder)
    facts = {"protocol": protocol} | _facts(pipelines, cases, settings, folder)
    text = markdown(audit_report(summary, facts))
    figures = ["dice.png"] if settings.eps else []
    if settings.eps:
        draw_dice_curves(summary, folder / "dice.png")
    if summary["margins"]:
        draw_margins(summary, folder / "margins.png")
        figures.append("margins.png")
    if summary["shift"]:
        draw_shift(summary, folder / "shift.png")
        figures.append("shift.png")
    figures += draw_worst_changes(findings, pipelines, cases, store)
    kept = Kept(findings, cases, folder, volumes or Volumes())
    for name, pipeline in pipelines.items():
        worst = kept.worst(name, pipeline)
        if worst is not None:
            figures.append(f"worst_case_{name}.png")
            draw_worst_case(worst, folder / figures[-1])
        elif settings.eps and any(record.model == name for record in findings.records):
            text += f"\n\nNo figure of {name}'s worst case: its noise or its predictions are not in images/"
    images = "\n\n".join(f"![{name}]({quote(name)})" for name in figures)
    write_atomically(folder / "report.md", f"{text}\n\n{images}\n" if images else f"{text}\n")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    told = of_case(findings.records, folder)
    material = Material(folder, summary, facts, told, manifest, *_shown(kept, pipelines, told))
    write_material(material)
    made = cards.make_cards(material)
    write_atomically(folder / cards.FILE, cards.as_text(made))
    for card in made:
        write_atomically(folder / f"card_{card.model}.html", html(cards.card_page(card)))
    write_atomically(folder / DOSSIER, html(dossier(material)))
    return f"{text}\n\nReport, figures and all results: {folder}\nTo read, look into and file: {folder / DOSSIER}"


def _shown(
    kept: Kept, pipelines: Mapping[str, Pipeline], told: Sequence[dict[str, Any]]
) -> tuple[tuple[Shown, ...], str]:
    """Volumes of the worst cases; those of an earlier start, if it has told the same results."""
    with suppress(OSError, ValueError):  # none, or damaged: they are made
        former = read_material(kept.folder)
        if former.cases == told:
            return former.shown, former.note
    found = chain.from_iterable(kept.shown(name, pipeline, SHOWN) for name, pipeline in pipelines.items())
    shown, note = fit(found, ROOM, SHOWN * len(pipelines))
    return tuple(shown), note


def _facts(
    pipelines: Mapping[str, Pipeline], cases: Sequence[Case], settings: Settings, folder: Path
) -> dict[str, str]:
    """What the numbers depend on, in words."""
    facts = {name: _pipeline_in_words(pipeline) + _work(name, pipeline, folder) for name, pipeline in pipelines.items()}
    facts["cases"] = f"{len(cases)}, each whole, every slice and every window of it"
    facts["ε"] = {
        "paper": f"the noise's {settings.norm} norm on {settings.reference_elements} elements; on a case it is scaled "
        "so that the noise has the same density"
        if settings.norm != "Linf"
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
    shapes = {read_noise(file).shape for file in files.values()}
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
