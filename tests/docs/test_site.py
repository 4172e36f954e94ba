"""The documentation builds without a warning, needs nothing from the internet, and no link in it is broken."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from doc_pages import DOCS, PAGES, ROOT, anchors, links, name_of

pytest.importorskip("mkdocs", reason="scripts/setup.sh installs the tools of the documentation")


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, as `mkdocs build --strict` makes it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder, warnings = tmp_path_factory.mktemp("site"), Warnings()
    log = logging.getLogger("mkdocs")
    log.addHandler(warnings)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    except SystemExit:
        pytest.fail("; ".join(warnings.told))
    finally:
        log.removeHandler(warnings)
    assert warnings.told == []
    return folder


class Requests(HTMLParser):
    """What a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        wanted = {"link": ("href",), "a": ()}.get(tag, ("src", "srcset", "data", "poster"))
        self.found += [value for name, value in attributes if name in wanted and value]


def test_every_page_is_built(site: Path) -> None:
    assert {page.stem for page in DOCS} <= {file.stem for file in site.glob("*.html")}
    assert (site / "results" / "index.html").is_file()
    assert "MarginTable" in (site / "api.html").read_text(encoding="utf-8")


def test_no_page_asks_the_internet_for_anything(site: Path) -> None:
    for file in site.rglob("*.html"):
        requests = Requests()
        requests.feed(file.read_text(encoding="utf-8"))
        assert not [target for target in requests.found if re.match(r"(https?:)?//", target)], file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", file.read_text(encoding="utf-8")), file.name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """On a code host, too, which shows the pages as they are."""
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_figures_are_small() -> None:
    figures = list((ROOT / "docs" / "figures").iterdir())
    assert figures
    assert all(file.stat().st_size < 150_000 for file in figures)
