"""IMA moves the boundary towards the middle between the classes."""

import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import Tensor, nn

from nnunet_ima.ima.bpgd import Search, bpgd
from nnunet_ima.ima.margins import MarginTable
from nnunet_ima.ima.objective import objective
from nnunet_ima.perturbation.norms import L2
from nnunet_ima.tasks.criteria import ArgmaxCriterion

EPS_MAX, EPOCHS = 0.3, 80


def losses(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none")


def boundary(model: nn.Module, x: Tensor, y: Tensor, eps: Tensor, expansion: float, search: Search):
    score = ArgmaxCriterion().score(model(x).detach(), y)
    return bpgd(
        model,
        x,
        y,
        eps,
        norm=L2(),
        criterion=ArgmaxCriterion(),
        loss=losses,
        score=score,
        expansion=expansion,
        generator=torch.Generator().manual_seed(0),
        search=search,
    )


def train(x: Tensor, y: Tensor, ima: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    table = MarginTable(map(str, range(len(x))), delta=EPS_MAX / 20, eps_max=EPS_MAX, damped=False)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(64):
            clean = losses(model(x[chosen]), y[chosen])
            found_losses = torch.empty(0)
            right = chosen[model(x[chosen]).argmax(1) == y[chosen]]
            if ima and len(right):
                cases = [str(i) for i in right.tolist()]
                found = boundary(model, x[right], y[right], table.radius(cases), table.delta, Search(steps=10))
                table.observe(cases, found.crossed, found.size)
                found_losses = losses(model(found.x), y[right])
            optimizer.zero_grad()
            objective(clean, found_losses, beta=0.5).backward()
            optimizer.step()
        table.end_epoch()
    return model


def test_smallest_margins_grow() -> None:
    points, labels = make_moons(300, noise=0.08, random_state=0)
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    smallest = {}
    for ima in (False, True):
        model = train(x, y, ima)
        assert (model(x).argmax(1) == y).float().mean() >= 0.99
        right = model(x).argmax(1) == y
        found = boundary(model, x[right], y[right], torch.full((int(right.sum()),), 2.0), 0.01, Search(steps=100))
        assert found.crossed.float().mean() > 0.9
        smallest[ima] = float(found.size.sort().values[:20].mean())
    assert smallest[True] > 1.1 * smallest[False]
