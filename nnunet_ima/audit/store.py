"""Results of an audit on disk: one JSON per measurement, whole or not at all, so that an audit can go on anywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.files import read_json, write_atomically


class Store:
    """A folder that holds the results of one audit and refuses those of another.

    Attributes:
        folder: holds manifest.json, results/, noise/ (of cases in work) and whatever else the audit puts there.
    """

    def __init__(self, folder: Path, question: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Open a folder, new or left by an earlier start.

        Args:
            folder: made if it does not exist.
            question: what decides the numbers; JSON values.
            provenance: what may explain them besides: versions, device; JSON values.

        Raises:
            ValueError: the folder holds another audit, or something else.
            OSError: the folder cannot be written.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / "manifest.json"
        question = json.loads(json.dumps(question))
        if not manifest.is_file():
            if any(folder.iterdir()):
                msg = f"{folder} holds other files; choose an empty folder with --output"
                raise ValueError(msg)
            write_atomically(manifest, _dumps({"question": question, "provenance": [provenance]}))
            return
        stored = read_json(manifest, damaged="choose another folder with --output")
        if not isinstance(stored, dict) or not {"question", "provenance"} <= set(stored):
            msg = f"{manifest} is no manifest of an audit; choose another folder with --output"
            raise ValueError(msg)
        differing = sorted(
            key for key in {*stored["question"], *question} if stored["question"].get(key) != question.get(key)
        )
        if differing:
            msg = (
                f"{folder} holds an audit with other {', '.join(differing)}; start with the former arguments to go "
                "on with it, or choose another folder with --output"
            )
            raise ValueError(msg)
        if json.loads(json.dumps(provenance)) not in stored["provenance"]:
            stored["provenance"].append(provenance)  # every machine and version that took part is named
        write_atomically(manifest, _dumps(stored))  # writable, before any work

    def get(self, *place: str) -> dict[str, Any] | None:
        """Return a result, or None; `place` is model, case and measurement."""
        file = self._file(place)
        return _read(file) if file.is_file() else None

    def put(self, result: dict[str, Any], *place: str) -> dict[str, Any]:
        """Keep a result; returns it as it is read back."""
        file = self._file(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _dumps(result))
        return _read(file)

    def put_noise(self, noise: Tensor, *place: str) -> None:
        """Keep noise, exactly, until its case is finished."""
        file = self._noise(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.save(stream, noise.cpu().numpy())
        part.replace(file)

    def get_noise(self, *place: str) -> Tensor:
        """Return noise that `put_noise` has kept."""
        return torch.from_numpy(np.load(self._noise(place)))

    def drop_noise(self, *place: str) -> None:
        """Remove all noise of a model and case."""
        shutil.rmtree(self.folder.joinpath("noise", *place), ignore_errors=True)
        noise = self.folder / "noise"
        for folder in (noise.joinpath(place[0]), noise):  # empty folders go too
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _file(self, place: Sequence[str]) -> Path:
        return self.folder.joinpath("results", *place[:-1], f"{place[-1]}.json")

    def _noise(self, place: Sequence[str]) -> Path:
        return self.folder.joinpath("noise", *place[:-1], f"{place[-1]}.npy")


def sha256(files: Sequence[Path]) -> str:
    """Hash of the contents of some files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):  # hashlib.file_digest needs Python 3.11
                digest.update(block)
    return digest.hexdigest()


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(file, damaged="remove it, and the audit measures it again")
    return content


def _dumps(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
