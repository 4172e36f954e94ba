from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dossier_fixtures import make_material

from nnunet_ima.commands.report import main
from nnunet_ima.evidence.findings import Findings
from nnunet_ima.report.cards import FILE, Card, as_text, card_page, leaderboard, make_cards, read_cards
from nnunet_ima.report.html import html
from nnunet_ima.report.markdown import markdown
from nnunet_ima.segmentation.result_rows import WORST
from nnunet_ima.segmentation.settings import Settings


@pytest.fixture
def cards(make_findings: Callable[..., Findings], settings: Settings, tmp_path: Path) -> list[Card]:
    return make_cards(make_material(make_findings(), settings, tmp_path))


def test_a_card_says_what_the_audit_found(cards: list[Card]) -> None:
    weak, hard = cards
    assert [it.eps for it in weak.levels] == [0, 1, 5]
    assert [it.mean for it in weak.levels] == pytest.approx([0.88, 0.78, 0.38])
    assert (weak.cases, weak.attacks, weak.conclusive, weak.norm, weak.unit) == (3, ("pgd",), True, "L2", "paper")
    assert weak.median_margin == pytest.approx(3.8)
    assert hard.median_margin is None
    assert weak.case_set == hard.case_set
    text = markdown(card_page(weak))
    assert "0.380 [" in text
    assert "half of the cases have failed by: ε = 3.8" in text


def test_cards_are_read_as_they_were_written(cards: list[Card], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(as_text(cards))
    assert read_cards(tmp_path) == cards
    assert read_cards(tmp_path / FILE) == cards


@pytest.mark.parametrize("damage", ["{", "[{}]", '[{"schema": 1}]', "3"])
def test_other_files_are_no_cards(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).write_text(damage)
    with pytest.raises(ValueError, match=r"card\.json .*run the audit's command again"):
        read_cards(tmp_path)


def test_cards_of_another_release_are_refused(cards: list[Card], tmp_path: Path) -> None:
    content = json.loads(as_text(cards))
    content[0]["schema"] = 99
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="another release"):
        read_cards(tmp_path)


def test_only_what_can_be_compared_shares_a_table(cards: list[Card]) -> None:
    weak, hard = cards
    other = replace(hard, case_set="0" * 64)
    board = leaderboard([("a", weak), ("b", hard), ("c", other)])
    first, second = (section.blocks[0] for section in board.sections)
    assert [row[:2] for row in first.rows] == [("b", "hard"), ("a", "weak")]  # the best one first
    assert [row[:2] for row in second.rows] == [("c", "hard")]
    assert "different cases" in markdown(board)
    assert "different cases" not in markdown(leaderboard([("a", weak), ("b", hard)]))


def test_what_decides_no_number_separates_nothing(
    make_findings: Callable[..., Findings], settings: Settings, tmp_path: Path
) -> None:
    """The row of the worst attack of all, the order of attacks, and whether noisy volumes were kept."""
    material = make_material(make_findings(), settings, tmp_path)
    found = make_cards(material)
    rows = material.summary["rows"]
    rows += [{**row, "attack": name} for row in rows if row["eps"] for name in (WORST, "apgd-dice")]
    material.manifest["question"]["settings"]["save_adversarial"] = True
    weak, _ = make_cards(material)
    assert weak.attacks == ("apgd-dice", "pgd")
    assert weak.protocol == found[0].protocol


def test_what_is_not_conclusive_says_so(cards: list[Card]) -> None:
    doubtful = replace(cards[0], conclusive=False)
    assert "**not conclusive**" in markdown(leaderboard([("a", doubtful)]))
    assert "NOT CONCLUSIVE" in html(card_page(doubtful))


def test_the_command_puts_audits_side_by_side(
    cards: list[Card], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(as_text(cards))
    page = tmp_path / "board.html"
    main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(page)])
    assert page.read_text().count("<td>two</td>") == 2
    assert 'data-key="sortable"' in page.read_text()
    with pytest.raises(SystemExit) as caught:
        main(["compare", str(tmp_path), "--output", str(tmp_path / "other.html")])
    assert caught.value.code == 2
    assert "no audit has written cards there" in capsys.readouterr().err
