"""A report as content: sections of text, tables, figures and volumes, whatever it will be rendered as.

Text may hold **bold** parts; all else in it is shown as it stands, whatever a case is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
"""Heading, and a row's cell."""


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: without line breaks that mean something.
        tone: "plain"; "note", for what explains; "warning", for what must not be overlooked.
    """

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Light:
    """A traffic light that tells its colour in a word, too.

    Attributes:
        colour: "green", "amber", "red" or "grey".
        word: what it means.
        sentence: for a layman.
    """

    colour: str
    word: str
    sentence: str


@dataclass(frozen=True)
class Bullets:
    """A list, with a sentence before it."""

    items: tuple[str, ...]
    lead: str = ""


@dataclass(frozen=True)
class Table:
    """Cells by rows, all of them text.

    Attributes:
        head: headings of the columns.
        rows: cells of each row.
        key: what a browser finds the table by; "" for nothing.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    key: str = ""

    @classmethod
    def of(cls, rows: Sequence[Row], columns: Sequence[Column], key: str = "") -> Table:
        """Make a table of rows of values."""
        head = tuple(title for title, _ in columns)
        return cls(head, tuple(tuple(cell(row) for _, cell in columns) for row in rows), key)


@dataclass(frozen=True)
class Picture:
    """A PNG file with what it shows in words."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Chart:
    """Curves that a reader can query, and a picture of them where nothing moves.

    Attributes:
        figure: {"data": [...], "layout": {...}} as Plotly wants them; JSON values.
        caption: what it shows.
        picture: the same as a PNG; None if there is none.
    """

    figure: Mapping[str, Any]
    caption: str
    picture: Path | None = None


@dataclass(frozen=True)
class Layer:
    """Volumes at one noise level: NIfTI files, compressed.

    Attributes:
        eps: noise level.
        attack: that found the noise.
        dice: under it.
        noise: on the grid of the image, in `Shown.unit`.
        predicted: label map under the noise.
    """

    eps: float
    attack: str
    dice: float
    noise: bytes
    predicted: bytes


@dataclass(frozen=True)
class Shown:
    """A case to look into; all volumes lie on one grid, as compressed NIfTI files.

    Attributes:
        model: name of the model.
        case: name of the case.
        dice: without noise.
        image: in raw units.
        label: true label map.
        clean: label map predicted without noise.
        fragility: smallest noise level at which a voxel's prediction changes, 0: none; None if it is not known.
        unit: of the noise.
        layers: by rising noise level.
        note: what a viewer should know, such as that the volume was cropped.
    """

    model: str
    case: str
    dice: float
    image: bytes
    label: bytes
    clean: bytes
    fragility: bytes | None
    unit: str
    layers: tuple[Layer, ...]
    note: str = ""


@dataclass(frozen=True)
class Viewer:
    """Cases to look into, worst first."""

    cases: tuple[Shown, ...]
    note: str = ""


Block = Text | Light | Bullets | Table | Picture | Chart | Viewer


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]
    key: str = ""


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: of it all.
        lead: what stands before the first section.
        sections: in their order.
    """

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...] = field(default=())
