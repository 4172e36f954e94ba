"""Changes that can be searched: nothing at size 0, the same each time, in physical units, image and label alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_ima.shift import Scan, find_disturbance
from nnunet_ima.shift.labels import move_label
from nnunet_ima.shift.mr.signal import mean_signal
from nnunet_ima.shift.searched import SEARCHED, Chain, Kind, label_of, label_shares, make_chain
from nnunet_ima.shift.searched.smooth import at, controls, on_grid

Array = np.ndarray[Any, Any]
KINDS = [pytest.param(kind, id=name) for name, kind in SEARCHED.items()]
GEOMETRY = ("deformation", "rotation", "translation")


@pytest.fixture(scope="module")
def scans(make_scan: Callable[..., Scan]) -> dict[str, Scan]:
    """A scan of each modality, of voxels that are no cubes."""
    return {"MR": make_scan("MR"), "CT": make_scan("CT", channels=1)}


def scan_for(kind: Kind, scans: dict[str, Scan]) -> Scan:
    return scans["CT" if kind.modalities == ("CT",) else "MR"]


def points(chain: Chain, seed: int = 0) -> Tensor:
    """Parameters at random in the box."""
    return chain.physical(2 * torch.rand(len(chain.low), generator=torch.Generator().manual_seed(seed)) - 1)


def applied(scan: Scan, chain: Chain, parameters: Tensor) -> tuple[Array, Array]:
    """Changed channels, and the label as it has moved."""
    shares, values = label_shares(scan)
    channels, moved = chain.apply(torch.from_numpy(scan.channels), shares, parameters)
    return channels.numpy(), label_of(moved, values).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("severity", [1, 5])
def test_nothing_at_the_identity_and_something_elsewhere(kind: Kind, severity: int, scans: dict[str, Scan]) -> None:
    scan = scan_for(kind, scans)
    chain = make_chain(scan, severity, 0, [kind.name])
    assert ((chain.low <= chain.identity) & (chain.identity <= chain.high) & (chain.low < chain.high)).all()
    channels, label = applied(scan, chain, chain.identity)
    assert np.abs(channels - scan.channels).max() < 1e-4 * np.abs(scan.channels).max()
    assert np.array_equal(label, scan.label)
    changed, moved = applied(scan, chain, chain.high)
    assert np.abs(changed - scan.channels).max() > 2e-3 * scan.channels.std()
    assert np.array_equal(moved, scan.label) or kind.name in GEOMETRY


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_parameters_give_the_same(kind: Kind, scans: dict[str, Scan]) -> None:
    scan = scan_for(kind, scans)
    before = scan.channels.copy()
    first, second = (make_chain(scan, 3, 7, [kind.name]) for _ in range(2))
    parameters = points(first)
    again = second.read({name: list(values) for name, values in first.listed(parameters).items()})
    assert torch.equal(again, parameters)
    for one, other in zip(applied(scan, first, parameters), applied(scan, second, again), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(scan.channels, before)
    assert first.told(parameters).keys() == {kind.name}


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("at_identity", [True, False])
def test_gradients_are_those_of_finite_differences(
    modality: str, at_identity: bool, make_scan: Callable[..., Scan]
) -> None:
    """Of all changes together, and finite where nothing is changed, which is where roots and powers have none."""
    scan = make_scan(modality, channels=1, shape=(16, 14, 8))
    chain = make_chain(scan, 2, 0)
    channels, (shares, _) = torch.from_numpy(scan.channels), label_shares(scan)
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(channels.shape, generator=rng)

    def value(parameters: Tensor) -> Tensor:
        image, moved = chain.apply(channels, shares, parameters)
        return (image / channels.std() * weights).double().sum() + moved.double().square().sum()

    start = (chain.identity if at_identity else points(chain)).requires_grad_()
    (gradient,) = torch.autograd.grad(value(start), start)
    assert gradient.isfinite().all()
    if at_identity:
        return  # one-sided there
    for begin, change in zip(np.cumsum([0, *chain.sizes]), chain.changes, strict=False):
        own = slice(int(begin), int(begin) + len(change.low))
        step = torch.zeros_like(start)
        step[own] = (chain.high - chain.low)[own] * 5e-3 * torch.randn(len(change.low), generator=rng)
        with torch.no_grad():
            difference = float(value(start + step) - value(start - step))
        wanted = 2 * float(gradient.double() @ step.double())
        rough = 0.5 if change.geometry else 0.05  # linear interpolation has a kink at every voxel
        assert difference == pytest.approx(wanted, rel=rough, abs=0.01 * float((gradient * step).abs().sum())), change


@pytest.mark.parametrize("severity", range(1, 6))
def test_boxes_are_those_of_the_disturbances(severity: int, scans: dict[str, Scan]) -> None:
    """The ends of a box are what the disturbance of the same name does, voxel by voxel."""
    ends: dict[str, Callable[[float], tuple[dict[str, Any], float]]] = {
        "gamma": lambda level: ({"gamma": level}, math.log(level)),
        "blur": lambda level: ({"fwhm": [level] * 3}, level**2 / (8 * math.log(2))),
        "hu-shift": lambda level: ({"hounsfield": level}, level),
        "hu-scale": lambda level: ({"factor": level}, math.log(level)),
        "cupping": lambda level: ({"hounsfield": level}, level),
        "soft-kernel": lambda level: ({"fwhm": [0, level, level]}, level**2 / (8 * math.log(2))),
    }
    for name, parameters in ends.items():
        scan, kind, disturbance = scan_for(SEARCHED[name], scans), SEARCHED[name], find_disturbance(name)
        assert kind.severities == disturbance.severities
        chain = make_chain(scan, severity, 0, [name])
        drawn, largest = parameters(kind.severities[severity - 1])
        assert chain.high.tolist() == pytest.approx([largest], rel=1e-6)
        theirs = disturbance.apply(scan, drawn).channels
        ours, _ = applied(scan, chain, chain.high)
        assert np.abs(ours - theirs).max() < 2e-4 * np.ptp(scan.channels), name


def test_a_bias_field_stays_between_its_factors_and_reaches_them(scan_of: Callable[..., Scan]) -> None:
    scan = scan_of(np.full((6, 20, 18), 100.0), "MR")
    for severity, percent in enumerate(find_disturbance("bias-field").severities, start=1):
        chain = make_chain(scan, severity, 0, ["bias-field"])
        for seed in range(5):
            field = applied(scan, chain, chain.physical(points(chain, seed).sign()))[0] / 100
            assert 1 - percent / 200 - 1e-4 <= field.min() <= field.max() <= 1 + percent / 200 + 1e-4
        half = chain.high.reshape(3, 3, 3).clone()
        half[..., 0] = chain.low[0]
        field = applied(scan, chain, half.flatten())[0] / 100
        assert (field.min(), field.max()) == pytest.approx((1 - percent / 200, 1 + percent / 200), rel=1e-4)
        assert chain.told(half.flatten()) == {"bias-field": f"non-uniformity {percent:.0f} %"}


@pytest.mark.parametrize("weights", [(1, 0, 0, 0), (0.5, -0.5, 0.3, 0.9)])
def test_noise_is_white_and_of_its_level_whatever_the_weights(
    weights: tuple[float, ...], scan_of: Callable[..., Scan], scans: dict[str, Scan]
) -> None:
    image = np.full((8, 40, 40), 200.0)
    image[..., :20] = 0
    scan = scan_of(image, "MR")
    chain = make_chain(scan, 2, 0, ["rician-noise"])
    sigma = float(chain.high[0]) * mean_signal(scan.channels[0])
    noisy, _ = applied(scan, chain, torch.tensor([float(chain.high[0]), *weights]))
    assert noisy[..., 20:].std() == pytest.approx(sigma, rel=0.03)
    assert noisy[..., :20].std() == pytest.approx(0.655 * sigma, rel=0.03)
    neighbours = np.corrcoef(noisy[..., 20:-1].ravel(), noisy[..., 21:].ravel())[0, 1]
    assert abs(neighbours) < 0.03
    dose = make_chain(scans["CT"], 3, 0, ["dose"])
    noise, _ = applied(scans["CT"], dose, torch.tensor([1.0, *weights]))
    body = scans["CT"].channels > -500
    assert (noise - scans["CT"].channels)[body].std() == pytest.approx(1, rel=0.35)  # few voxels, of few frequencies
    assert float(dose.high[0]) == pytest.approx(12 * 3)  # a tenth of the dose


def test_gains_of_low_frequencies_leave_mean_and_fine_structure(scan_of: Callable[..., Scan]) -> None:
    across = np.cos(np.pi * 2 * (np.arange(32) + 0.5) / 32)
    fine = np.cos(np.pi * 9 * (np.arange(32) + 0.5) / 32)
    scan = scan_of(np.tile(100 + 10 * across + 5 * fine, (4, 8, 1)), "MR")
    chain = make_chain(scan, 5, 0, ["low-frequencies"])
    changed, _ = applied(scan, chain, chain.high)
    assert np.abs(changed[0, 0, 0] - (100 + 15 * across + 5 * fine)).max() < 1e-3  # × 1.5


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_rotation_and_a_shift_are_those_of_the_disturbances(severity: int, make_scan: Callable[..., Scan]) -> None:
    scan = make_scan("MR", channels=1, shape=(30, 26, 16), thickness=3.0)
    for name, key in (("rotation", "degrees"), ("translation", "millimetres")):
        chain = make_chain(scan, severity, 0, [name])
        assert math.hypot(*chain.high.tolist()) == pytest.approx(SEARCHED[name].severities[severity - 1])
        for axis in range(3):
            parameters = torch.zeros(3)
            parameters[axis] = chain.high[axis]
            theirs = find_disturbance(name).apply(scan, {key: parameters.tolist()})
            ours, label = applied(scan, chain, parameters)
            inside = (slice(None), *(slice(4, -4),) * 3)
            assert np.abs(ours - theirs.channels)[inside].mean() < 0.002 * np.ptp(scan.channels)
            assert (label != theirs.label).mean() < 0.003


@pytest.mark.parametrize("severity", range(1, 6))
def test_a_label_moves_with_its_image(severity: int, make_scan: Callable[..., Scan]) -> None:
    scan = make_scan("MR", channels=1)
    scan = scan.with_channels((scan.label > 0)[None])
    chain = make_chain(scan, severity, 0, GEOMETRY)
    for seed in range(3):
        image, label = applied(scan, chain, chain.physical(points(chain, seed).sign()))
        assert ((image[0] > 0.5) != (label > 0)).mean() < 0.01
        assert not np.array_equal(label, scan.label)


def test_labels_share_voxels_out_as_disturbances_do(scans: dict[str, Scan]) -> None:
    scan = scans["MR"]
    chain = make_chain(scan, 2, 0, ["deformation", "rotation"])
    parameters = points(chain)

    def move(image: Array) -> Array:
        moved, _ = chain.apply(torch.from_numpy(image), torch.zeros(1, *scan.shape), parameters)
        return moved.numpy()

    assert np.array_equal(move_label(scan.label, move), applied(scan, chain, parameters)[1])


@pytest.mark.parametrize("severity", range(1, 6))
def test_a_deformation_is_as_large_as_it_says_and_folds_nothing(severity: int, scan_of: Callable[..., Scan]) -> None:
    scan = scan_of(np.zeros((32, 48, 34)), "MR")
    chain = make_chain(scan, severity, 0, ["deformation"])
    half = (torch.tensor(scan.shape) - 1) / 2
    axes = [torch.linspace(-1, 1, size) * end for size, end in zip(scan.shape, half, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    for seed in range(4):
        positions = chain.changes[0].acting(grid, chain.physical(points(chain, seed).sign()))
        far = (positions - grid).norm(dim=-1)
        assert float(far.max()) <= SEARCHED["deformation"].severities[severity - 1] * 1.0001
        slopes = torch.stack([positions.diff(dim=axis)[:31, :47, :33][:31, :47, :33] for axis in range(3)], -1)
        assert float(torch.linalg.det(slopes).min()) > 0.1


def test_geometries_move_once_and_in_order(scan_of: Callable[..., Scan]) -> None:
    image = np.random.default_rng(0).uniform(0, 100, (8, 12, 12))
    scan = scan_of(image, "MR")
    order = make_chain(scan, 5, 0, ["translation", "rotation"])
    reverse = make_chain(scan, 5, 0, ["rotation", "translation"])
    shift, turn = [0.5, 0.5, 0.5], [9.0, 0.0, 0.0]
    one, _ = applied(scan, order, torch.tensor([*shift, *turn]))
    other, _ = applied(scan, reverse, torch.tensor([*turn, *shift]))
    assert not np.allclose(one, other)
    back = make_chain(scan, 5, 0, ["translation", "translation"])
    there_and_back, _ = applied(scan, back, torch.tensor([0.5, 0.5, 0.5, -0.5, -0.5, -0.5]))
    assert np.allclose(there_and_back, image, atol=1e-3)  # two interpolations would have blurred it


def test_intensities_act_in_their_order(scans: dict[str, Scan]) -> None:
    scan = scans["MR"]
    both = make_chain(scan, 3, 0, ["gamma", "rotation", "blur"])
    parameters = points(both)
    channels, (shares, _) = torch.from_numpy(scan.channels), label_shares(scan)
    step, moved = channels, shares
    for change, own in zip(both.changes, parameters.split(both.sizes), strict=True):
        step, moved = Chain((change,), scan.spacing).apply(step, moved, own)
    whole, together = both.apply(channels, shares, parameters)
    assert torch.equal(whole, step)
    assert torch.equal(together, moved)
    other = make_chain(scan, 3, 0, ["blur", "rotation", "gamma"])
    swapped = torch.cat(parameters.split(both.sizes)[::-1])
    assert not torch.allclose(other.apply(channels, shares, swapped)[0], whole)


def test_smooth_functions_are_the_same_anywhere() -> None:
    shape = (5, 7, 1)
    assert controls(shape) == (3, 3, 1)
    values = torch.randn(controls(shape), generator=torch.Generator().manual_seed(0))
    whole = on_grid(values, shape)
    shares = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, size) for size in shape), indexing="ij"), -1)
    assert torch.allclose(at(values[None], shares)[..., 0], whole, atol=1e-6)
    assert float(whole[2, 3, 0]) == pytest.approx(
        float(torch.tensor([0.25, 0.5, 0.25]) @ values[..., 0] @ torch.tensor([0.25, 0.5, 0.25])), abs=1e-6
    )
    assert float(on_grid(torch.ones(3, 3, 1), shape).sub(1).abs().max()) < 1e-6


def test_a_single_slice_stays_in_its_plane(make_scan: Callable[..., Scan]) -> None:
    whole = make_scan("MR", channels=1)
    middle = whole.shape[0] // 2
    scan = Scan(whole.channels[:, [middle]], whole.label[[middle]], whole.affine, "MR")
    chain = make_chain(scan, 3, 0)
    assert dict(zip([change.name for change in chain.changes], chain.sizes, strict=True)) == {
        "deformation": 18,
        "rotation": 1,
        "translation": 2,
        "gamma": 1,
        "low-frequencies": 8,
        "bias-field": 9,
        "blur": 1,
        "rician-noise": 5,
    }
    channels, label = applied(scan, chain, points(chain))
    assert np.isfinite(channels).all()
    assert label.any()


def test_what_cannot_be_searched_is_refused(scans: dict[str, Scan]) -> None:
    with pytest.raises(ValueError, match="severity must be a whole number from 1 to 5, got 6"):
        make_chain(scans["MR"], 6, 0)
    with pytest.raises(ValueError, match="'dose' cannot be searched for this MR scan; deformation, rotation"):
        make_chain(scans["MR"], 1, 0, ["dose"])
