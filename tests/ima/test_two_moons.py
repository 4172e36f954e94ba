"""IMA moves the boundary towards the middle between the classes."""

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

from nnunet_ima.classification.learner import ClassifierLearner, MixedPrecision
from nnunet_ima.ima.bpgd import Search, bpgd
from nnunet_ima.methods import Run, make_method
from nnunet_ima.perturbation.budget import Budget
from nnunet_ima.perturbation.norms import L2
from nnunet_ima.tasks.classification import Classification

EPS_MAX, EPOCHS = 0.3, 80


def boundary(model: nn.Module, x: Tensor, y: Tensor, eps: Tensor, expansion: float, search: Search):
    return bpgd(
        model,
        x,
        y,
        eps,
        norm=L2(),
        task=Classification(),
        score=Classification().score(model(x).detach(), y),
        expansion=expansion,
        generator=torch.Generator().manual_seed(0),
        search=search,
    )


def train(x: Tensor, y: Tensor, name: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    names = tuple(map(str, range(len(x))))
    options = {} if name == "plain" else {"eps": EPS_MAX, "delta": EPS_MAX / 20, "steps": 10}
    method = make_method(name, Run(names, EPOCHS, Budget("L2", 1, 1)), options)
    for epoch in range(EPOCHS):
        generator = torch.Generator().manual_seed(epoch)
        method.begin_epoch(epoch)
        for chosen in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            batch = [names[i] for i in chosen.tolist()]
            learner = ClassifierLearner(MixedPrecision(model), x[chosen], y[chosen], batch, Classification(), generator)
            method.step(learner)
            optimizer.step()
        method.end_epoch()
    return model


def test_smallest_margins_grow() -> None:
    points, labels = make_moons(300, noise=0.08, random_state=0)
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    smallest = {}
    for name in ("plain", "ima"):
        model = train(x, y, name)
        assert (model(x).argmax(1) == y).float().mean() >= 0.99
        right = model(x).argmax(1) == y
        found = boundary(model, x[right], y[right], torch.full((int(right.sum()),), 2.0), 0.01, Search(steps=100))
        assert found.crossed.float().mean() > 0.9
        smallest[name] = float(found.size.sort().values[:20].mean())
    assert smallest["ima"] > 1.1 * smallest["plain"]
