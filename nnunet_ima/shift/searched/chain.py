"""Changes one after the other: a single list of parameters, a box, and a scan and its label that move together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ima.shift.scan import Scan
from nnunet_ima.shift.searched.change import Change


@dataclass(frozen=True)
class Chain:
    """Changes of one scan, in their order.

    Attributes:
        changes: what happens, the first one first.
        spacing: distance of the scan's voxels along z, y and x, in mm.
    """

    changes: tuple[Change, ...]
    spacing: tuple[float, float, float]

    @property
    def sizes(self) -> list[int]:
        """Number of parameters of each change."""
        return [len(change.low) for change in self.changes]

    @property
    def low(self) -> Tensor:
        """Smallest parameters (P,)."""
        return torch.cat([change.low for change in self.changes])

    @property
    def high(self) -> Tensor:
        """Largest parameters (P,)."""
        return torch.cat([change.high for change in self.changes])

    @property
    def identity(self) -> Tensor:
        """Parameters (P,) that change nothing."""
        return torch.cat([change.identity for change in self.changes])

    def physical(self, unit: Tensor) -> Tensor:
        """Parameters (P,) at a point (P,) of the cube from -1 to 1, whose faces are those of the box."""
        low, high = self.low.to(unit), self.high.to(unit)
        return (low + high) / 2 + unit * (high - low) / 2

    def apply(self, channels: Tensor, shares: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Change a scan and what belongs to it; gradients flow through both.

        Geometries that follow each other move the image once: its voxels are interpolated a single time.

        Args:
            channels: (C, Z, Y, X), in raw units.
            shares: (L, Z, Y, X), of each voxel, that belong to labels; 0 outside of the scan.
            parameters: (P,).
        """
        waiting: list[tuple[Change, Tensor]] = []
        for change, own in zip(self.changes, parameters.split(self.sizes), strict=True):
            if change.geometry:
                waiting.append((change, own))
                continue
            channels, shares = self._moved(channels, shares, waiting)
            waiting = []
            channels = change.acting(channels, own)
        return self._moved(channels, shares, waiting)

    def told(self, parameters: Tensor) -> dict[str, str]:
        """Each change in words."""
        parts = parameters.split(self.sizes)
        return {change.name: change.telling(own) for change, own in zip(self.changes, parts, strict=True)}

    def listed(self, parameters: Tensor) -> dict[str, tuple[float, ...]]:
        """Parameters by change, as JSON keeps them."""
        parts = parameters.split(self.sizes)
        return {change.name: tuple(own.tolist()) for change, own in zip(self.changes, parts, strict=True)}

    def read(self, listed: Mapping[str, Sequence[float]]) -> Tensor:
        """The way back of `listed`."""
        return torch.tensor([value for change in self.changes for value in listed[change.name]])

    def _moved(
        self, channels: Tensor, shares: Tensor, changes: Sequence[tuple[Change, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        if not changes:
            return channels, shares
        shape = channels.shape[1:]
        half = torch.tensor([(size - 1) * edge / 2 for size, edge in zip(shape, self.spacing, strict=True)])
        half = half.to(channels)
        axes = [
            torch.linspace(-1, 1, size, device=channels.device) * end for size, end in zip(shape, half, strict=True)
        ]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        for change, own in reversed(changes):  # the last one says where to look in what the others have moved
            positions = change.acting(positions, own)
        grid = (positions / half.clamp_min(torch.finfo(half.dtype).tiny)).flip(-1)
        lowest = channels.amin((1, 2, 3), keepdim=True)  # what comes from outside
        whole = torch.cat((channels - lowest, shares))[None]
        moved = F.grid_sample(whole, grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]
        return moved[: len(channels)] + lowest, moved[len(channels) :]


def label_shares(scan: Scan, device: torch.device | None = None) -> tuple[Tensor, list[int]]:
    """Shares (L, Z, Y, X) of each label but the background, and the labels' values."""
    label = torch.from_numpy(scan.label.astype("int64")).to(device or "cpu")
    values = label.unique()
    values = values[values != 0]
    return (label[None] == values[:, None, None, None]).float(), values.tolist()


def label_of(shares: Tensor, values: Sequence[int]) -> Tensor:
    """Label map (*spatial), integer, by the largest share; the background takes what the labels (L, *spatial) leave."""
    if not values:
        return torch.zeros(shares.shape[1:], dtype=torch.long, device=shares.device)
    most, which = shares.max(0)
    known = torch.tensor([*values], device=shares.device)
    return torch.where(most > 1 - shares.sum(0), known[which], 0)
