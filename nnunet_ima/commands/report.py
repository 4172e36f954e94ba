"""`nnunet-ima-report`: the dossier of an audit, again, with what only its user can say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nnunet_ima.commands._run import check_output, run_cli
from nnunet_ima.files import write_atomically

PROGRAM = "nnunet-ima-report"


@dataclass(kw_only=True)
class Report:
    """Write the dossier of a finished audit: one HTML file that opens in any browser, without a network.

    It needs the audit's folder alone, neither models nor images. Several audits are put side by side by
    nnunet-ima-report compare AUDIT AUDIT ...
    """

    audit: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder that nnunet-ima-attack has written."""

    about: Path | None = None
    """What only you can say, such as intended use, patients, acceptable Dice; --new-about writes the questions."""

    strata: Path | None = None
    """CSV with the column case and others such as site, scanner, sex: results are told for each group, too."""

    shown: int | None = None
    """Look into this many cases of each model, the worst ones; by default all that the audit kept. 0: the page holds no
    image of a patient."""

    new_about: bool = False
    """Write about.toml with all questions, to be filled in, and stop."""

    output: Path | None = None
    """HTML file to write; dossier.html in the audit's folder by default. With --new-about the TOML file."""

    def run(self) -> None:
        """Read, check, write."""
        if self.new_about:
            self._ask()
            return
        if self.audit is None:
            msg = "name the folder of an audit, or write the questions with --new-about"
            raise ValueError(msg)
        from nnunet_ima.report.about import NOTHING_SAID, read_about
        from nnunet_ima.report.dossier import dossier
        from nnunet_ima.report.html import html
        from nnunet_ima.report.material import read_material
        from nnunet_ima.report.strata import read_strata

        if self.shown is not None and self.shown < 0:
            msg = f"--shown must be at least 0, got {self.shown}"
            raise ValueError(msg)
        file = self.output or self.audit / "dossier.html"
        if file.is_dir():
            msg = f"--output {file} is a folder; name an HTML file"
            raise ValueError(msg)
        check_output(file.parent)
        about = NOTHING_SAID if self.about is None else read_about(self.about)
        strata = None if self.strata is None else read_strata(self.strata)
        material = read_material(self.audit)
        if self.shown is not None:
            material = material.fewer(self.shown)
        write_atomically(file, html(dossier(material, about, strata)))
        print(file)

    def _ask(self) -> None:
        from nnunet_ima.report.about import template

        file = self.output or Path("about.toml")
        if file.exists():
            msg = f"{file} exists; choose another file with --output, so that nothing is lost"
            raise FileExistsError(msg)
        check_output(file.parent)
        write_atomically(file, template())
        print(f"{file}: fill it in, then {PROGRAM} AUDIT --about {file}")


@dataclass(kw_only=True)
class Compare:
    """Put audits side by side on one page.

    Only audits of the same cases with the same attacks share a table; what cannot be ranked is not.
    """

    audits: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that nnunet-ima-attack has written, or their card.json files."""

    output: Path = Path("leaderboard.html")
    """HTML file to write."""

    def run(self) -> None:
        """Read all cards, then write."""
        from nnunet_ima.report.cards import leaderboard, read_cards
        from nnunet_ima.report.html import html

        if not self.audits:
            msg = "name the folders of audits"
            raise ValueError(msg)
        if self.output.is_dir():
            msg = f"--output {self.output} is a folder; name an HTML file"
            raise ValueError(msg)
        check_output(self.output.parent)
        entries = [(_name(audit), card) for audit in self.audits for card in read_cards(audit)]
        write_atomically(self.output, html(leaderboard(entries)))
        print(self.output)


def _name(audit: Path) -> str:
    """Name of an audit's folder."""
    return (audit if audit.is_dir() else audit.parent).resolve().name


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["compare"]:
        run_cli(f"{PROGRAM} compare", Compare, arguments[1:])
    else:
        run_cli(PROGRAM, Report, arguments)


if __name__ == "__main__":
    main()
