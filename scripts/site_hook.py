"""A hook of mkdocs.yml: pages may link to files beside docs/, so that one link serves the site and a code host."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
IN_NAV = ("CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")
MORE = ("LICENSE", "plans/*.json", "results/**/*.*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add these files under the names by which pages link to them, such as ../results/README.md."""
    found = {path for pattern in (*IN_NAV, *MORE) for path in ROOT.glob(pattern)}
    for path in sorted(found):
        name = path.relative_to(ROOT).as_posix()
        level = InclusionLevel.INCLUDED if name in IN_NAV else InclusionLevel.NOT_IN_NAV
        file = File.generated(config, f"../{name}", abs_src_path=str(path), inclusion=level)
        file.dest_uri = file.dest_uri.removeprefix("../")  # inside the site, not beside it
        files.append(file)
    return files
