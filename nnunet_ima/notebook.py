"""Audits from a notebook: the command as a function, and what an audit has found as tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ima.files import read_json

NAMES = dict.fromkeys(("model", "case", "image", "attack", "worst_case", "worst_component"), str)
"""Columns that stay text, whatever they look like: a case may be called 007."""

PathText = str | PathLike[str]


@dataclass(frozen=True)
class Picture:
    """A PNG file that a notebook shows when it is the value of a cell."""

    file: Path

    def _repr_png_(self) -> bytes:
        return self.file.read_bytes()


@dataclass(frozen=True)
class Audit:
    """What an audit has found.

    Attributes:
        folder: of the audit.
        conclusive: whether every check of the evidence passed and nothing is missing.
        rows: a line for each model, attack and ε: means, intervals, worst cases.
        cases: a line for each model, case (or image), attack and ε.
        margins: a line for each model and case, with the ε at which it fails; NaN: it stands all noise that was tried.
        verdicts: a line for each model and check of the evidence.
        failed: cases that could not be measured, and why.
        figures: pictures by name, such as "dice".
        summary: all of the statistics, as in summary.json.
    """

    folder: Path
    conclusive: bool
    rows: pd.DataFrame
    cases: pd.DataFrame
    margins: pd.DataFrame
    verdicts: pd.DataFrame
    failed: pd.DataFrame
    figures: Mapping[str, Picture]
    summary: Mapping[str, Any]

    @property
    def dossier(self) -> Path:
        """The page to read, to look into and to file."""
        return self.folder / "dossier.html"

    def _repr_html_(self) -> str:
        word = "Conclusive." if self.conclusive else "<b>NOT CONCLUSIVE</b>: see <code>verdicts</code>."
        told: str = self.rows.dropna(axis=1, how="all").to_html(index=False, float_format="{:.3f}".format)
        return f"<p>{escape(str(self.folder))}: {word}</p>{told}"


def audit(
    model: PathText | Sequence[PathText],
    images: PathText | None = None,
    labels: PathText | None = None,
    *,
    eps: float | Sequence[float] | None = None,
    attack: str | Sequence[str] = ("pgd",),
    output: PathText = "nnunet-ima-audit",
    **options: Any,
) -> Audit:
    """Measure how much noise a trained nnU-Net model stands, as `nnunet-ima-attack` does.

    What the output folder holds already is not measured again: the same call goes on after an interruption, and one
    with more levels or attacks measures what is new.

    >>> import nnunet_ima
    >>> found = nnunet_ima.audit(
    ...     model, images, labels, eps=0.3, eps_unit="rms", attack="fgsm", no_margins=True, no_tta=True, output=output
    ... )  # doctest: +ELLIPSIS
    # Robustness audit
    ...
    >>> found.rows[["model", "attack", "eps"]].values.tolist()
    [['stock', 'clean', 0.0], ['stock', 'fgsm', 0.3]]
    >>> bool(found.rows.mean_dice[1] < found.rows.mean_dice[0])
    True
    >>> sorted(found.figures)
    ['dice', 'worst_case_stock']
    >>> found.dossier.name
    'dossier.html'

    Args:
        model: results folder of the model, or of several models that are to be compared with the first.
        images: folder of own images, as nnU-Net names them; None: the validation cases of the model's own data set.
        labels: folder of their labels.
        eps: noise levels; None: those of the task.
        attack: one or several.
        output: folder of the results.
        **options: every other option of the command by its name, with _ for -: `eps_unit="rms"`, `limit=12`.

    Raises:
        ValueError: an input is wrong, as the command says it.
        FileNotFoundError: a file or folder is missing.
        TypeError: there is no such option.
    """
    from nnunet_ima.commands.attack import Attack

    known = {field.name for field in fields(Attack)} - {"dry_run", "lock", "require"}  # those end otherwise
    if unknown := sorted(options.keys() - known):
        msg = f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        raise TypeError(msg)
    several = tuple(map(Path, [model] if isinstance(model, str | PathLike) else model))
    levels = None if eps is None else (eps,) if isinstance(eps, int | float) else tuple(eps)
    Attack(
        model=several,
        images=None if images is None else Path(images),
        labels=None if labels is None else Path(labels),
        eps=None if levels is None else tuple(map(float, levels)),
        attack=(attack,) if isinstance(attack, str) else tuple(attack),
        output=Path(output),
        **options,
    ).run()
    return load_audit(output)


def load_audit(folder: PathText) -> Audit:
    """Read what an audit has found, of segmentation models or of classifiers.

    Args:
        folder: that `nnunet-ima-attack` or `nnunet-ima-classify compare` has written.

    Raises:
        FileNotFoundError: no audit has ended there.
        ValueError: its files are damaged.
    """
    folder = Path(folder)
    way_out = "run the audit's command to its end: what it has measured is kept"
    summary = read_json(folder / "summary.json", missing=f"no audit has ended there; {way_out}", damaged=way_out)
    try:
        margins = [
            {"model": entry["model"], "case": case, "eps": eps, "threshold": entry["threshold"]}
            for entry in summary.get("margins", ())
            for case, eps in entry["values"].items()
        ]
        return Audit(
            folder=folder,
            conclusive=bool(summary["conclusive"]),
            rows=_table(folder / "summary.csv", way_out),
            cases=_table(folder / "cases.csv", way_out),
            margins=pd.DataFrame(margins, columns=["model", "case", "eps", "threshold"]).astype({"eps": float}),
            verdicts=pd.DataFrame(summary["verdicts"]),
            failed=pd.DataFrame(summary["failed"], columns=["model", "case", "error"]),
            figures={file.stem: Picture(file) for file in sorted(folder.glob("*.png"))},
            summary=summary,
        )
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"{folder / 'summary.json'} is no summary of this release ({error!r}); {way_out}"
        raise ValueError(msg) from error


def _table(file: Path, way_out: str) -> pd.DataFrame:
    """A CSV file; names stay text."""
    if not file.is_file():
        msg = f"{file} does not exist; {way_out}"
        raise FileNotFoundError(msg)
    try:
        return pd.read_csv(file, dtype=NAMES, keep_default_na=False, na_values=[""])  # "NA" may be a name
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        msg = f"{file} is damaged ({error}); {way_out}"
        raise ValueError(msg) from error
