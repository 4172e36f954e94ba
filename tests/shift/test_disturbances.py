"""What holds for every disturbance of the registry."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ima.shift import DISTURBANCES, Disturbance, Scan, disturbances_for, find_disturbance

ScanFor = Callable[[Disturbance], Scan]
every = pytest.mark.parametrize("disturbance", DISTURBANCES.values(), ids=DISTURBANCES)


def disturb(disturbance: Disturbance, severity: int, scan: Scan, seed: int = 0) -> Scan:
    return disturbance.apply(scan, disturbance.draw(severity, scan, np.random.default_rng(seed)))


def content(scan: Scan) -> tuple[bytes, bytes, bytes]:
    return scan.channels.tobytes(), scan.label.tobytes(), scan.affine.tobytes()


@every
def test_severity_0_is_the_identity(disturbance: Disturbance, scan_for: ScanFor) -> None:
    scan = scan_for(disturbance)
    assert disturbance.draw(0, scan, np.random.default_rng(0)) == {}
    assert content(disturb(disturbance, 0, scan)) == content(scan)


@every
def test_parameters_tell_everything_and_survive_json(disturbance: Disturbance, scan_for: ScanFor) -> None:
    scan = scan_for(disturbance)
    before = content(scan)
    for severity in (1, 5):
        parameters = disturbance.draw(severity, scan, np.random.default_rng(3))
        states = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
        first = disturbance.apply(scan, parameters)
        assert content(disturbance.apply(scan, json.loads(json.dumps(parameters)))) == content(first)
        assert content(first) != before
        assert content(scan) == before
        assert torch.equal(states[0], torch.random.get_rng_state())
        assert states[1] == np.random.get_state()[1].tolist()


@every
def test_results_are_scans_of_the_same_kind(disturbance: Disturbance, scan_for: ScanFor) -> None:
    scan = scan_for(disturbance)
    for severity in range(1, 6):
        disturbed = disturb(disturbance, severity, scan)  # a Scan checks shapes and that all is finite
        assert disturbed.channels.dtype == np.float32
        assert disturbed.label.dtype == scan.label.dtype
        assert len(disturbed.channels) == len(scan.channels)
        assert set(np.unique(disturbed.label)) <= set(np.unique(scan.label))
        assert disturbed.modality == scan.modality
        if disturbance.changes == "intensity":
            assert content(disturbed)[1:] == content(scan)[1:]


def strength(disturbance: Disturbance, severity: int, scan: Scan, seed: int) -> float:
    """How far a disturbed scan is from the clean one."""
    disturbed = disturb(disturbance, severity, scan, seed)
    if disturbance.name == "wrong-spacing":
        return float(np.abs(np.log(np.divide(disturbed.spacing, scan.spacing))).max())
    if disturbance.name in ("reoriented", "misoriented"):
        parameters = disturbance.draw(severity, scan, np.random.default_rng(seed))
        moved = np.count_nonzero(np.array(parameters["order"]) != (0, 1, 2))
        return len(parameters["flipped"]) + max(0, moved - 1)
    if disturbed.shape != scan.shape:
        return -disturbed.label.size
    return float(np.abs(disturbed.channels - scan.channels).mean())


@every
def test_what_settles_does_nothing_the_second_time(disturbance: Disturbance, scan_for: ScanFor) -> None:
    """And only that: a scan that others leave as it is would show a disturbance that does nothing."""
    scan, rng = scan_for(disturbance), np.random.default_rng(0)
    parameters = disturbance.draw(3, scan, rng)
    once = disturbance.apply(scan, parameters)
    twice = disturbance.apply(once, parameters) if not disturbance.refusal(once) else once
    same = once.shape == twice.shape and np.allclose(once.channels, twice.channels, atol=1e-6 * scan.channels.std())
    assert same >= disturbance.settles
    assert disturbance.settles == (disturbance.name in {"grey-levels", "window", "missing-channel"})


@every
def test_each_severity_is_worse_than_the_one_before(disturbance: Disturbance, scan_for: ScanFor) -> None:
    scan = scan_for(disturbance)
    means = [np.mean([strength(disturbance, severity, scan, seed) for seed in range(3)]) for severity in range(1, 6)]
    assert (np.diff(means) > 0).all(), means


def without_label(scan: Scan) -> Scan:
    return replace(scan, label=np.zeros_like(scan.label))


def one_slice(scan: Scan) -> Scan:
    middle = slice(scan.shape[0] // 2, scan.shape[0] // 2 + 1)
    return replace(scan, channels=scan.channels[:, middle], label=scan.label[middle])


def constant(scan: Scan) -> Scan:
    return replace(scan, channels=np.full_like(scan.channels, -1000))


def one_channel(scan: Scan) -> Scan:
    return replace(scan, channels=scan.channels[:1])


def sagittal(scan: Scan) -> Scan:
    """Slices across the last axis."""
    affine = scan.affine[:, [2, 1, 0, 3]]
    return replace(scan, channels=scan.channels.transpose(0, 3, 2, 1), label=scan.label.T, affine=affine)


@every
@pytest.mark.parametrize("hard", [without_label, one_slice, constant, one_channel, sagittal])
def test_hard_scans_are_disturbed_or_refused(
    disturbance: Disturbance, hard: Callable[[Scan], Scan], scan_for: ScanFor
) -> None:
    scan = hard(scan_for(disturbance))
    if disturbance.refusal(scan):
        with pytest.raises(ValueError, match=r"single slice|one channel"):
            disturb(disturbance, 3, scan)
        return
    for severity in (1, 5):
        disturbed = disturb(disturbance, severity, scan)
        assert disturbed.label.any() == scan.label.any() or disturbance.changes == "geometry"
        if hard is one_slice:
            assert disturbed.shape[0] == 1


def test_only_these_refuse_hard_scans(scan_for: ScanFor) -> None:
    def refusing(scan: Scan) -> set[str]:
        reasons = {name: disturbance.refusal(scan) for name, disturbance in DISTURBANCES.items()}
        return {name for name, reason in reasons.items() if reason and "happens to" not in reason}

    scan = scan_for(find_disturbance("motion"))
    assert refusing(scan) == set()
    assert refusing(one_slice(scan)) == {"slice-thickness"}
    assert refusing(one_channel(scan)) == {"swapped-channels", "missing-channel"}


def test_modality_decides_what_can_happen(scan_for: ScanFor) -> None:
    mr = scan_for(find_disturbance("motion"))
    mr = mr.with_channels(mr.channels - 1000)  # so that they could be Hounsfield units
    names = {
        modality: {disturbance.name for disturbance in disturbances_for(replace(mr, modality=modality))}
        for modality in ("MR", "CT", "any")
    }
    assert names["any"] == names["MR"] & names["CT"]
    assert names["MR"] | names["CT"] == set(DISTURBANCES)
    assert len(names["MR"] - names["any"]) == len(names["CT"] - names["any"]) == 8


def test_what_cannot_be_is_refused(scan_for: ScanFor) -> None:
    motion = find_disturbance("motion")
    mr, rng = scan_for(motion), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"unknown disturbance 'mtion'; known are rician-noise, .*motion"):
        find_disturbance("mtion")
    for severity in (-1, 6, 2.5):
        with pytest.raises(ValueError, match=f"severity of motion must be a whole number from 0 to 5, got {severity}"):
            motion.draw(severity, mr, rng)  # type: ignore[arg-type]
    ct = replace(mr, modality="CT")
    for act in (lambda: motion.draw(0, ct, rng), lambda: motion.apply(ct, {})):
        with pytest.raises(ValueError, match="motion happens to MR scans, this one is 'CT'"):
            act()


def test_without_torchio_the_way_to_install_it_is_told(scan_for: ScanFor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchio", None)
    motion = find_disturbance("motion")
    with pytest.raises(ValueError, match=r"needs TorchIO.*pip install 'nnunet-ima\[shift\]'"):
        disturb(motion, 1, scan_for(motion))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": np.zeros((4, 4, 4), np.float32)}, r"channels must be \(C, Z, Y, X\)"),
        ({"channels": np.zeros((1, 4, 4, 4))}, "channels must be float32, got float64"),
        ({"channels": np.full((1, 4, 4, 4), np.nan, np.float32)}, "64 voxels that are not finite"),
        ({"label": np.zeros((4, 4, 3), int)}, "does not fit channels"),
        ({"label": np.zeros((4, 4, 4))}, "must hold integers"),
        ({"affine": np.zeros((4, 4))}, "must be .4, 4. and have an inverse"),
        ({"modality": "PET"}, "modality must be one of MR, CT, any, got 'PET'"),
    ],
)
def test_what_is_no_scan_is_refused(change: dict[str, Any], message: str) -> None:
    parts = {"channels": np.zeros((1, 4, 4, 4), np.float32), "label": np.zeros((4, 4, 4), int), "affine": np.eye(4)}
    with pytest.raises(ValueError, match=message):
        Scan(**{**parts, **change})


def test_the_registry_is_well_kept() -> None:
    for name, disturbance in DISTURBANCES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert disturbance.unit
        assert disturbance.reference
    with pytest.raises(ValueError, match="motion needs five severities that rise or fall"):
        replace(find_disturbance("motion"), severities=(1, 2, 2, 3, 4))
