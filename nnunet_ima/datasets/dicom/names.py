"""Names of cases that tell nothing about the patient."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from nnunet_ima.datasets.dicom.headers import PATIENT, SERIES, Header

SEPARATORS = r"[\^,\s_\-=\\./]+"
# Files name their character set, often wrongly; a word that comes of a wrong one does no harm.
CODECS = (
    *("utf-8", "cp1252", *(f"iso8859_{part}" for part in range(2, 10))),
    *("iso2022_jp_2", "iso2022_kr", "shift_jis", "euc_kr", "gb18030", "tis_620"),
)
SHORTEST = 3  # characters of a part of a name that tells who it is; two where they are no Latin letters


def identifying_words(headers: Iterable[Header]) -> frozenset[str]:
    """Parts of the names, ids and birth dates of the patients in some files, folded for `tells_patient`."""
    words = set()
    for text in {header.tags[tag] for header in headers for tag in PATIENT if header.text(tag)}:
        for codec in CODECS:
            decoded = _folded(text.encode("utf-8", "surrogateescape").decode(codec, "ignore").strip(" \0"))
            words |= {part for part in re.split(SEPARATORS, decoded) if _tells(part)}
            words |= {whole for whole in (re.sub(SEPARATORS, "", decoded),) if _tells(whole)}
    return frozenset(words)


def tells_patient(text: str, words: Iterable[str]) -> bool:
    """Whether a text holds one of the words, in whatever case, with or without accents and separators."""
    folded = _folded(text)
    squeezed = re.sub(SEPARATORS, "", folded)
    return any(word in folded or word in squeezed for word in words)


def pseudonym(headers: Iterable[Header]) -> str:
    """Name of a case, from the SeriesInstanceUID of its first series."""
    uid = next(iter(headers)).text(SERIES)
    return f"series-{hashlib.sha256(uid.encode()).hexdigest()[:10]}"


def pseudonym_of_file(file: Path) -> str:
    """Name of what has no SeriesInstanceUID that could be read, from the file's content."""
    try:
        content = file.read_bytes()
    except OSError:  # it will be refused for that
        content = b""
    return f"file-{hashlib.sha256(content).hexdigest()[:10]}"


def _tells(part: str) -> bool:
    return len(part) >= (SHORTEST if part.isascii() else SHORTEST - 1)


def _folded(text: str) -> str:
    """Without accents and case; composed and decomposed letters are the same."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()
