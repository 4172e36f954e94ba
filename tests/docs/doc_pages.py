"""The pages of the documentation as tests read them: links, blocks of code, commands, tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")), *DOCS]


class Block(NamedTuple):
    """A fenced block of code.

    Attributes:
        language: such as "bash".
        title: behind the language, "" for none.
        text: between the fences.
    """

    language: str
    title: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[Block]:
    fenced = re.findall(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', page.read_text(encoding="utf-8"), re.M | re.S)
    found = [Block(*parts) for parts in fenced]
    return [block for block in found if language in (None, block.language)]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def links(page: Path) -> list[str]:
    """Targets of links and figures."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """Names of a page's headings in links."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's bash blocks, without comments and variables before it."""
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"\w+=", words[0]):
                del words[0]
            if words:
                yield words


def rows(page: Path) -> list[list[str]]:
    """Cells of the lines of all tables."""
    found = re.findall(r"^\|(.*)\|$", page.read_text(encoding="utf-8"), re.M)
    return [[cell.strip() for cell in row.split("|")] for row in found]
