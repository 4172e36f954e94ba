"""nnU-Net's inference as one differentiable function of the preprocessed volume, in the memory of one window.

The deployed pipeline cuts the volume into overlapping windows, averages the network's answers over mirrored copies and
folds, weighs windows by a Gaussian and fuses them. Cutting and fusing are linear, so the gradient of any function of
the fused logits is exact without a graph that spans the windows: one pass without gradients fuses the logits; the
derivative with respect to them is cut into windows in turn, and each window runs once more to carry it back to the
volume. The window that ran last keeps its graph and is spared the second run, and so are windows without a
derivative. Where an image may change in few places only, windows without any of them run once (`Pipeline.confined`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nnunet_ima.inference.model import TrainedModel

# Voxels of all windows in one pass: enough to keep the device busy, with a network's activations in a few 100 MB (CPU)
# or a few GB (CUDA). Two windows of a small 3D network cost a CPU less than one, which PyTorch leaves to slower code.
VOXELS_PER_PASS = {"cpu": 2**18, "cuda": 2**21}

Slicer = tuple[Any, ...]
Sample = tuple[Slicer, tuple[int, ...]]  # where a window lies, and along which of its axes it is mirrored


@dataclass
class Passes:
    """Windows that went through a network."""

    forward: int = 0
    backward: int = 0


@dataclass
class Pipeline:
    """Images to fused logits, as nnU-Net predicts; gradients flow through it.

    Attributes:
        model: the trained model.
        step_size: of the sliding window, as a share of the patch size.
        mirroring: average over mirrored copies (test-time augmentation) along the model's mirror axes.
        windows_per_pass: windows, mirrored copies included, that run together; 0: by the device. It is halved whenever
            memory runs out.
        mixed_precision: run the networks under autocast; None: on CUDA, as nnU-Net does.
        passes: counts what was spent.
    """

    model: TrainedModel
    step_size: float = 0.5
    mirroring: bool = True
    windows_per_pass: int = 0
    mixed_precision: bool | None = None
    passes: Passes = field(default_factory=Passes)

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            msg = f"the step size of the sliding window must be above 0 and at most 1, got {self.step_size}"
            raise ValueError(msg)
        if self.mixed_precision is None:
            self.mixed_precision = self.model.device.type == "cuda"
        self._patch = tuple(self.model.configuration.patch_size)
        if not self.windows_per_pass:
            voxels = VOXELS_PER_PASS.get(self.model.device.type, VOXELS_PER_PASS["cpu"])
            self.windows_per_pass = max(1, voxels // prod(self._patch))
        self._weights: tuple[Tensor, Tensor] | None = None
        self._cut_for, self._cuts = tuple[int, ...](), list[Sample]()  # of the last shape
        self._base: Tensor | None = None  # what windows that are not cut add to the fused logits, before the division
        self._slicers = self.model.predictor(self.step_size)._internal_get_sliding_window_slicers
        axes = (self.model.mirror_axes or ()) if self.mirroring else ()
        self._mirrors = [
            tuple(axis - len(self._patch) for axis in chosen)
            for count in range(len(axes) + 1)
            for chosen in itertools.combinations(axes, count)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Fused logits (B, K, *spatial), in float32, of preprocessed images (B, C, *spatial)."""
        fused = [self._fused(image) for image in x]
        return fused[0][None] if len(fused) == 1 else torch.stack(fused)  # a stack of one would be a second copy

    @property
    def window(self) -> tuple[int, ...]:
        """Shape of a window along the three axes of a volume; that of a 2D network is one slice thick."""
        return (1,) * (3 - len(self._patch)) + self._patch

    def windows(self, shape: Sequence[int]) -> int:
        """Network passes that one volume of shape (*spatial) takes, mirrored copies and folds included."""
        padded, _ = self._padded(torch.empty((1, *shape), device="meta"))
        return len(self._samples(padded)) * len(self.model.networks)

    def batches(self, image: Tensor) -> list[tuple[nn.Module, Tensor]]:
        """Networks and the windows (N, C, *patch) that go through them, pass by pass, for an image (C, *spatial)."""
        padded, _ = self._padded(image)
        return [(network, _cut(padded, samples)) for network, samples in self._runs(padded)]

    def confined(self, x: Tensor, free: Tensor) -> Pipeline:
        """This pipeline for images that differ from one in some places only: windows without any of them run now.

        Args:
            x: the image (1, C, *spatial); with several the pipeline stays as it is.
            free: other than 0 where images may differ, broadcastable to `x`.
        """
        if len(x) != 1:
            return self
        padded, _ = self._padded(x[0])
        places, _ = self._padded(free.expand_as(x)[0])
        samples = self._samples(padded)
        changing = _not_zero(places, samples)
        other = copy.copy(self)
        other._cuts = [sample for sample in samples if sample not in changing]
        if not other._cuts:
            return self
        with torch.no_grad():
            other._base, _ = _fuse(padded, other, keep=False)
        other._cuts = changing
        return other

    def _fused(self, image: Tensor) -> Tensor:
        padded, inside = self._padded(image)
        logits: Tensor = _Fuse.apply(padded, self)  # type: ignore[no-untyped-call]
        return logits[(slice(None), *inside[1:])]

    def _padded(self, image: Tensor) -> tuple[Tensor, Slicer]:
        if all(size >= least for size, least in zip(image.shape[-len(self._patch) :], self._patch, strict=True)):
            return image, (slice(None),) * image.ndim
        padded, inside = pad_nd_image(image, self._patch, "constant", {"value": 0}, True, None)
        return padded, tuple(inside)

    def _samples(self, padded: Tensor) -> list[Sample]:
        shape = tuple(padded.shape[1:])
        if self._cut_for != shape:
            if self._base is not None:
                msg = f"confined to an image of shape {self._cut_for}, got one of {shape}"
                raise ValueError(msg)
            self._cut_for = shape
            self._cuts = [(window, axes) for window in self._slicers(shape) for axes in self._mirrors]
        return self._cuts

    def _runs(self, padded: Tensor) -> Iterator[tuple[nn.Module, list[Sample]]]:
        """Network and samples of each pass."""
        return itertools.product(self.model.networks, self._passes(self._samples(padded)))

    def _passes(self, samples: list[Sample]) -> list[list[Sample]]:
        """Samples that run together."""
        count = self.windows_per_pass
        return [samples[begin : begin + count] for begin in range(0, len(samples), count)]

    def predict(self, network: nn.Module, windows: Tensor) -> Tensor:
        """Logits (N, K, *patch) of windows (N, C, *patch)."""
        self.passes.forward += len(windows)
        with torch.autocast(self.model.device.type, enabled=bool(self.mixed_precision)):
            prediction: Tensor = network(windows)
        return prediction.float()

    def weights(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """Gaussian (*patch) over a window, and what it sums to (*spatial) over windows, copies and folds."""
        shape = tuple(padded.shape[1:])
        if self._weights is None or self._weights[1].shape != shape:
            gaussian = compute_gaussian(self._patch, sigma_scale=1 / 8, value_scaling_factor=10, device=padded.device)
            gaussian = gaussian.float()  # after nnU-Net has rounded it to half precision
            total = padded.new_zeros(shape)
            for window in self._slicers(shape):
                total[window[1:]] += gaussian
            self._weights = gaussian, total * (len(self._mirrors) * len(self.model.networks))
        return self._weights

    def smaller(self, error: RuntimeError) -> None:
        """Halve the windows per pass after memory ran out; raise the error if it was another one.

        Raises:
            MemoryError: not even one window fits.
        """
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise error
        if self.windows_per_pass == 1:
            patch = "×".join(map(str, self._patch))
            msg = f"out of memory on {self.model.device} with a single window of {patch} voxels; use another --device"
            raise MemoryError(msg) from error
        self.windows_per_pass //= 2
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()


class _Fuse(torch.autograd.Function):
    """Padded volume (C, *spatial) to fused logits (K, *spatial)."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, pipeline: Pipeline) -> Tensor:
        ctx.pipeline = pipeline
        ctx.save_for_backward(padded)
        while True:
            try:
                fused, ctx.kept = _fuse(padded, pipeline, keep=ctx.needs_input_grad[0])
            except RuntimeError as error:
                pipeline.smaller(error)
            else:
                return fused.div_(pipeline.weights(padded)[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, derivative: Tensor) -> tuple[Tensor, None]:
        (padded,), kept, ctx.kept = ctx.saved_tensors, ctx.kept, None
        while True:
            try:
                return _pull_back(padded, ctx.pipeline, derivative, kept), None
            except RuntimeError as error:
                kept = None
                ctx.pipeline.smaller(error)


_Kept = tuple[list[Sample], Tensor, Tensor]  # samples, windows, logits of a pass


def _fuse(padded: Tensor, pipeline: Pipeline, keep: bool) -> tuple[Tensor, _Kept | None]:
    """Logits of all windows, weighed and added up, and the last pass with its graph."""
    gaussian, _ = pipeline.weights(padded)
    kept: _Kept | None = None
    fused = None if pipeline._base is None else pipeline._base.clone()
    runs = list(pipeline._runs(padded))
    for number, (network, samples) in enumerate(runs):
        last = keep and number == len(runs) - 1
        with torch.set_grad_enabled(last):
            windows = _cut(padded, samples).requires_grad_(last)
            logits = pipeline.predict(network, windows)
        if last:
            kept = samples, windows, logits
        if fused is None:
            fused = logits.new_zeros((logits.shape[1], *padded.shape[1:]))
        _add(fused, logits.detach(), samples, gaussian)
    assert fused is not None  # there is at least one window
    return fused, kept


def _pull_back(padded: Tensor, pipeline: Pipeline, derivative: Tensor, kept: _Kept | None) -> Tensor:
    """Derivative with respect to the volume, from that with respect to the fused logits."""
    gaussian, total = pipeline.weights(padded)
    # A mean over voxels has derivatives that half precision would round to nothing; powers of two change nothing else.
    low, high = derivative.aminmax()  # of an absolute value there would be a volume
    largest = torch.maximum(-low, high).clamp_min(torch.finfo(derivative.dtype).tiny)
    scale, found = torch.exp2(-largest.log2().round()), torch.zeros_like(padded)

    def carry(samples: list[Sample], windows: Tensor, logits: Tensor) -> None:
        # scaled and divided window by window: of all classes there would be another volume
        cut = [derivative[window] * scale / total[window[1:]] * gaussian for window, _ in samples]
        (gradient,) = torch.autograd.grad(logits, windows, _mirrored(cut, samples))
        pipeline.passes.backward += len(samples)
        _add(found, gradient, samples)

    for network in reversed(pipeline.model.networks):
        left = pipeline._samples(padded)
        if kept is not None:  # the last of the last network, first to free its memory
            left = left[: -len(kept[0])]
            if _not_zero(derivative, kept[0]):
                carry(*kept)
            kept = None
        for samples in reversed(pipeline._passes(_not_zero(derivative, left))):
            with torch.enable_grad():
                windows = _cut(padded, samples).requires_grad_()
                logits = pipeline.predict(network, windows)
            carry(samples, windows, logits)
            del windows, logits
    return found / scale


def _not_zero(volume: Tensor, samples: list[Sample]) -> list[Sample]:
    """The samples whose window of a volume (C, *spatial) holds anything but zeros."""
    if not samples:
        return []
    holds = torch.stack([volume[window].any() for window, _ in samples]).tolist()  # one wait for the device
    return [sample for sample, wanted in zip(samples, holds, strict=True) if wanted]


def _cut(volume: Tensor, samples: list[Sample]) -> Tensor:
    """Windows (N, C, *patch) of a volume (C, *spatial), mirrored."""
    return _mirrored([volume[window] for window, _ in samples], samples)


def _mirrored(windows: list[Tensor], samples: list[Sample]) -> Tensor:
    """The windows of samples (C, *patch), each mirrored as its sample says, as one batch (N, C, *patch)."""
    return torch.stack([it.flip(axes) if axes else it for it, (_, axes) in zip(windows, samples, strict=True)])


def _add(volume: Tensor, windows: Tensor, samples: list[Sample], weight: Tensor | None = None) -> None:
    """Add windows to a volume where they belong; the adjoint of `_cut`."""
    for values, (window, axes) in zip(windows, samples, strict=True):
        values = values.flip(axes) if axes else values
        volume[window] += values if weight is None else values * weight
