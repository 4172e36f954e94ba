"""Results of an audit on disk: one JSON per measurement, whole or not at all, so that an audit can go on anywhere."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.evidence.lock import LOCK, FolderLock
from nnunet_ima.evidence.manifest import MANIFEST, as_text, claim, name_part, other_release, read_manifest
from nnunet_ima.evidence.schema import SCHEMA, from_json, to_json
from nnunet_ima.evidence.scratch import scratch_in, sweep
from nnunet_ima.files import atomic_file, check_name, read_json, write_atomically

R = TypeVar("R")
TRIES = 100  # to write into a folder that others may remove as soon as it is empty


def level_key(eps: float) -> str:
    """Return a noise level as it stands in names: 5 is "5", 0.1 is "0.1", and levels that differ have other names."""
    short = f"{eps:g}"
    return short if float(short) == eps else repr(float(eps)).removesuffix(".0")


class Store:
    """A folder that holds the results of one audit and refuses those of another.

    Several processes may work in it at the same time. Nothing outside of it is written or removed.

    Attributes:
        folder: holds manifest.json, results/, noise/ (of cases in work) and whatever else the audit puts there.
    """

    def __init__(self, folder: Path, question: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Open a folder, new or left by an earlier start.

        Args:
            folder: made if it does not exist.
            question: what decides all numbers; JSON values. What only decides which of them are wanted, such as noise
                levels, does not belong here: an audit grows. Its "models" may be others than those of an earlier start
                as long as each name stands for the same one. The hash of one of its "cases" may be another as long as
                there is no result of that case: its files were broken, and are repaired.
            provenance: what may explain them besides: versions, device; JSON values.

        Raises:
            ValueError: the folder holds another audit, or something else.
            OSError: the folder cannot be written, or holds an audit of another release.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MANIFEST).is_file() and any(
            not entry.name.startswith(f".{MANIFEST}")  # left by a kill
            for entry in folder.iterdir()
        ):
            msg = f"{folder} holds other files; choose an empty folder with --output"
            raise ValueError(msg)
        self._lock = FolderLock(folder)
        question, self._provenance = json.loads(json.dumps([question, provenance]))
        with self.alone():
            claim(folder, question, self._provenance)
        sweep(folder)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other processes from writing the manifest or the report; see `FolderLock.held`."""
        return self._lock.held()

    @classmethod
    def joined(cls, folder: Path) -> Store:
        """Open a folder for a helper of the process that keeps its manifest; nothing is checked or written.

        Raises:
            FileNotFoundError: there is no audit.
        """
        store = cls.__new__(cls)
        store.folder = folder
        store.path()
        return store

    def question(self) -> dict[str, Any]:
        """What decides all numbers, as the manifest has it."""
        found: dict[str, Any] = read_manifest(self.folder)["question"]
        return found

    def took_part(self, environment: dict[str, Any]) -> None:
        """Name a machine or device that helps, in the manifest.

        Args:
            environment: in what its provenance differs from that of this process; JSON values.
        """
        with self.alone():
            self.path(MANIFEST)
            name_part(self.folder, self._provenance | json.loads(json.dumps(environment)))

    def path(self, *parts: str) -> Path:
        """Return where something is kept in the folder.

        Raises:
            ValueError: a part is no name.
            OSError: a link leads out of the folder, or the folder is no longer that of the audit.
        """
        where, linked = os.fspath(self.folder), False
        for part in parts:
            where = f"{where}{os.sep}{check_name(part, self.folder)}"
            linked = linked or _is_link(where)
        # without a link nothing leads out; to resolve each path would take as long as to read a record
        if linked and not Path(target := os.path.realpath(where)).is_relative_to(os.path.realpath(self.folder)):
            msg = f"{where} leads out of the audit's folder, to {target}; remove the link"
            raise OSError(msg)
        if not os.path.isfile(os.path.join(self.folder, MANIFEST)):
            msg = f"{self.folder / MANIFEST} is gone: the folder was removed during the audit; start it again"
            raise FileNotFoundError(msg)
        return Path(where)

    def get(self, kind: type[R], *place: str, given: Sequence[str] = ()) -> R | None:
        """Return a result; None if there is none, or a damaged one, which is told and removed: it is to be made again.

        Args:
            kind: of record; see `schema.from_json`.
            place: model, case and measurement.
            given: what it must have been built upon; a result built upon something else counts as none.

        Raises:
            OSError: it was written by another release.
        """
        file = self._file(place)
        try:
            content = read_json(file)
            if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
                raise ValueError("no result of an audit")
            if content["schema"] != SCHEMA:
                raise other_release(file, content["schema"])
            found = from_json(kind, content)
        except FileNotFoundError:
            return None
        except ValueError:
            _tell_damaged(file)
            return None
        return found if content.get("given", []) == list(given) else None

    def put(self, result: R, *place: str, given: Sequence[str] = ()) -> R:
        """Keep a result; returns it as it is read back.

        Args:
            result: a record; see `schema.to_json`.
            place: model, case and measurement.
            given: what it is built upon, in words.

        Raises:
            ValueError: it holds a number that is not finite.
        """
        content = to_json(result)
        if bad := sorted(_not_finite(content)):
            model, *what = place
            msg = (
                f"{' '.join(what)} of the model {model} is not a finite number ({', '.join(bad)}); look for extreme "
                "values in the image and in the model's weights"
            )
            raise ValueError(msg)
        kept = from_json(type(result), json.loads(json.dumps(content)))
        file = self._file(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        built = {"given": list(given)} if given else {}
        write_atomically(file, as_text({"schema": SCHEMA, **content, **built}))
        return kept

    def put_noise(self, noise: Tensor, *place: str) -> None:
        """Keep noise, or another array, exactly, until its case is finished."""
        for attempt in range(TRIES):
            file = self._noise(place)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(file) as stream:
                    np.save(stream, noise.cpu().numpy())
            except (FileNotFoundError, FileExistsError):  # another process has removed the folder, which was empty
                if attempt == TRIES - 1:
                    raise
            else:
                return

    def get_noise(self, *place: str) -> Tensor | None:
        """Return noise that `put_noise` has kept; None if there is none, or only a damaged file; see `get`."""
        file = self._noise(place)
        try:
            return torch.from_numpy(np.load(file))
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, TypeError, OverflowError, MemoryError):  # the last two: a damaged shape
            _tell_damaged(file)
            return None

    def drop_noise(self, *place: str) -> None:
        """Remove all noise of a model and case."""
        noise, of_case = self.folder / "noise", self.path("noise", *place)
        if not noise.exists():
            return
        shutil.rmtree(of_case, ignore_errors=True)
        for folder in (noise / place[0], noise):
            with suppress(OSError):  # it holds noise of other cases
                folder.rmdir()

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder for files that are needed for a moment; a later start removes those of killed processes."""
        return scratch_in(self.path())

    def release(self) -> None:
        """Give the folder back if there is nothing in it but empty folders."""
        manifest, below = self.folder / MANIFEST, sorted(self.folder.rglob("*"), reverse=True)
        if {entry for entry in below if not entry.is_dir()} <= {manifest, self.folder / LOCK}:
            for file in (manifest, self.folder / LOCK):
                file.unlink(missing_ok=True)
            for folder in below:
                with suppress(OSError):
                    folder.rmdir()

    def _file(self, place: Sequence[str]) -> Path:
        return self.path("results", *place[:-1], f"{place[-1]}.json")

    def _noise(self, place: Sequence[str]) -> Path:
        return self.path("noise", *place[:-1], f"{place[-1]}.npy")


def sha256(files: Sequence[Path]) -> str:
    """Hash of the contents of some files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):  # hashlib.file_digest needs Python 3.11
                digest.update(block)
    return digest.hexdigest()


def _tell_damaged(file: Path) -> None:
    file.unlink(missing_ok=True)
    tqdm.write(f"{file} is damaged; it is measured again", file=sys.stderr)


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Names of the numbers in JSON values that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name} = {value}"
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, entry in entries:
        yield from _not_finite(entry, f"{name} {key}".strip())


def _is_link(path: str) -> bool:
    """Whether a path leads elsewhere; one that does not exist leads nowhere."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode) or bool(getattr(found, "st_reparse_tag", 0))  # the latter: Windows' junctions
