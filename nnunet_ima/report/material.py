"""What a dossier is made of: kept beside an audit's results, so that it can be made again without the models."""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from nnunet_ima.evidence.manifest import MANIFEST
from nnunet_ima.evidence.records import Result
from nnunet_ima.evidence.schema import to_json
from nnunet_ima.evidence.spool import Spool
from nnunet_ima.files import atomic_file, read_json
from nnunet_ima.report.document import Layer, Shown

FILE, SCHEMA = "dossier.json.gz", 4
OF_CASE = (
    *("model", "case", "attack", "eps", "dice", "clean_dice", "dice_per_class", "overlap", "hd95_mm", "nsd"),
    *("volume_error_per_class", "missed"),
)


@dataclass(frozen=True)
class Material:
    """An audit as its dossier needs it.

    Attributes:
        folder: of the audit, which holds its figures.
        summary: see `segmentation.summary.summarise`.
        facts: what was attacked and how, one line each.
        cases: each result, with the fields `OF_CASE`.
        manifest: see `evidence.manifest`.
        shown: volumes of the worst cases.
        note: what was done to them to keep them small.
        pictures: show the pictures of the worst cases.
    """

    folder: Path
    summary: dict[str, Any]
    facts: dict[str, str]
    cases: Sequence[dict[str, Any]]
    manifest: dict[str, Any]
    shown: tuple[Shown, ...]
    note: str
    pictures: bool = True

    def fewer(self, most: int) -> Material:
        """The same with the volumes of at most this many cases of each model, the worst ones; 0: without any image."""
        kept = [
            it for number, it in enumerate(self.shown) if [s.model for s in self.shown[:number]].count(it.model) < most
        ]
        told = (
            f"Shown are the worst cases of each model, {most} at most." if most and len(kept) < len(self.shown) else ""
        )
        return replace(self, shown=tuple(kept), note=f"{told} {self.note}".strip(), pictures=most > 0)

    @property
    def models(self) -> dict[str, Any]:
        """What the manifest says of each model that is reported; others may share the folder."""
        known = self.manifest["question"]["models"]
        return {name: known[name] for name in dict.fromkeys(row["model"] for row in self.summary["rows"])}


def of_case(records: Iterable[Result], folder: Path | None = None) -> Sequence[dict[str, Any]]:
    """Return results as `Material.cases` holds them, on the disk of a folder."""
    return Spool(folder, ({key: to_json(getattr(record, key)) for key in OF_CASE} for record in records))


def write_material(material: Material) -> None:
    """Keep what the folder does not hold elsewhere: a line of all but the cases, then a line for each of these."""
    first = {
        "schema": SCHEMA,
        "facts": material.facts,
        "shown": [_as_json(shown) for shown in material.shown],
        "note": material.note,
        "cases": len(material.cases),
    }
    with (
        atomic_file(material.folder / FILE) as stream,
        gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
    ):
        for line in chain([first], material.cases):
            packed.write(json.dumps(line, allow_nan=False).encode() + b"\n")


def read_material(folder: Path) -> Material:
    """Read what an audit has kept.

    Raises:
        FileNotFoundError: the folder holds no audit, or one by a release that wrote no dossier.
        ValueError: a file is damaged, or of another release.
    """
    way_out = "run the audit's command again: it goes on with what is measured, and writes what is missing"
    summary = read_json(folder / "summary.json", missing="the folder holds no finished audit", damaged=way_out)
    manifest = read_json(folder / MANIFEST, missing="the folder holds no audit", damaged=way_out)
    file = folder / FILE
    if not file.is_file():
        msg = f"{file} is missing; {way_out}"
        raise FileNotFoundError(msg)
    try:
        with gzip.open(file) as stream:
            content = json.loads(stream.readline())
            if content["schema"] != SCHEMA:
                raise ValueError(f"it is of another release, schema {content['schema']!r}, not {SCHEMA}")
            shown = tuple(_from_json(entry) for entry in content["shown"])
            cases: Spool[dict[str, Any]] = Spool(None, map(json.loads, stream))
        if len(cases) != content["cases"]:
            raise EOFError(f"it holds {len(cases)} of {content['cases']} results")
        return Material(folder, summary, content["facts"], cases, manifest, shown, content["note"])
    except (OSError, EOFError, zlib.error, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        msg = f"{file} cannot be read ({error}); {way_out}"
        raise ValueError(msg) from error


def _as_json(part: Shown | Layer) -> dict[str, Any]:
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {
        key: b64encode(value).decode()
        if isinstance(value, bytes)
        else [_as_json(layer) for layer in value]
        if isinstance(value, tuple)
        else value
        for key, value in values.items()
    }


VOLUMES = ("image", "label", "clean", "fragility", "noise", "predicted")


def _from_json(entry: dict[str, Any]) -> Shown:
    layers = tuple(Layer(**_with_bytes(layer)) for layer in entry["layers"])
    return Shown(**_with_bytes({**entry, "layers": layers}))


def _with_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: b64decode(value) if key in VOLUMES and value is not None else value for key, value in entry.items()}
