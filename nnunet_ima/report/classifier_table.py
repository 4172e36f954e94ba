"""The result of an audit of classifiers in tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_ima.evidence.store import level_key
from nnunet_ima.report.document import Block, Bullets, Column, Document, Row, Section, Table, Text
from nnunet_ima.report.wording import NOTHING, VERDICT, conclusion, interval_text, number, without_value

SHARES = "Shares have 95 % Wilson intervals."
RATES = (
    SHARES + " Sensitivity and specificity are for {positive}, under the worst attack. AUC is "
    "for clean images and white noise only: an attack stops as soon as the class is wrong, which says nothing about "
    "ranks."
)
MINIMAL = (
    "Quantiles over all images; those that are wrong without noise count as 0, those that stood all noise as more than "
    "the largest ε."
)
PROBED = (
    "Attacked again, accuracy on images that are right without noise, drawn at random; SPSA's is on fewer of them. "
    "Found by black boxes alone is the share of the images that they broke and the gradients did not."
)


def classifier_report(summary: dict[str, Any], facts: Mapping[str, str]) -> Document:
    """Return the report of an audit of classifiers.

    Args:
        summary: see `classification.summary.summarise_classifiers`.
        facts: what was attacked and how, one line each.
    """
    models, rows, levels = summary["models"], summary["rows"], _levels(summary)
    told = SHARES if summary["positive"] is None else RATES.format(positive=summary["positive"])
    sections = [
        Section(
            "Accuracy under the worst attack" + (f", by {_unit(summary)}" if levels else ""),
            (Table.of(models, _overview(summary)),),
        ),
        Section(
            "In detail",
            (
                Text(told, "note"),
                Table.of(rows, without_value(_details(summary), rows)),
            ),
        ),
    ]
    if searched := [{"model": model["model"], **model["minimal"]} for model in models if model["minimal"]]:
        title = f"The smallest noise that makes a prediction wrong, in {_unit(summary)}"
        table = Table.of(searched, without_value(_MINIMAL, searched))
        sections.append(Section(title, (Text(MINIMAL, "note"), table)))
    if summary["verdicts"]:
        checks = [{**model, "verdicts": _of(model, summary["verdicts"])} for model in models]
        blocks: list[Block] = [Table.of(checks, without_value(_VERDICTS, checks))]
        if probes := [{"model": model["model"], **model["probe"]} for model in models if model["probe"]]:
            blocks += [Text(PROBED, "note"), Table.of(probes, without_value(_PROBES, probes))]
        blocks.append(Table.of(summary["verdicts"], without_value(VERDICT, summary["verdicts"])))
        sections.append(Section("Is the evidence sound?", tuple(blocks)))
    attacked = Bullets(tuple(f"{name}: {value}" for name, value in facts.items()))
    sections.append(Section("What was attacked", (attacked,)))
    return Document("Classifiers under noise", (*map(Text, _choice(summary)), conclusion(summary)), tuple(sections))


def _choice(summary: dict[str, Any]) -> list[str]:
    """The sentence that says which defence to take."""
    if summary["best"] is None:
        return []
    (best,) = (model for model in summary["models"] if model["model"] == summary["best"])
    clean = best["clean"]["accuracy"]["value"]
    sentence = f"Which defence to take: **{best['model']}**"
    if len(summary["models"]) == 1:
        sentence = f"**{best['model']}**"
    sentence += (
        f", with a mean accuracy of {best['mean_accuracy']:.3f} over the noise levels ε = "
        f"{', '.join(map(level_key, _levels(summary)))} and {clean:.3f} without noise"
    )
    if len(summary["models"]) > 1:
        sentence += (
            "; it is the highest among the models whose accuracy without noise is at most "
            f"{100 * summary['allowance']:g} points below the best"
        )
    if not best["conclusive"]:
        sentence += ". The evidence on it is not conclusive, see below"
    return [sentence + "."]


def _levels(summary: Mapping[str, Any]) -> list[float]:
    return list(summary["settings"]["eps"])


def _unit(summary: Mapping[str, Any]) -> str:
    settings = summary["settings"]
    if settings["norm"] == "Linf":
        return "ε (largest change of a pixel)"
    return f"ε ({settings['norm']} norm on {settings['reference_elements']} elements)"


def _of(model: Row, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["model"] == model["model"]]


def _share(share: Row | None) -> str:
    return "" if share is None else f"{share['value']:.3f}{interval_text((share['low'], share['high']))}"


def _overview(summary: dict[str, Any]) -> list[Column]:
    """A column for each noise level, as in the paper's table 10."""
    found = {(row["model"], row["eps"]): row["accuracy"]["value"] for row in summary["rows"]}
    columns: list[Column] = [("model", lambda row: row["model"])]
    for eps in (0.0, *_levels(summary)):
        columns.append((level_key(eps), lambda row, eps=eps: f"{found[row['model'], eps]:.3f}"))  # type: ignore[misc]
    if _levels(summary):
        columns.append(("mean of ε > 0", lambda row: number(row["mean_accuracy"], ".3f")))
    return columns


def _details(summary: dict[str, Any]) -> list[Column]:
    clean = {model["model"]: model["auc"] for model in summary["models"]}
    columns: list[Column] = [
        ("model", lambda row: row["model"]),
        ("ε", lambda row: level_key(row["eps"])),
        ("RMS", lambda row: f"{row['rms']:.3g}"),
        ("accuracy [95 %]", lambda row: _share(row["accuracy"])),
        ("sensitivity", lambda row: _share(row["sensitivity"])),
        ("specificity", lambda row: _share(row["specificity"])),
    ]
    for count, attack in enumerate(summary["rows"][0]["attacks"]):
        title = attack if count == 0 else f"and {attack}"
        columns.append((title, lambda row, attack=attack: _attacked(row, attack)))  # type: ignore[misc]
    columns += [
        ("white noise", lambda row: "" if row["noise"] is None else f"{row['noise']['value']:.3f}"),
        ("AUC, clean or white noise", lambda row: _share(row["auc_noise"] if row["eps"] else clean[row["model"]])),
    ]
    return columns


def _attacked(row: Row, attack: str) -> str:
    return f"{row['attacks'][attack]['value']:.3f}" if row["eps"] else NOTHING


def _beyond(share: str, row: Row) -> str:
    value = row["quantiles"][share]
    return f"> {row['largest_tried']:g}" if value is None else f"{value:.3g}"


_MINIMAL: list[Column] = [
    ("model", lambda row: row["model"]),
    ("weakest 5 %", lambda row: _beyond("0.05", row)),
    ("weakest 25 %", lambda row: _beyond("0.25", row)),
    ("median", lambda row: _beyond("0.5", row)),
    ("median, RMS", lambda row: number(row["median_rms"], ".3g")),
    ("strongest 25 %", lambda row: _beyond("0.75", row)),
    ("strongest 5 %", lambda row: _beyond("0.95", row)),
    ("wrong without noise", lambda row: f"{row['wrong_without_noise']} of {row['images']}"),
    ("stood all noise", lambda row: str(row["stood_all"])),
]
_PROBES: list[Column] = [
    ("model", lambda row: row["model"]),
    ("ε", lambda row: level_key(row["eps"])),
    ("images", lambda row: str(row["cases"])),
    ("PGD and APGD", lambda row: f"{row['accuracy']:.3f}"),
    ("twice the steps", lambda row: f"{row['accuracy_twice_the_steps']:.3f}"),
    ("other scales of the logits", lambda row: f"{row['accuracy_other_scales']:.3f}"),
    ("Square", lambda row: f"{row['accuracy_square']:.3f}"),
    ("SPSA", lambda row: number(row["accuracy_spsa"], ".3f")),
    ("found by black boxes alone", lambda row: f"{row['accuracy'] - row['accuracy_black_box']:.3f}"),
]
_VERDICTS: list[Column] = [
    ("model", lambda row: row["model"]),
    ("evidence", lambda row: "conclusive" if row["conclusive"] else "**not conclusive**"),
    (
        "failed or not run",
        lambda row: "; ".join(check["check"] for check in row["verdicts"] if check["result"] != "passed"),
    ),
]
