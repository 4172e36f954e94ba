"""The same numbers come from records on disk as from a list, in any number of parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.evidence.spool import Spool
from nnunet_ima.segmentation import statistics
from nnunet_ima.segmentation.settings import Settings
from nnunet_ima.segmentation.summary import summarise, write_summary


def test_records_on_disk_give_the_summary_of_a_list(
    make_findings: Callable[..., Findings], settings: Settings, tmp_path: Path
) -> None:
    found = make_findings(cases=5)
    other = [replace(it, attack="apgd", dice=it.dice + 0.01 * (-1) ** n) for n, it in enumerate(found.records)]
    found.records = [*found.records, *(it for it in other if it.eps)]
    settings = replace(settings, attacks=("pgd", "apgd"))
    wanted = summarise(found, settings)
    assert any(row["attack"] == "worst of all" for row in wanted["rows"])
    assert summarise(replace(found, records=Spool(tmp_path, found.records)), settings) == wanted
    for name, records in (("list", found.records), ("disk", Spool(tmp_path, found.records))):
        (tmp_path / name).mkdir()
        write_summary(wanted, records, tmp_path / name)
    assert (tmp_path / "list" / "cases.csv").read_bytes() == (tmp_path / "disk" / "cases.csv").read_bytes()


def test_a_bootstrap_in_parts_is_that_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(41).tolist()
    monkeypatch.setattr(statistics, "AT_ONCE", 41 * 7)
    rng = np.random.default_rng(0)
    whole = bootstrap((values,), np.mean, method="BCa", n_resamples=9999, rng=rng).confidence_interval
    assert statistics.interval(values) == [whole.low, whole.high]
