"""An audit's manifest: what it asks and what took part, so that a folder never mixes the results of two audits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunet_ima.evidence.schema import SCHEMA
from nnunet_ima.files import read_json, write_atomically

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
        OSError: it is that of another release.
    """
    manifest = folder / MANIFEST
    stored = read_json(manifest, damaged="choose another folder with --output")
    whole = isinstance(stored, dict) and isinstance(stored.get("question"), dict)
    if (
        not whole
        or not isinstance(entries := stored.get("provenance"), list)
        or not all(isinstance(entry, dict) for entry in entries)
    ):
        msg = f"{manifest} is no manifest of an audit; choose another folder with --output"
        raise ValueError(msg)
    found: dict[str, Any] = stored
    if found.get("schema") != SCHEMA:
        raise other_release(manifest, found.get("schema"))
    return found


def claim(folder: Path, question: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Write the manifest of a new audit, or what a later start adds to it; see `store.Store`.

    Raises:
        ValueError: the folder holds another audit.
        OSError: it cannot be written, or holds an audit of another release.
    """
    if not (folder / MANIFEST).is_file():
        _write(folder, {"schema": SCHEMA, "question": question, "provenance": [provenance]})
        return
    stored = read_manifest(folder)
    known, keys = stored["question"], {*stored["question"], *question}
    differing = sorted(key for key in keys if not _goes_on(folder, key, known.get(key), question.get(key)))
    if differing:
        msg = (
            f"{folder} holds an audit with other {', '.join(differing)}; start with the former arguments to go "
            "on with it, or choose another folder with --output"
        )
        raise ValueError(msg)
    if isinstance(models := known.get("models"), dict):
        question = question | {"models": {**models, **question["models"]}}
    stored["question"] = question
    _name(stored, provenance)
    _write(folder, stored)  # whatever it holds: it must be writable, before any work


def name_part(folder: Path, provenance: dict[str, Any]) -> None:
    """Name a machine, device or version that takes part, once."""
    stored = read_manifest(folder)
    if _name(stored, provenance):
        _write(folder, stored)


def other_release(file: Path, schema: Any) -> OSError:
    """The error of a file whose records have another version, or none."""
    release = "an earlier release" if schema is None else f"a release whose records have the version {schema!r}"
    msg = f"{file} was written by {release}; choose another folder with --output, or go on with that release"
    return OSError(msg)


def as_text(content: dict[str, Any]) -> str:
    """JSON as an audit's files hold it."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _goes_on(folder: Path, key: str, known: Any, asked: Any) -> bool:
    """Whether what is asked now under a key is what was asked before, or a lawful change of it."""
    if known == asked:
        return True
    if not (isinstance(known, dict) and isinstance(asked, dict)):
        return False
    if key == "models":  # no name stands for two
        return all(known[name] == asked[name] for name in known.keys() & asked.keys())
    if key == "cases":  # the same but for the files of some that have no results
        changed = {name for name in asked if asked[name] != known.get(name)}
        return known.keys() == asked.keys() and changed.isdisjoint(_with_results(folder))
    return False


def _with_results(folder: Path) -> set[str]:
    """Cases of which any model has a result."""
    return {found.name for found in folder.glob("results/*/*") if any(found.rglob("*.json"))}


def _name(stored: dict[str, Any], provenance: dict[str, Any]) -> bool:
    """Add who takes part; tells whether that is new."""
    if new := provenance not in stored["provenance"]:
        stored["provenance"].append(provenance)  # every machine and version that took part is named
    return new


def _write(folder: Path, stored: dict[str, Any]) -> None:
    write_atomically(folder / MANIFEST, as_text(stored))
