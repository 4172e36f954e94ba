"""Results of an audit on disk: one JSON per measurement, whole or not at all, so that an audit can go on anywhere."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.evidence.schema import SCHEMA, from_json, to_json
from nnunet_ima.files import atomic_file, check_name, read_json, write_atomically

R = TypeVar("R")
MANIFEST = "manifest.json"
LOCK = f".{MANIFEST}.lock"
WAIT = 600.0  # seconds for another process that writes the manifest or the report
SCRATCH = ".stored-"
DAY = 86400.0  # seconds
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
        self._lock = FileLock(folder / LOCK, timeout=WAIT)
        question, self._provenance = json.loads(json.dumps([question, provenance]))
        with self.alone():
            self._claim(question)
        self._sweep()

    def _claim(self, question: dict[str, Any]) -> None:
        """Write the manifest, or what this start adds to it."""
        folder, provenance = self.folder, self._provenance
        manifest = folder / MANIFEST
        if not manifest.is_file():
            write_atomically(manifest, _dumps({"schema": SCHEMA, "question": question, "provenance": [provenance]}))
            return
        stored = _read_manifest(manifest)
        known = stored["question"]
        same = {"models": _compatible, "cases": self._repaired}
        differing = sorted(
            key
            for key in {*known, *question}
            if (former := known.get(key)) != (now := question.get(key)) and not (key in same and same[key](former, now))
        )
        if differing:
            msg = (
                f"{folder} holds an audit with other {', '.join(differing)}; start with the former arguments to go "
                "on with it, or choose another folder with --output"
            )
            raise ValueError(msg)
        stored["question"] = question
        if isinstance(models := known.get("models"), dict):
            question["models"] = {**models, **question["models"]}
        if provenance not in stored["provenance"]:
            stored["provenance"].append(provenance)  # every machine and version that took part is named
        write_atomically(manifest, _dumps(stored))  # writable, before any work

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from writing the manifest or the report; they wait.

        The system gives the lock of a process that dies to the next one, over a network where its file system can lock
        files (NFS 4, SMB). Where one cannot, nobody waits: start two commands on one folder one after the other there.

        Raises:
            TimeoutError: another process has not come to an end.
        """
        try:
            self._lock.acquire()
        except Timeout:
            msg = f"another process has been writing into {self.folder} for {WAIT:.0f} s; wait for it, or stop it"
            raise TimeoutError(msg) from None
        except NotImplementedError:
            yield
            return
        try:
            yield
        finally:
            self._lock.release()

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
        found: dict[str, Any] = _read_manifest(self.folder / MANIFEST)["question"]
        return found

    def took_part(self, environment: dict[str, Any]) -> None:
        """Name a machine or device that helps, in the manifest.

        Args:
            environment: in what its provenance differs from that of this process; JSON values.
        """
        with self.alone():
            stored = _read_manifest(self.path(MANIFEST))
            entry = self._provenance | json.loads(json.dumps(environment))
            if entry not in stored["provenance"]:
                stored["provenance"].append(entry)
                write_atomically(self.folder / MANIFEST, _dumps(stored))

    def path(self, *parts: str) -> Path:
        """Return where something is kept in the folder.

        Raises:
            ValueError: a part is no name.
            OSError: a link leads out of the folder, or the folder is no longer that of the audit.
        """
        for part in parts:
            check_name(part, self.folder)
        path = self.folder.joinpath(*parts)
        target = os.path.realpath(path)
        if not Path(target).is_relative_to(os.path.realpath(self.folder)):
            msg = f"{path} leads out of the audit's folder, to {target}; remove the link"
            raise OSError(msg)
        if not (self.folder / MANIFEST).is_file():
            msg = f"{self.folder / MANIFEST} is gone: the folder was removed during the audit; start it again"
            raise FileNotFoundError(msg)
        return path

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
        if not file.is_file():
            return None
        try:
            content = read_json(file)
            if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
                raise ValueError("no result of an audit")
            if content["schema"] != SCHEMA:
                raise _other_release(file, content["schema"])
            found = from_json(kind, content)
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
        write_atomically(file, _dumps({"schema": SCHEMA, **content, **built}))
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
        shutil.rmtree(self.path("noise", *place), ignore_errors=True)
        for folder in (self.path("noise", place[0]), self.path("noise")):
            with suppress(OSError):  # it holds noise of other cases
                folder.rmdir()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for files that are needed for a moment; a later start removes those of killed processes."""
        owner = f"{SCRATCH}{_machine()}-{os.getpid()}-"
        with tempfile.TemporaryDirectory(dir=self.path(), prefix=owner, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

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

    def _repaired(self, known: Any, cases: Any) -> bool:
        """Whether the cases are the same but for the files of some that have no results."""
        if not (isinstance(known, dict) and isinstance(cases, dict) and known.keys() == cases.keys()):
            return False
        return self._with_results().isdisjoint(name for name in cases if cases[name] != known[name])

    def _with_results(self) -> set[str]:
        """Cases of which any model has a result."""
        return {folder.name for folder in self.folder.glob("results/*/*") if any(folder.rglob("*.json"))}

    def _sweep(self) -> None:
        """Remove scratch folders whose processes are gone."""
        for folder in self.folder.glob(f"{SCRATCH}*"):
            owner = re.fullmatch(rf"{re.escape(SCRATCH)}(.+)-(\d+)-[^-]*", folder.name)
            with suppress(OSError):  # another process sweeps, too
                if owner and owner[1] == _machine():
                    stale = int(owner[2]) == os.getpid() or not _alive(int(owner[2]))
                else:  # of another machine, or of release 0.1
                    stale = time.time() - folder.stat().st_mtime > DAY
                if stale:
                    shutil.rmtree(folder, ignore_errors=True)


def _compatible(known: Any, models: Any) -> bool:
    """Whether no name stands for two models."""
    whole = isinstance(known, dict) and isinstance(models, dict)
    return whole and all(known[name] == models[name] for name in known.keys() & models.keys())


def sha256(files: Sequence[Path]) -> str:
    """Hash of the contents of some files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):  # hashlib.file_digest needs Python 3.11
                digest.update(block)
    return digest.hexdigest()


def _read_manifest(manifest: Path) -> dict[str, Any]:
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
        raise _other_release(manifest, found.get("schema"))
    return found


def _other_release(file: Path, schema: Any) -> OSError:
    release = "an earlier release" if schema is None else f"a release whose records have the version {schema!r}"
    msg = f"{file} was written by {release}; choose another folder with --output, or go on with that release"
    return OSError(msg)


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


def _machine() -> str:
    return re.sub(r"\W", "_", platform.node()) or "unknown"


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there is no harmless way to ask
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _dumps(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
