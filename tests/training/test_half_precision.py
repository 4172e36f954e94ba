"""Training in half precision with scaled gradients, as on CUDA, but on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer_fixtures import Learning, MakeTrainer, check_run

from nnunet_ima.attacks.problem import Attacked, Problem
from nnunet_ima.methods.base import Outcome
from nnunet_ima.perturbation.half_precision import HALF
from nnunet_ima.training import robust, trainers, validation
from nnunet_ima.training.learner import SegmentationLearner
from nnunet_ima.training.robust import RobustTrainer

METHODS = ["nnUNetTrainerIMA", "nnUNetTrainerAdv", "nnUNetTrainerTRADES", "nnUNetTrainerMMA"]


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """The CPU computes in half precision, as CUDA does."""
    monkeypatch.setitem(HALF, "cpu", torch.float16)
    return torch.float16


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def any_half(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """In either kind of half precision."""
    monkeypatch.setitem(HALF, "cpu", request.param)
    return request.param


def scaling(trainer: RobustTrainer, scale: float = 2.0**16) -> RobustTrainer:
    """Give a trainer what nnU-Net gives it on CUDA."""
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


def begun(trainer: RobustTrainer) -> dict[str, Any]:
    """Start a training; returns its first batch."""
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return next(trainer.dataloader_train)


def weights(trainer: RobustTrainer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainer.network.parameters()]


@pytest.mark.parametrize("name", METHODS)
def test_training(any_half: torch.dtype, make_trainer: MakeTrainer, learnt: list[Learning], name: str) -> None:
    trainer = scaling(make_trainer(trainer=getattr(trainers, name), epochs=1, snapshot_interval=1))
    outputs = []
    trainer.initialize()
    trainer.network.register_forward_hook(lambda module, inputs, output: outputs.append(output[0].dtype))
    check_run(trainer, learnt)
    assert any_half in outputs
    assert {noisy.dtype for _, noisy, _ in learnt} == {torch.float32}
    log = trainer.logger.local_logger.my_fantastic_logging
    for series in ("train_losses", "val_losses", "ima_robust_dice", "ima_average_dice", "ima_average_robust_dice"):
        assert torch.tensor([value for value in log[series] if value is not None]).isfinite().all(), series
    assert all(p.isfinite().all() for p in trainer.average.start(trainer.network).parameters())
    assert all(p.dtype == torch.float32 for p in trainer.average.start(trainer.network).parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_optimiser_gets_unscaled_gradients(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They are those of single precision, but for rounding, on the samples that an attack has found there."""
    samples: list[tuple[torch.Tensor, torch.Tensor | None]] = []
    found = []

    class Replayed(SegmentationLearner):
        def __call__(self, x: torch.Tensor, rows: torch.Tensor | None = None) -> Outcome:
            if x is self.x:
                return super().__call__(x, rows)
            if HALF.get("cpu") is None:
                samples.append((x.detach().clone(), rows))
            return super().__call__(*samples[0])

    monkeypatch.setattr(robust, "SegmentationLearner", Replayed)
    for mixed in (False, True):
        trainer = make_trainer(trainer=getattr(trainers, name), plans_name=f"mixed{mixed}")
        batch = begun(trainer)
        if mixed:
            scaling(trainer)
            monkeypatch.setitem(HALF, "cpu", torch.float16)
        steps: list[torch.Tensor] = []
        trainer.optimizer.step = lambda trainer=trainer, steps=steps: steps.append(
            torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None])
        )
        loss = float(trainer.train_step(batch)["loss"])
        assert len(steps) == 1
        found.append((loss, steps[0]))
    (expected_loss, expected), (loss, gradient) = found
    assert gradient.dtype == torch.float32
    assert not torch.equal(gradient, expected)
    assert loss == pytest.approx(expected_loss, rel=0.01)
    assert torch.linalg.vector_norm(gradient - expected) < 0.1 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_validation_keeps_its_noise_in_the_ball(
    half: torch.dtype, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    seen: list[tuple[Problem, Attacked]] = []
    original = validation.pgd

    def watched(problem: Problem, *arguments: Any, **options: Any) -> Attacked:
        seen.append((problem, original(problem, *arguments, **options)))
        return seen[-1][1]

    monkeypatch.setattr(validation, "pgd", watched)
    trainer = scaling(make_trainer(norm=norm))
    batch = begun(trainer)
    trainer.network.eval()
    counts = validation.dice_counts(trainer, trainer.network, batch, torch.Generator().manual_seed(0))
    ((problem, attacked),) = seen
    assert attacked.x.dtype == torch.float32
    assert not attacked.trace.not_finite.any()
    sizes = problem.norm.size(attacked.x.double() - problem.x.double())
    assert (sizes <= problem.eps.double()).all()
    assert (sizes > 0).any()
    assert (counts == counts.round()).all()
    assert counts.sum() > 0


@pytest.mark.parametrize("name", [*METHODS, "nnUNetTrainerTE"])
def test_an_overflow_costs_a_step_and_nothing_else(half: torch.dtype, make_trainer: MakeTrainer, name: str) -> None:
    options = {"begin": 0.0, "end": 0.0} if name == "nnUNetTrainerTE" else {}
    trainer = scaling(make_trainer(trainer=getattr(trainers, name), **options), scale=2.0**127)
    batch = begun(trainer)
    before = weights(trainer)
    for skipped in range(1, 4):
        step = trainer.train_step(copy.copy(batch))
        assert torch.tensor(float(step["loss"])).isfinite()
        assert trainer.grad_scaler.get_scale() == 2.0 ** (127 - skipped)
        assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    averaged = list(trainer.average.start(trainer.network).parameters())
    for one, other in zip(before, averaged, strict=True):
        torch.testing.assert_close(one, other)
    trainer.grad_scaler.update(2.0**10)  # what it would come down to
    trainer.train_step(copy.copy(batch))
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    assert all(weight.isfinite().all() for weight in [*weights(trainer), *averaged])
    trainer.method.end_epoch()
    margins = torch.tensor(list((trainer.method.margins() or {"": 0.0}).values()))
    assert margins.isfinite().all()
    assert (margins >= 0).all()
    assert (margins <= 1.05 * trainer.settings.options["eps"]).all()


def test_a_resumed_training_scales_as_before(half: torch.dtype, make_trainer: MakeTrainer) -> None:
    whole = scaling(make_trainer(epochs=2, snapshot_interval=1), scale=2.0**127)  # the first steps are skipped
    whole.run_training()
    resumed = scaling(make_trainer(epochs=2, snapshot_interval=1, resume=True))
    first = Path(whole.output_folder) / "snapshots" / "epoch_0001.pth"
    resumed.load_checkpoint(str(first))
    assert resumed.grad_scaler.get_scale() == torch.load(first, weights_only=False)["grad_scaler_state"]["scale"]
    assert resumed.grad_scaler.get_scale() < 2.0**127
    resumed.run_training()
    assert resumed.grad_scaler.state_dict() == whole.grad_scaler.state_dict()
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)


def test_a_training_changes_its_device(half: torch.dtype, make_trainer: MakeTrainer) -> None:
    """From one without scaled gradients to one with them; nnU-Net begins with its first scale."""
    first = make_trainer(epochs=2, snapshot_interval=1)
    first.run_training()
    resumed = scaling(make_trainer(epochs=2, snapshot_interval=1, resume=True))
    resumed.load_checkpoint(str(Path(first.output_folder) / "snapshots" / "epoch_0001.pth"))
    resumed.run_training()
    assert resumed.grad_scaler.get_scale() > 0
