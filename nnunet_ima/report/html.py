"""Reports as one HTML file that needs nothing else: scripts, figures and volumes are inside."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nnunet_ima.report.document import Block, Chart, Document, Shown, Viewer

WEB = files("nnunet_ima.report") / "web"
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def html(document: Document) -> str:
    """Return a report as an HTML page.

    Text is escaped by the template engine, whatever a case is called; data for scripts are JSON in which no tag can
    begin. Scripts are only put in where a block needs them.

    Raises:
        FileNotFoundError: a picture is missing.
    """
    environment = Environment(
        loader=PackageLoader("nnunet_ima.report", "web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bold": _bold, "picture": _picture, "json": _json}
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    blocks = [*document.lead, *(block for section in document.sections for block in section.blocks)]
    page: str = environment.get_template("page.html.j2").render(
        document=document,
        cases=_cases(blocks),
        style=Markup(_asset("page.css")),
        script=Markup(_asset("page.js")),
        plotly=Markup(_asset("plotly-basic.min.js")) if any(isinstance(it, Chart) for it in blocks) else "",
        niivue=Markup(_asset("niivue.umd.js")) if any(isinstance(it, Viewer) for it in blocks) else "",
    )
    return page


def _asset(name: str) -> str:
    """A script or style of our own package, which ends no element that it stands in."""
    text = (WEB / name).read_text(encoding="utf-8")
    return re.sub(r"</(?=script|style)", r"<\\/", text, flags=re.IGNORECASE)


def _visible(text: str) -> str:
    """Text in which characters that would turn around what follows, or hide, are told by their numbers."""
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def _bold(text: str) -> Markup:
    """Text whose parts between ** are bold; all else is escaped."""
    parts = re.split(r"\*\*(.+?)\*\*", _visible(text), flags=re.DOTALL)
    shown = [Markup("<strong>{}</strong>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)]
    return Markup("").join(shown)


def _picture(file: Path) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{b64encode(Path(file).read_bytes()).decode()}"


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element: nothing in it can be taken for a tag."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _cases(blocks: list[Block]) -> list[Mapping[str, Any]]:
    """All cases to look into, as the page's script wants them."""
    return [_case(shown) for block in blocks if isinstance(block, Viewer) for shown in block.cases]


def _case(shown: Shown) -> Mapping[str, Any]:
    def as_text(value: Any) -> Any:
        if isinstance(value, bytes):
            return b64encode(value).decode()
        if isinstance(value, str):
            return _visible(value)
        if isinstance(value, dict):
            return {key: as_text(entry) for key, entry in value.items()}
        return [as_text(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    case: Mapping[str, Any] = as_text(asdict(shown))
    return case
