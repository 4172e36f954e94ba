"""The Python in the documentation runs as it stands there, and what it adds to the package works."""

from __future__ import annotations

import doctest
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from doc_pages import DOCS, ROOT, Block, blocks, name_of

from nnunet_ima.attacks.losses import cross_entropy, find_loss
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.presets import PRESETS
from nnunet_ima.attacks.problem import Problem
from nnunet_ima.classification.fit import fit
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.classification.training_data import TrainingData
from nnunet_ima.perturbation.norms import NORMS
from nnunet_ima.tasks.classification import Classification
from nnunet_ima.tasks.segmentation import Segmentation
from nnunet_ima.tasks.voxelwise import Labels

EXTENDING = ROOT / "docs" / "extending.md"


@pytest.mark.parametrize("page", [page for page in DOCS if blocks(page, "pycon")], ids=name_of)
def test_what_the_interpreter_is_shown_to_answer(page: Path) -> None:
    text = "\n".join(block.text + "\n" for block in blocks(page, "pycon"))
    session = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(session).failed == 0


@pytest.mark.parametrize("page", [page for page in DOCS if blocks(page, "python")], ids=name_of)
@pytest.mark.usefixtures("home")
def test_programs(page: Path) -> None:
    """Blocks without a title are programs; those with one are parts of the package, see below."""
    for block in blocks(page, "python"):
        if not block.title:
            exec(compile(block.text, page.name, "exec"), {})


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package with everything that the page adds to it."""
    seen: dict[str, dict[str, Any]] = {}
    for block in blocks(EXTENDING, "python"):
        if block.title:
            add(block, seen, monkeypatch)


def add(block: Block, seen: dict[str, dict[str, Any]], patch: pytest.MonkeyPatch) -> None:
    """Put a new file, or lines of a known one, where the block's title says; registries get what it adds to them."""
    file, _, registry = block.title.partition(", in ")
    name = file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
    if not (ROOT / file).exists():
        module = ModuleType(name)
        patch.setitem(sys.modules, name, module)
        exec(compile(block.text, file, "exec"), vars(module))
        return
    original = vars(importlib.import_module(name))
    names = seen.setdefault(name, dict(original))
    exec(compile(f"{registry} = {{**{registry}, {block.text}}}" if registry else block.text, file, "exec"), names)
    for key, value in original.items():
        if isinstance(value, dict) and names[key] is not value:
            for entry in names[key].keys() - value.keys():
                patch.setitem(value, entry, names[key][entry])


def test_the_page_adds_one_of_each() -> None:
    titles = [block.title for block in blocks(EXTENDING, "python") if block.title]
    assert [title for title in titles if " in " in title or "norms/__init__" in title] == [
        "nnunet_ima/_methods.py, in METHODS",
        "nnunet_ima/attacks/presets.py, in PRESETS",
        "nnunet_ima/attacks/losses.py, in LOSSES",
        "nnunet_ima/attacks/presets.py, in PRESETS",
        "nnunet_ima/perturbation/norms/__init__.py",
    ]


@pytest.mark.usefixtures("extended")
def test_the_defence_trains_a_classifier(tmp_path: Path) -> None:
    x, y = torch.rand(12, 1, 32, 32), torch.arange(12) % 2
    data = TrainingData(x, y, tuple(map(str, range(12))), x[:4], y[:4], ("a", "b"), "digest")
    settings = resolve_settings("jitter3", "cpu", {"epochs": 1, "size": 32, "robust_steps": 1})
    assert fit(data, settings, tmp_path / "fit").is_file()


@pytest.mark.usefixtures("extended")
def test_the_defence_trains_nnunet(make_trainer: Callable[..., Any]) -> None:
    from nnunet_ima.training import trainers

    trainer = make_trainer("2d", trainer=trainers.nnUNetTrainerJitter, epochs=1, iterations_per_epoch=1, eps=0.3)
    trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()


def problem(norm: str, eps: float) -> Problem:
    """Voxels whose label is 1 where they are bright, and a network that sees it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 6, 6, generator=generator)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x, x], 1)

    return Problem(network, x, (x > 0).long(), torch.full((2,), eps), NORMS[norm], Segmentation().quality)


@pytest.mark.usefixtures("extended")
@pytest.mark.parametrize("attack", ["offset", "pgd-lead"])
def test_the_attacks_find_noise_inside_their_bound(attack: str) -> None:
    (component,) = PRESETS[attack]
    found = component.run(problem("L2", 6.0), Labels(), torch.Generator().manual_seed(0))
    assert (found.quality < 0.9).all()
    assert (found.trace.quality.diff(dim=0) <= 0).all()


@pytest.mark.usefixtures("extended")
def test_the_loss_is_the_lead_of_the_wrong_class() -> None:
    logits, labels = torch.tensor([[[3.0, 1.0], [1.0, 2.0], [0.0, 5.0]]]), Labels(ignore=9)
    loss: Any = find_loss("lead", labels).function
    assert loss(logits, torch.tensor([[[0, 1]]]), labels, 0.0).tolist() == [(-2 + 3) / 2]
    assert loss(logits, torch.tensor([[[0, 9]]]), labels, 0.0).tolist() == [-2]


@pytest.mark.usefixtures("extended")
def test_the_norm_is_one() -> None:
    norm, noise = NORMS["L1"], torch.randn(3, 1, 5, 5)
    sizes, eps = norm.size(noise), torch.tensor([1.0, 5.0, 1e3])
    projected = norm.project(noise, eps)
    assert torch.allclose(norm.size(projected), eps.minimum(sizes))
    assert torch.equal(projected[2], noise[2])
    # nearest: what was taken off is the same wherever something is left
    taken = (noise - projected).abs()[0][projected[0] != 0]
    assert torch.allclose(taken, taken[0].expand_as(taken))
    # the dual norm: a linear function grows most along the largest entry of its gradient
    assert torch.allclose((norm.steepest(noise) * noise).flatten(1).sum(1), noise.flatten(1).abs().amax(1))
    assert (norm.size(norm.random(noise, torch.Generator().manual_seed(0))) <= 1 + 1e-5).all()


@pytest.mark.usefixtures("extended")
def test_attacks_take_the_norm() -> None:
    weights = torch.tensor([[1.0, -4.0, 2.0]])

    def linear(x: torch.Tensor) -> torch.Tensor:
        lead = x @ weights.T
        return torch.cat([lead, -lead], 1) / 2

    x = torch.tensor([[1.0, 0.0, 0.0]])
    for eps, right in ((0.2, 1.0), (0.3, 0.0)):  # its boundary lies at 1 / 4
        task = Problem(linear, x, torch.tensor([0]), torch.tensor([eps]), NORMS["L1"], Classification().quality)
        found = pgd(task, cross_entropy, steps=20, generator=torch.Generator().manual_seed(0))
        assert found.quality.tolist() == [right]
