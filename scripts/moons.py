"""Decision boundaries of ce, adversarial training and IMA on two moons: the figure of docs/index.md.

The methods are those of `nnunet_ima.methods`, trained as in the paper: 30 epochs, batches of 128, Adam,
ε_max 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from sklearn.datasets import make_moons
from torch import Tensor, nn

from nnunet_ima.attacks.losses import cross_entropy
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.classification.learner import ClassifierLearner, MixedPrecision
from nnunet_ima.classification.training_data import shuffled_batches
from nnunet_ima.methods import Run, make_method
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import L2
from nnunet_ima.report.canvas import drawn_figure
from nnunet_ima.tasks.classification import Classification

TASK = Classification()
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ce": ("ce", {}),
    "adv, ε = 0.3": ("adv", {"eps": 0.3}),
    "IMA, ε_max = 0.3": ("ima", {"eps": 0.3}),
}


@dataclass
class Moons:
    """Train, print accuracies, draw the boundaries side by side."""

    output: Path = Path("results/moons.png")
    """PNG to write."""

    epochs: int = 30
    """Passes over the points."""

    points: int = 5000
    """Training points; as many are tested."""

    noise: float = 0.1
    """Standard deviation of the points around their moons."""

    seed: int = 0
    """Seed of points, weights, order and noise."""


def main(settings: Moons) -> None:
    """Do it."""
    x, y = draw_points(settings, settings.seed)
    x_test, y_test = draw_points(settings, settings.seed + 1)
    models = {title: train(x, y, *method, settings) for title, method in METHODS.items()}
    print(f"{'method':18} clean  PGD ε = 0.15  PGD ε = 0.3")
    for title, model in models.items():
        print(f"{title:18}", *(f"{accuracy(model, x_test, y_test, eps):.3f}".ljust(12) for eps in (0, 0.15, 0.3)))
    draw(models, x_test[:600], y_test[:600], settings.output)


def draw_points(settings: Moons, seed: int) -> tuple[Tensor, Tensor]:
    """Points (N, 2) and which moon they belong to (N,)."""
    x, y = make_moons(settings.points, noise=settings.noise, random_state=seed)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def train(x: Tensor, y: Tensor, name: str, options: dict[str, Any], settings: Moons) -> nn.Module:
    """Train a small network with a method."""
    torch.manual_seed(settings.seed)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    ids = tuple(str(number) for number in range(len(x)))
    method = make_method(name, Run(ids, settings.epochs, Budget("L2", 2, 2)), options)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for epoch in range(settings.epochs):
        generator = torch.Generator().manual_seed(epoch)
        method.begin_epoch(epoch)
        for batch in shuffled_batches(len(x), 128, generator):
            names = [ids[i] for i in batch.tolist()]
            optimizer.zero_grad()
            method.step(ClassifierLearner(MixedPrecision(model), x[batch], y[batch], names, TASK, generator))
            optimizer.step()
        method.end_epoch()
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
    """Share of points that stay right under PGD noise of 40 steps."""
    problem = Problem(model, x, y, torch.full((len(x),), float(eps)), L2(), TASK.quality)
    return float(pgd(problem, cross_entropy, steps=40, generator=torch.Generator().manual_seed(0)).quality.mean())


def draw(models: dict[str, nn.Module], x: Tensor, y: Tensor, file: Path) -> None:
    """Draw each model's probabilities, boundary and the points."""
    across, up = np.meshgrid(np.linspace(-1.6, 2.6, 300), np.linspace(-1.2, 1.7, 220))
    grid = torch.tensor(np.stack((across.ravel(), up.ravel()), 1), dtype=torch.float32)
    with drawn_figure(file, (4 * len(models), 3.2)) as figure:
        for axis, (title, model) in zip(figure.subplots(1, len(models)), models.items(), strict=True):
            with torch.no_grad():
                share = model(grid).softmax(1)[:, 1].reshape(across.shape).numpy()
            axis.contourf(across, up, share, levels=20, cmap="coolwarm", alpha=0.5)
            axis.contour(across, up, share, levels=[0.5], colors="black", linewidths=1.5)
            axis.scatter(x[:, 0], x[:, 1], c=y, cmap="coolwarm", s=4)
            axis.set(title=title, xticks=[], yticks=[], aspect="equal")


if __name__ == "__main__":
    main(tyro.cli(Moons, description=__doc__))
