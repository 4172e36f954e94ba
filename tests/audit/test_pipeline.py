"""The differentiable pipeline is nnU-Net's inference, its gradient is exact, and its memory is that of one window."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_ima.audit.model import TrainedModel
from nnunet_ima.audit.pipeline import Pipeline

PATCH = {"2d": (16, 12), "3d_fullres": (8, 12, 10)}


class Net(nn.Module):
    """Like a U-Net to the pipeline: convolutions and an instance norm, which looks at the whole window."""

    def __init__(self, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dimensions - 2]
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[dimensions - 2]
        self.layers = nn.Sequential(
            conv(channels, 6, 3, padding=1), norm(6, affine=True), nn.LeakyReLU(), conv(6, classes, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def make_model(configuration: str = "3d_fullres", folds: int = 1, channels: int = 1, seed: int = 0) -> TrainedModel:
    """A model with small random networks, and just the plans that prediction asks for."""
    torch.manual_seed(seed)
    patch = PATCH[configuration]
    plans = PlansManager(
        {
            "configurations": {configuration: {"patch_size": list(patch), "architecture": {}}},
            "label_manager": "LabelManager",
            "transpose_forward": [0, 1, 2],
        }
    )
    networks = tuple(Net(len(patch), channels, 3).eval().requires_grad_(False) for _ in range(folds))
    return TrainedModel(
        folder=Path(),
        trainer="nnUNetTrainer",
        configuration_name=configuration,
        folds=tuple(str(fold) for fold in range(folds)),
        checkpoints=(),
        networks=networks,
        plans=plans,
        configuration=plans.get_configuration(configuration),
        dataset_json={
            "labels": {"background": 0, "one": 1, "two": 2},
            "channel_names": {str(number): "MRI" for number in range(channels)},
        },
        mirror_axes=tuple(range(len(patch))),
        device=torch.device("cpu"),
    )


def image(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net's predictor add up windows in float32; the Gaussian stays rounded to half precision, as deployed."""
    original = predict_from_raw_data.torch
    patched = SimpleNamespace(**{name: getattr(original, name) for name in dir(original)})
    patched.half = torch.float32
    monkeypatch.setattr(predict_from_raw_data, "torch", patched)
    gaussian = predict_from_raw_data.compute_gaussian
    monkeypatch.setattr(predict_from_raw_data, "compute_gaussian", lambda *a, **k: gaussian(*a, **k).float())


SITUATIONS = [
    ("3d_fullres", 1, 1, (17, 23, 19), 0.5, True),
    ("3d_fullres", 2, 2, (17, 13, 10), 0.5, False),
    ("3d_fullres", 1, 1, (5, 30, 7), 1.0, True),  # smaller than the patch along two axes
    ("3d_fullres", 1, 1, (8, 12, 10), 0.5, False),  # exactly one window
    ("2d", 1, 1, (4, 25, 20), 0.5, True),
    ("2d", 2, 2, (3, 16, 12), 0.5, True),
    ("2d", 1, 1, (2, 9, 30), 0.3, False),
]


@pytest.mark.parametrize(("configuration", "folds", "channels", "shape", "step", "mirroring"), SITUATIONS)
def test_logits_are_nnunets(
    configuration: str,
    folds: int,
    channels: int,
    shape: tuple[int, ...],
    step: float,
    mirroring: bool,
    full_precision: None,
) -> None:
    model = make_model(configuration, folds, channels)
    x = image((channels, *shape))
    ours = Pipeline(model, step, mirroring)(x[None])[0]
    theirs = model.predictor(step, mirroring).predict_logits_from_preprocessed_data(x)
    assert ours.shape == theirs.shape
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
    ("configuration", "folds", "channels", "shape", "step", "mirroring"),
    [
        situation
        for situation in SITUATIONS
        if situation[3][-1] >= 10 and situation[3][-2] >= 12 and situation[3][0] > 1
    ],
)
@pytest.mark.parametrize("windows_per_pass", [1, 3, 1000])
def test_gradient_is_that_of_full_autograd(
    configuration: str,
    folds: int,
    channels: int,
    shape: tuple[int, ...],
    step: float,
    mirroring: bool,
    windows_per_pass: int,
) -> None:
    model = make_model(configuration, folds, channels)
    x, weight = image((channels, *shape)), image((3, *shape), seed=1)

    def gradient(function: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad((function(leaf).log_softmax(0) * weight).sum(), leaf)
        return found

    exact = gradient(lambda leaf: autograd_through_all_windows(model, leaf, step, mirroring))
    pipeline = Pipeline(model, step, mirroring, windows_per_pass)
    ours = gradient(lambda leaf: pipeline(leaf[None])[0])
    assert torch.linalg.vector_norm(ours - exact) <= 1e-4 * torch.linalg.vector_norm(exact)


def test_samples_of_a_batch_are_independent() -> None:
    pipeline = Pipeline(make_model("2d"))
    x = torch.stack([image((1, 2, 25, 20), seed) for seed in (1, 2)])
    both = pipeline(x)
    assert torch.equal(both[0], pipeline(x[:1])[0])
    assert torch.equal(both[1], pipeline(x[1:])[0])


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
    volume = 3 * x[0].numel() * 4  # what the loss and the fusion keep of the whole volume
    return most - 2 * volume


def test_memory_does_not_grow_with_the_number_of_windows() -> None:
    pipeline = Pipeline(make_model(), mirroring=False, windows_per_pass=2)
    few, many = image((1, 8, 12, 15)), image((1, 8, 12, 200))
    assert pipeline.windows(few.shape[1:]) == 2
    assert pipeline.windows(many.shape[1:]) > 30
    assert saved_bytes(pipeline, many) <= 1.2 * saved_bytes(pipeline, few)


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


def test_out_of_memory_with_one_window_names_the_way_out() -> None:
    model = make_model()
    pipeline = Pipeline(with_network(model, Hungry(model.networks[0], 0, 0)))
    with pytest.raises(MemoryError, match="single window of 8×12×10 voxels; use another --device"):
        pipeline(image((1, 1, 12, 18, 25)))


def test_other_errors_of_a_network_are_not_hidden() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Pipeline(with_network(make_model(), Broken()))(image((1, 1, 12, 18, 25)))


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
