"""The dossier of an audit: what a physicist, a risk manager and a notified body want to know, in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report import regulations
from nnunet_ima.report.about import NOTHING_SAID, QUESTIONS, About
from nnunet_ima.report.audit_figures import unit_of
from nnunet_ima.report.audit_table import headlines, refused, results, soundness
from nnunet_ima.report.cards import hash_of
from nnunet_ima.report.charts import dice_chart, margin_chart
from nnunet_ima.report.document import (
    Block,
    Bullets,
    Chart,
    Column,
    Document,
    Light,
    Picture,
    Row,
    Section,
    Table,
    Text,
    Viewer,
)
from nnunet_ima.report.material import Material
from nnunet_ima.report.strata import Strata, strata_section
from nnunet_ima.report.wording import conclusion, number, worst_rows

LISTED = 1000  # cases that a table of the page holds at most
LIMITS = (
    "An attack shows how low a model can fall; it proves nothing about what it withstands. Another attack may do more: "
    "the numbers under attack are upper bounds of the robustness.",
    "The noise is a worst case that nature hardly ever hits; the column of random noise shows what chance does at the "
    "same size.",
    "Only the cases named here were tested. Other patients, sites, scanners and protocols can fare worse.",
    "Noise is added to the images before the model's preprocessing ends, within the stated norm; changes of contrast, "
    "geometry, resolution or field of view are another question. Where realistic disturbances were looked at, each was "
    "drawn once for a case; where the worst change was searched, a longer search may find a worse one.",
    "Dice compares volumes. A small error at a place that matters weighs little in it.",
)


def dossier(material: Material, about: About = NOTHING_SAID, strata: Strata | None = None) -> Document:
    """Return the dossier of an audit.

    Args:
        material: what the audit has kept.
        about: what the user has said.
        strata: groups of cases; None: by the size of the structures.

    Raises:
        ValueError: a level at which something is demanded was not measured.
    """
    summary = material.summary
    lead = (*_light(summary, about), *headlines(summary), conclusion(summary))
    sections = (
        Section("What was tested", _identity(material, about), "identity"),
        Section("Intended use and input domain", _answers(about, _USE), "use"),
        Section("Protocol", _protocol(material), "protocol"),
        Section("Threat model", (*_answers(about, _THREAT), *_levels(summary)), "threat"),
        Section("Results", _results(material), "results"),
        Section("Look into the cases", _cases(material, about), "cases"),
        *results(summary),
        strata_section(material.cases, strata),
        Section("Repeatability", _repeatability(summary), "repeatability"),
        *(soundness(summary) or [Section("Is the evidence sound?", (Text("No check was run.", "warning"),))]),
        *(refused(summary) or [Section("Cases and files refused", (Text("None: every case was measured."),))]),
        Section("Malformed input", _answers(about, ("malformed_input",)), "malformed"),
        Section("Limits of this evidence", (Bullets(LIMITS),), "limits"),
        Section("Hazards left to the manufacturer", _hazards(summary), "hazards"),
        Section("Where regulations ask for this", regulations.blocks(), "regulations"),
    )
    return Document("Robustness dossier", lead, sections)


_USE = (
    "manufacturer",
    "product",
    "version",
    "intended_use",
    "patients",
    "sites",
    "scanners",
    "images",
    "reference_standard",
)
_THREAT = ("noise_origin", "attacker_knows", "eps_reason")


def _light(summary: dict[str, Any], about: About) -> list[Block]:
    """A traffic light for each model: grey without sound evidence, green or red by what was demanded, else amber."""
    lights: list[Block] = []
    for model in dict.fromkeys(row["model"] for row in summary["rows"]):
        worst = _worst(summary, model)
        if unknown := [entry.eps for entry in about.acceptance if entry.eps not in worst]:
            msg = (
                f"acceptance is asked at ε = {level_key(unknown[0])}, but the audit measured "
                f"{', '.join(map(level_key, worst))}; audit that level, too, or ask for another"
            )
            raise ValueError(msg)
        sentence = f"**{model}**: {_lay(worst)}"
        missed = [it for it in about.acceptance if worst[it.eps] < it.dice]
        if not _conclusive(summary, model):
            light = Light("grey", "NOT CONCLUSIVE", f"{sentence} The evidence has gaps, which are listed below.")
        elif missed:
            told = "; ".join(f"{worst[it.eps]:.3f} at ε = {level_key(it.eps)}, not {it.dice:g}" for it in missed)
            light = Light("red", "Not met", f"{sentence} What was demanded is not met: {told}.")
        elif about.acceptance:
            told = "; ".join(f"{it.dice:g} at ε = {level_key(it.eps)}" for it in about.acceptance)
            light = Light("green", "Met", f"{sentence} It meets what was demanded: a Dice of at least {told}.")
        else:
            light = Light("amber", "No limit given", f"{sentence} Nobody has said which Dice is enough.")
        lights.append(light)
    return lights


def _conclusive(summary: dict[str, Any], model: str) -> bool:
    """Whether the evidence on a model is sound, whatever that on others is."""
    checks = [row for row in summary["verdicts"] if row["model"] == model]
    failed = any(row["model"] == model for row in summary["failed"])
    return bool(checks) and all(row["conclusive"] for row in checks) and not failed


def _worst(summary: dict[str, Any], model: str) -> dict[float, float]:
    """Lowest mean Dice of a model at each level."""
    return {eps: row["mean_dice"] for eps, row in worst_rows(summary, model).items()}


def _lay(worst: Mapping[float, float]) -> str:
    """What happened, for a reader who knows none of the words."""
    levels = list(worst)
    text = f"without noise its outlines agree with the experts' to {100 * worst[levels[0]]:.0f} %"
    if len(levels) > 1:
        text += f", under the worst noise of the largest size tested to {100 * worst[levels[-1]]:.0f} %"
    return text + "."


def _identity(material: Material, about: About) -> tuple[Block, ...]:
    question, runs = material.manifest["question"], material.manifest["provenance"]
    rows = [
        {"what": f"{name}, {part}", "hash": value}
        for name, model in material.models.items()
        for part, value in [
            ("plans", model["plans"]),
            *((f"weights of fold {f}", h) for f, h in model["checkpoints"].items()),
        ]
    ]
    rows += [{"what": "code of nnunet-ima", "hash": run["code"]} for run in runs if "code" in run]
    columns: list[Column] = [("file", lambda row: row["what"]), ("SHA-256", lambda row: row["hash"])]
    cases = [{"what": name, "hash": value} for name, value in question["cases"].items()]
    told = f"Images and labels of the {len(cases)} cases:"
    if len(cases) > LISTED:
        told += f" the first {LISTED}. manifest.json lists all; their SHA-256 together is {hash_of(question['cases'])}."
    sign = (
        "I confirm that the weights, plans and code of the released product have the hashes above. "
        "Name, date, signature: ______________________________"
    )
    people = [f"{key}: {about.answers.get(key, 'not provided')}" for key in ("author", "reviewer")]
    return (
        Table.of(_unique(rows), columns),
        Text(told),
        Table.of(cases[:LISTED], [("case", columns[0][1]), columns[1]]),
        Bullets(tuple(people)),
        Text(sign),
    )


def _unique(rows: Sequence[Row]) -> list[Row]:
    return list({(row["what"], row["hash"]): row for row in rows}.values())


def _answers(about: About, keys: Sequence[str]) -> tuple[Block, ...]:
    rows = [(QUESTIONS[key], about.answers.get(key, "not provided")) for key in keys]
    return (Table(("question", "answer"), tuple(rows)),)


def _protocol(material: Material) -> tuple[Block, ...]:
    return (Bullets(tuple(f"{name}: {value}" for name, value in material.facts.items())),)


def _levels(summary: Mapping[str, Any]) -> tuple[Block, ...]:
    """Noise levels in every unit."""
    levels = {row["eps"]: row["units"] for row in summary["rows"] if row["eps"]}
    rows = [{"eps": eps, **units} for eps, units in sorted(levels.items())]
    columns: list[Column] = [
        ("ε", lambda row: level_key(row["eps"])),
        ("σ of the normalised image, per voxel", lambda row: number(row["rms"], ".3g")),
        ("raw intensity units (HU in CT), per voxel", lambda row: number(row["raw"], ".3g") or "not known"),
    ]
    return (Table.of(rows, columns),) if rows else (Text("No noise was added.", "warning"),)


def _results(material: Material) -> tuple[Block, ...]:
    summary, folder = material.summary, material.folder
    unit = unit_of(summary)

    def chart(figure: dict[str, Any], caption: str, name: str) -> Chart:
        return Chart(figure, caption, folder / name if (folder / name).is_file() else None)

    blocks: list[Block] = []
    if any(row["eps"] for row in summary["rows"]):
        blocks.append(chart(dice_chart(summary, unit), "Mean Dice against noise, with 95 % intervals.", "dice.png"))
    if summary["margins"]:
        blocks.append(chart(margin_chart(summary, unit), "Share of cases that still stand.", "margins.png"))
    if (file := folder / "shift.png").is_file() and summary["shift"]:
        blocks.append(Picture(file, "Mean Dice under realistic disturbances of rising severity."))
    for model in dict.fromkeys(row["model"] for row in summary["worst_shift"]):
        if material.pictures and (file := folder / f"worst_shift_{model}.png").is_file():
            blocks.append(Picture(file, "The worst realistic change found: scan, changed scan, predictions of both."))
    return tuple(blocks) or (Text("Nothing was attacked.", "warning"),)


def _cases(material: Material, about: About) -> tuple[Block, ...]:
    """A table of cases, worst first, that opens each; volumes; pictures of the worst ones; the terms of all that."""
    top = max((row["eps"] for row in material.cases), default=0.0)
    lowest: dict[tuple[str, str], tuple[bool, float, int]] = {}  # first those of the largest noise, by Dice
    for at, row in enumerate(material.cases):
        found = (row["eps"] != top, row["dice"], at)
        key = (row["model"], row["case"])
        if key not in lowest or (not found[0] and found < lowest[key]):
            lowest[key] = found
    columns: list[Column] = [
        ("model", lambda row: row["model"]),
        ("case", lambda row: row["case"]),
        ("Dice", lambda row: f"{row['clean_dice']:.3f}"),
        (f"Dice at ε = {level_key(top)}", lambda row: f"{row['dice']:.3f}"),
        ("HD95 there, mm", lambda row: number(row["hd95_mm"], ".1f") or "–"),
        ("NSD there", lambda row: number(row["nsd"], ".3f") or "–"),
        ("volume error there", _volume_errors),
        ("missed there", lambda row: ", ".join(row["missed"])),
    ]
    ordered = [material.cases[at] for _, at in sorted((dice, at) for _, dice, at in lowest.values())[:LISTED]]
    more = f"The worst {LISTED} of {len(lowest)}; cases.csv holds all." if len(lowest) > LISTED else ""
    viewer = [Viewer(material.shown, material.note)] if material.shown else []
    pictures = [
        Picture(file, "The case where Dice falls furthest: image, noise, predictions without and with it.")
        for model in dict.fromkeys(model for _, model in sorted((it[1:], model) for (model, _), it in lowest.items()))
        if material.pictures and (file := material.folder / f"worst_case_{model}.png").is_file()
    ]
    terms = [Text(f"Images: {about.answers['images']}", "note")] if "images" in about.answers else []
    return (
        *viewer,
        *(terms if viewer or pictures else []),
        Table.of(ordered, columns, "cases"),
        *([Text(more, "note")] if more else []),
        *pictures,
    )


def _volume_errors(row: Row) -> str:
    """Predicted volume of each class against the true one."""
    found = {name: error for name, error in row["volume_error_per_class"].items() if error is not None}
    named = len(row["volume_error_per_class"]) > 1
    return ", ".join(f"{name} {error:+.0%}" if named else f"{error:+.0%}" for name, error in found.items()) or "–"


def _repeatability(summary: Mapping[str, Any]) -> tuple[Block, ...]:
    found = [row for row in summary["verdicts"] if "deterministic" in row["check"]]
    if not found:
        return (Text("Not run: no case was measured twice.", "warning"),)
    said = tuple(f"{row['model']}: {row['check']}: **{row['result']}** ({row['figure']})" for row in found)
    return (
        Bullets(said),
        Text("Attacks are seeded by what they measure, so that the same command gives the same numbers.", "note"),
    )


def _hazards(summary: dict[str, Any]) -> tuple[Block, ...]:
    """A table to be completed; what the numbers suggest is filled in."""
    rows = []
    for model in dict.fromkeys(row["model"] for row in summary["rows"]):
        worst = _worst(summary, model)
        for eps, dice in worst.items():
            lost = worst[0.0] - dice if 0.0 in worst else 0.0
            if eps and lost > 0.1:
                rows.append(
                    (
                        f"{model}: noise of ε = {level_key(eps)} in the image",
                        f"Dice falls by {lost:.2f} in the mean, further in single cases",
                        "",
                        "",
                        "",
                    )
                )
                break
    rows.append(("images unlike those tested", "unknown", "", "", ""))
    head = ("hazard", "what the numbers suggest", "harm to the patient", "severity and probability", "risk control")
    note = "In the manner of a risk analysis; empty cells are for the manufacturer to fill in."
    return (Text(note, "note"), Table(head, tuple(rows)))
