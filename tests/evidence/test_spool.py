"""Records on disk are found again, in their order, whoever else reads meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.records import Transferred
from nnunet_ima.evidence.spool import AT_ONCE, Spool

MANY = 2 * AT_ONCE + 3


def entry(number: int) -> Transferred:
    return Transferred(model="m", source="n", case="x" * (number % 7), eps=1.0, dice=number / MANY)


def test_a_spool_is_like_the_list_of_its_entries(tmp_path: Path) -> None:
    wanted = [entry(number) for number in range(MANY)]
    spool = Spool(tmp_path, wanted[:5])
    for one in wanted[5:10]:
        spool.append(one)
    spool.extend(wanted[10:])
    assert len(spool) == MANY
    assert list(spool) == wanted
    assert (spool[0], spool[-1], spool[3:5], spool[::-1]) == (wanted[0], wanted[-1], wanted[3:5], wanted[::-1])
    assert spool == wanted
    assert spool != wanted[:-1]
    assert spool != [*wanted[:-1], entry(0)]
    with pytest.raises(IndexError):
        spool[MANY]


def test_it_is_read_by_several_and_written_meanwhile(tmp_path: Path) -> None:
    spool = Spool(tmp_path, range(MANY))
    pairs = 0
    for first, second in zip(spool, spool, strict=True):
        assert first == second == spool[first]
        pairs += 1
        if first == AT_ONCE:
            spool.append(-1)
    assert pairs == MANY  # those of the beginning
    assert spool[-1] == -1


def test_a_spool_takes_the_entries_of_another_one(tmp_path: Path) -> None:
    other, spool = Spool(tmp_path, map(entry, range(MANY))), Spool(tmp_path, [entry(MANY)])
    spool.extend(other)
    assert spool == [entry(MANY), *other]
    spool.extend(spool)
    assert spool[MANY + 1 :] == spool[: MANY + 1]
    spool.append(entry(7))
    assert (spool[-1], len(other)) == (entry(7), MANY)


def test_it_leaves_no_file_and_equals_only_sequences(tmp_path: Path) -> None:
    found = Findings.on_disk(tmp_path)
    assert not found.records
    assert found.records == []
    assert found.records != 3
    assert not list(tmp_path.iterdir())
