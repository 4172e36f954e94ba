"""Reports as Markdown that a terminal shows well too."""

from __future__ import annotations

from urllib.parse import quote

from nnunet_ima.report.document import Block, Bullets, Chart, Document, Light, Picture, Table, Text, Viewer


def markdown(document: Document) -> str:
    """Return a report as Markdown; volumes, which it cannot show, are left out."""
    parts = [f"# {document.title}", *map(_block, document.lead)]
    for section in document.sections:
        parts += [f"## {section.title}", *map(_block, section.blocks)]
    return "\n\n".join(part for part in parts if part)


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return block.text.replace("* ", "\\* ", 1) if block.text.startswith("* ") else block.text
    if isinstance(block, Light):
        return f"**{block.word}.** {block.sentence}"
    if isinstance(block, Bullets):
        return "\n".join([*([f"{block.lead}\n"] if block.lead else []), *(f"- {item}" for item in block.items)])
    if isinstance(block, Table):
        return _table(block)
    picture = block.file if isinstance(block, Picture) else block.picture if isinstance(block, Chart) else None
    if picture is not None:
        return f"![{picture.name}]({quote(picture.name)})"
    assert isinstance(block, Viewer | Chart)
    return ""


def _table(table: Table) -> str:
    """A table whose columns are as wide as their longest cell."""
    cells = [[_safe(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _safe(cell: str) -> str:
    """Text that neither a line break nor a bar of its own drives out of its cell."""
    return " ".join(cell.split()).replace("|", "\\|")
