"""The differentiable pipeline is nnU-Net's inference, its gradient is exact, and its memory is that of one window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from live_bytes import LiveBytes
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from random_models import PATCH, image, make_model
from torch import Tensor, nn

from nnunet_ima.inference.model import TrainedModel, open_model
from nnunet_ima.inference.pipeline import Pipeline


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net's predictor add up windows in float32; the Gaussian stays rounded to half precision, as deployed."""
    original = predict_from_raw_data.torch
    patched = SimpleNamespace(**{name: getattr(original, name) for name in dir(original)})
    patched.half = torch.float32
    monkeypatch.setattr(predict_from_raw_data, "torch", patched)
    gaussian = predict_from_raw_data.compute_gaussian
    monkeypatch.setattr(predict_from_raw_data, "compute_gaussian", lambda *a, **k: gaussian(*a, **k).float())


class Situation(NamedTuple):
    """A model, a volume (*spatial) and how nnU-Net predicts it."""

    configuration: str
    folds: int
    channels: int
    shape: tuple[int, ...]
    step: float
    mirroring: bool


SITUATIONS = [
    Situation("3d_fullres", 1, 1, (17, 23, 19), 0.5, True),
    Situation("3d_fullres", 2, 2, (17, 13, 10), 0.5, False),
    Situation("3d_fullres", 1, 1, (5, 30, 7), 1.0, True),  # smaller than the patch along two axes
    Situation("3d_fullres", 1, 1, (8, 12, 10), 0.5, False),  # exactly one window
    Situation("2d", 1, 1, (4, 25, 20), 0.5, True),
    Situation("2d", 2, 2, (3, 16, 12), 0.5, True),
    Situation("2d", 1, 1, (2, 9, 30), 0.3, False),
]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_logits_are_nnunets(situation: Situation, full_precision: None) -> None:
    configuration, folds, channels, shape, step, mirroring = situation
    model = make_model(configuration, folds, channels)
    x = image((channels, *shape))
    ours = Pipeline(model, step, mirroring)(x[None])[0]
    theirs = model.predictor(step, mirroring).predict_logits_from_preprocessed_data(x)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ({"configuration": "3d_fullres", "channels": 2, "folds": ("0", "1")}, (20, 34, 36)),
        ({"configuration": "2d", "folds": ("0", "1")}, (3, 40, 20)),
        ({"configuration": "2d", "regions": True, "ignore": True}, (2, 40, 36)),
    ],
)
def test_logits_of_stock_networks_are_nnunets(
    make_folder: Callable[..., Path], full_precision: None, kind: dict[str, Any], shape: tuple[int, ...]
) -> None:
    model = open_model(make_folder(**kind))
    x = image((model.channels, *shape))
    ours = Pipeline(model)(x[None])[0]
    theirs = model.predictor().predict_logits_from_preprocessed_data(x)
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_logits_are_nnunets_as_deployed_up_to_its_half_precision() -> None:
    """Except in the corners of a volume, where the Gaussian is so small that nnU-Net's products round to nothing."""
    model = make_model()
    x = image((1, 17, 23, 19))
    pipeline = Pipeline(model)
    ours, theirs = pipeline(x[None])[0], model.predictor().predict_logits_from_preprocessed_data(x)
    _, total = pipeline.weights(x)
    inside = total > 0.01 * total.max()
    assert inside.float().mean() > 0.5
    assert (ours - theirs)[:, inside].abs().max() <= 1e-2 * theirs.abs().max()


def gradient_of(function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a weighted sum of log-probabilities."""
    leaf = x.clone().requires_grad_()
    loss = (function(leaf).log_softmax(-4) * weight).sum()
    (found,) = torch.autograd.grad(loss, leaf)
    return found


def autograd_through_all_windows(model: TrainedModel, x: Tensor, step: float, mirroring: bool) -> Tensor:
    """Fused logits written straightforwardly, for volumes that the patch fits into; one graph through everything."""
    patch = model.configuration.patch_size
    gaussian = compute_gaussian(tuple(patch), sigma_scale=1 / 8, value_scaling_factor=10, device=x.device).float()
    spatial = x.shape[1:]
    starts = compute_steps_for_sliding_window(spatial[-len(patch) :], tuple(patch), step)
    axes = list(range(-len(patch), 0)) if mirroring else []
    mirrors = [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]
    slices = [()] if len(patch) == 3 else [(z,) for z in range(spatial[0])]
    fused, total = torch.zeros(3, *spatial), torch.zeros(spatial)
    for corner in itertools.product(*starts):
        for z in slices:
            window = (*z, *(slice(begin, begin + size) for begin, size in zip(corner, patch, strict=True)))
            part = x[(slice(None), *window)][None]
            logits = sum(
                network(part.flip(mirror)).flip(mirror) for network in model.networks for mirror in mirrors
            ) / (len(mirrors) * len(model.networks))
            add = torch.zeros_like(fused)
            add[(slice(None), *window)] = logits[0] * gaussian
            fused = fused + add
            total[window] += gaussian
    return fused / total


@pytest.mark.parametrize(
    "situation",
    [
        situation
        for situation in SITUATIONS
        if situation.shape[-1] >= 10 and situation.shape[-2] >= 12 and situation.shape[0] > 1
    ],
)
@pytest.mark.parametrize("windows_per_pass", [1, 3, 1000])
def test_gradient_is_that_of_full_autograd(situation: Situation, windows_per_pass: int) -> None:
    configuration, folds, channels, shape, step, mirroring = situation
    model = make_model(configuration, folds, channels)
    x, weight = image((channels, *shape)), image((3, *shape), seed=1)
    exact = gradient_of(lambda leaf: autograd_through_all_windows(model, leaf, step, mirroring), x, weight)
    pipeline = Pipeline(model, step, mirroring, windows_per_pass)
    ours = gradient_of(lambda leaf: pipeline(leaf[None])[0], x, weight)
    assert torch.linalg.vector_norm(ours - exact) <= 1e-4 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("mirroring", [False, True])
def test_gradient_of_a_volume_smaller_than_the_patch(mirroring: bool) -> None:
    """nnU-Net pads it with zeros, an odd one behind."""
    model = make_model(folds=2)
    x, weight = image((1, 5, 30, 7)), image((3, 5, 30, 7), seed=1)

    def padded(leaf: Tensor) -> Tensor:
        logits = autograd_through_all_windows(model, nn.functional.pad(leaf, (1, 2, 0, 0, 1, 2)), 0.5, mirroring)
        return logits[:, 1:6, :, 1:8]

    exact = gradient_of(padded, x, weight)
    ours = gradient_of(lambda leaf: Pipeline(model, mirroring=mirroring)(leaf[None])[0], x, weight)
    assert torch.linalg.vector_norm(ours - exact) <= 1e-4 * torch.linalg.vector_norm(exact)


def test_samples_of_a_batch_are_independent() -> None:
    pipeline = Pipeline(make_model("2d"))
    x, weight = torch.stack([image((1, 2, 25, 20), seed) for seed in (1, 2)]), image((2, 3, 2, 25, 20))
    both, gradients = pipeline(x), gradient_of(pipeline, x, weight)
    for number in (0, 1):
        alone = slice(number, number + 1)
        assert torch.equal(both[alone], pipeline(x[alone]))
        assert torch.equal(gradients[alone], gradient_of(pipeline, x[alone], weight[alone]))


def test_a_second_backward_pass_gives_the_same() -> None:
    """The kept graph serves the first one only."""
    pipeline = Pipeline(make_model(), mirroring=False, windows_per_pass=3)
    leaf = image((1, 12, 18, 25)).requires_grad_()
    loss = pipeline(leaf[None]).square().sum()
    first, second = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.allclose(first, second, rtol=1e-5, atol=1e-6 * float(first.abs().max()))


@pytest.fixture
def half_precision() -> Iterator[None]:
    """Let autocast on the CPU compute as it does on CUDA."""
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    yield
    torch.set_autocast_dtype("cpu", before)


@pytest.mark.parametrize("voxels", [1.0, 1e4, 1e7, 1e9])
def test_half_precision_keeps_small_derivatives(half_precision: None, voxels: float) -> None:
    """Of a mean over many voxels; below 6e-8 half precision has nothing but zero."""
    model, x, weight = make_model(), image((1, 17, 23, 19)), image((3, 17, 23, 19), seed=1) / voxels
    pipelines = [Pipeline(model, mixed_precision=mixed) for mixed in (False, True)]
    full, half = (gradient_of(lambda leaf, run=run: run(leaf[None])[0], x, weight) for run in pipelines)
    assert 0 < torch.linalg.vector_norm(half - full) <= 0.02 * torch.linalg.vector_norm(full)


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_derivatives_without_a_size_stay_as_they_are(factor: float) -> None:
    pipeline, x = Pipeline(make_model()), image((1, 17, 23, 19))
    found = gradient_of(lambda leaf: factor * pipeline(leaf[None])[0], x, torch.ones(3, 17, 23, 19))
    assert not found.any() if factor == 0 else found.isnan().all()


def saved_bytes(pipeline: Pipeline, x: Tensor) -> int:
    """Most bytes that autograd keeps for a backward pass at any time, the networks' weights left out."""
    kept: dict[int, int] = {}
    most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal most
            self.tensor = tensor
            kept[id(self)] = tensor.numel() * tensor.element_size()
            most = max(most, sum(kept.values()))

        def __del__(self) -> None:
            del kept[id(self)]

    leaf = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        torch.autograd.grad(pipeline(leaf[None]).square().sum(), leaf)
    return most - (1 + 3) * x.numel() * 4  # the volume itself, for the second run, and the logits, for the square


def test_memory_does_not_grow_with_the_number_of_windows() -> None:
    pipeline = Pipeline(make_model(), mirroring=False, windows_per_pass=2)
    few, many = image((1, 8, 12, 15)), image((1, 8, 12, 200))
    assert pipeline.windows(few.shape[1:]) == 2
    assert pipeline.windows(many.shape[1:]) > 30
    assert 0 < saved_bytes(pipeline, many) <= 1.1 * saved_bytes(pipeline, few)


def test_nothing_but_whole_volumes_grows_with_the_volume() -> None:
    """All that lives at once, in the forward and in the backward pass, saved for it or not."""
    pipeline = Pipeline(make_model(), windows_per_pass=2)
    peaks, shapes = [], ((8, 12, 15), (8, 12, 200))
    for shape in shapes:
        leaf, derivative = image((1, *shape)).requires_grad_(), torch.ones(1, 3, *shape)
        with LiveBytes() as counted:
            torch.autograd.grad(pipeline(leaf[None]), leaf, derivative)
        peaks.append(counted.peak)
    window = 8 * 12 * 10 * 4
    assert peaks[0] > 2 * 20 * window  # two windows' activations are seen at all
    grown, voxels = peaks[1] - peaks[0], 8 * 12 * (200 - 15) * 4
    # 3 logits and their derivative; of 1 channel the volume, its gradient and what the Gaussian sums to; not the 39 × 8
    # windows that overlap 16 times, nor logits or derivatives once more, divided or scaled
    assert grown <= 10 * voxels


def test_volume_is_attacked_with_the_overlap_it_is_scored_with() -> None:
    """Tiles without overlap would be a different, easier target."""
    model = make_model()
    shape = (17, 23, 19)
    steps = compute_steps_for_sliding_window(shape, tuple(PATCH["3d_fullres"]), 0.5)
    windows = len(steps[0]) * len(steps[1]) * len(steps[2])
    assert windows > 3 * 2 * 2  # the tiles that would do
    assert Pipeline(model).windows(shape) == windows * 8  # mirrored copies
    pipeline = Pipeline(model, mirroring=False)
    pipeline(image((1, 1, *shape)))
    assert pipeline.passes.forward == windows
    assert pipeline.passes.backward == 0


@pytest.mark.parametrize(("configuration", "folds", "channels", "shape", "step", "mirroring"), SITUATIONS)
def test_windows_are_those_of_nnunets_predictor(
    configuration: str, folds: int, channels: int, shape: tuple[int, ...], step: float, mirroring: bool
) -> None:
    model = make_model(configuration, folds, channels)
    patch = PATCH[configuration]
    padded = (*shape[: -len(patch)], *map(max, shape[-len(patch) :], patch))
    slicers = model.predictor(step, mirroring)._internal_get_sliding_window_slicers(padded)
    mirrors = 2 ** len(patch) if mirroring else 1
    pipeline = Pipeline(model, step, mirroring)
    assert pipeline.windows(shape) == len(slicers) * mirrors * folds
    pipeline(image((1, channels, *shape)))
    assert pipeline.passes.forward == pipeline.windows(shape)


@pytest.mark.parametrize(("windows_per_pass", "kept"), [(1, 1), (6, 4), (100, 16)])
def test_passes_are_counted(windows_per_pass: int, kept: int) -> None:
    """Two forward passes and one backward pass for each window; the last batch of windows keeps its graph."""
    pipeline = Pipeline(make_model(), mirroring=False, windows_per_pass=windows_per_pass)
    x = image((1, 12, 18, 25)).requires_grad_()
    windows = pipeline.windows(x.shape[1:])
    assert windows == 16
    pipeline(x[None]).sum().backward()
    assert pipeline.passes.forward == 2 * windows - kept
    assert pipeline.passes.backward == windows


class Hungry(nn.Module):
    """Runs out of memory with more than so many windows at once; with gradients it needs more."""

    def __init__(self, network: nn.Module, most: int, most_with_gradient: int) -> None:
        super().__init__()
        self.network, self.most, self.most_with_gradient = network, most, most_with_gradient

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > (self.most_with_gradient if torch.is_grad_enabled() else self.most):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(x)


def with_network(model: TrainedModel, network: nn.Module) -> TrainedModel:
    object.__setattr__(model, "networks", (network,))
    return model


def test_out_of_memory_halves_the_windows_and_changes_nothing() -> None:
    x = image((1, 12, 18, 25))

    def both(model: TrainedModel) -> tuple[Tensor, Tensor, int]:
        pipeline = Pipeline(model, mirroring=False, windows_per_pass=16)
        leaf = x.clone().requires_grad_()
        logits = pipeline(leaf[None])
        (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
        return logits.detach(), gradient, pipeline.windows_per_pass

    logits, gradient, left = both(make_model())
    assert left == 16
    model = make_model()
    hungry, hungry_gradient, left = both(with_network(model, Hungry(model.networks[0], 8, 3)))
    assert left == 2
    assert torch.allclose(hungry, logits, atol=1e-5)
    assert torch.allclose(hungry_gradient, gradient, atol=1e-5)


def test_nothing_is_left_of_an_attack_step() -> None:
    """An attack of hundreds of steps needs the memory of one; steps without a backward pass leave nothing either."""
    pipeline, leaf = Pipeline(make_model(), windows_per_pass=2), image((1, 8, 12, 30)).requires_grad_()
    with LiveBytes() as counted:
        pipeline(leaf[None])
        left = counted.live  # what it remembers of this shape
        for _ in range(3):
            torch.autograd.grad(pipeline(leaf[None]).square().sum(), leaf)
            pipeline(leaf[None])
            assert counted.live == left
    assert left <= 4 * (2 * 8 * 12 * 30 + 8 * 12 * 10)  # the volume itself, the window's weights, and what they sum to


class HungryBackward(torch.autograd.Function):
    """Nothing, but its backward pass fails with more than so many windows at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: int, error: Exception) -> Tensor:
        ctx.most, ctx.error = most, error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if len(gradient) > ctx.most:
            raise ctx.error
        return gradient, None, None


class FailsBackward(nn.Module):
    def __init__(self, network: nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.network, self.most, self.error = network, most, error

    def forward(self, x: Tensor) -> Tensor:
        return HungryBackward.apply(self.network(x), self.most, self.error)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(("most", "left"), [(8, 8), (3, 2), (1, 1)])
def test_out_of_memory_on_the_way_back(error: Exception, most: int, left: int) -> None:
    model, x, weight = make_model(), image((1, 12, 18, 25)), image((3, 12, 18, 25), seed=1)

    def gradient(pipeline: Pipeline) -> Tensor:
        return gradient_of(lambda leaf: pipeline(leaf[None])[0], x, weight)

    expected = gradient(Pipeline(model, mirroring=False, windows_per_pass=16))
    pipeline = Pipeline(with_network(model, FailsBackward(model.networks[0], most, error)), 0.5, False, 16)
    found = gradient(pipeline)
    assert pipeline.windows_per_pass == left
    assert torch.linalg.vector_norm(found - expected) <= 1e-5 * torch.linalg.vector_norm(expected)


def test_memory_that_runs_out_between_the_passes_of_a_batch() -> None:
    """The graph that one sample has kept is of the former size when the next sample halves it."""
    x, weight = torch.stack([image((1, 12, 18, 25), seed) for seed in (1, 2)]), image((2, 3, 12, 18, 25))
    model = make_model()
    expected = gradient_of(Pipeline(model, mirroring=False, windows_per_pass=10), x, weight)
    pipeline = Pipeline(model, mirroring=False, windows_per_pass=10)

    assert pipeline.windows(x.shape[2:]) == 16  # passes end with 6 windows at first, with 1 after that

    def halving(both: Tensor) -> Tensor:
        first = pipeline(both[:1])
        pipeline.smaller(torch.OutOfMemoryError())
        return torch.cat([first, pipeline(both[1:])])

    found = gradient_of(halving, x, weight)
    assert torch.linalg.vector_norm(found - expected) <= 1e-5 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_with_one_window_names_the_way_out(error: Exception) -> None:
    model = make_model()
    network = model.networks[0]
    way_out = "single window of 8×12×10 voxels; use another --device"
    with pytest.raises(MemoryError, match=way_out):
        Pipeline(with_network(model, Hungry(network, 0, 0)))(image((1, 1, 12, 18, 25)))
    pipeline = Pipeline(with_network(model, FailsBackward(network, 0, error)))
    with pytest.raises(MemoryError, match=way_out):
        pipeline(image((1, 1, 12, 18, 25)).requires_grad_()).sum().backward()
    assert pipeline.windows_per_pass == 1


def test_other_errors_of_a_network_are_not_hidden() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Pipeline(with_network(make_model(), Broken()))(image((1, 1, 12, 18, 25)))
    model = make_model()
    pipeline = Pipeline(with_network(model, FailsBackward(model.networks[0], 0, RuntimeError("a bug"))))
    before = pipeline.windows_per_pass
    with pytest.raises(RuntimeError, match="a bug"):
        pipeline(image((1, 1, 12, 18, 25)).requires_grad_()).sum().backward()
    assert pipeline.windows_per_pass == before


@pytest.mark.parametrize("step", [0.0, -0.5, 1.5, float("nan")])
def test_impossible_step_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="step size of the sliding window"):
        Pipeline(make_model(), step)


def test_values_outside_0_and_1_count(full_precision: Any) -> None:
    """Inputs are z-scored: a pipeline that clamped them would see another image."""
    model = make_model()
    pipeline = Pipeline(model, mirroring=False)
    x = 3 * image((1, 8, 12, 10))
    assert not torch.allclose(pipeline(x[None]), pipeline(x.clamp(0, 1)[None]))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pipeline(leaf[None])[0, 1].sum(), leaf)
    assert gradient[(x < 0) | (x > 1)].abs().min() > 0
