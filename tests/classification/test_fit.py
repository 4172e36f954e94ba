"""Training: it learns, goes on where it was stopped, keeps what it promises, and refuses what is not its own."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_ima.classification import fit as fit_module
from nnunet_ima.classification.fit import LATEST, MODEL, fit, suggested_eps
from nnunet_ima.classification.networks import load_classifier
from nnunet_ima.classification.settings import Settings, resolve_settings
from nnunet_ima.classification.training_data import TrainingData
from nnunet_ima.perturbation.half_precision import HALF

SIZE = 32


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images; those of class 1 have a fine pattern besides."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = 0.4 + 0.1 * torch.rand(count, 1, SIZE, SIZE, generator=generator)
    pattern = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2
    return x + 0.2 * pattern * y[:, None, None, None], y


def training_data(digest: str = "d") -> TrainingData:
    x, y = images(48, 0)
    x_validation, y_validation = images(16, 1)
    return TrainingData(x, y, tuple(f"{i}.png" for i in range(48)), x_validation, y_validation, ("a", "b"), digest)


def settings(method: str = "ima1", **changes: Any) -> Settings:
    small = {"size": SIZE, "epochs": 6, "batch_size": 8, "robust_images": 8, "robust_steps": 3, "snapshot_interval": 3}
    return resolve_settings(method, "cpu", small | {"learning_rate": 0.01, "robust_eps": 0.5} | changes)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the training be killed at the start of an epoch; returns what undoes it."""
    original = fit_module._Training.run_epoch

    def killed(self: Any, epoch: int) -> str:
        if epoch == epochs:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(fit_module._Training, "run_epoch", killed)
    return lambda: monkeypatch.setattr(fit_module._Training, "run_epoch", original)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training with IMA."""
    return fit(training_data(), settings(), tmp_path_factory.mktemp("ima") / "ima").parent


def test_it_learns_and_writes_everything_down(trained: Path) -> None:
    rows = log_of(trained)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["validation"]) >= 0.9
    assert all(0 <= float(row["validation_robust"]) <= float(row["validation"]) for row in rows)
    assert float(rows[-1]["margin_mean"]) > float(rows[0]["margin_mean"])
    assert all(float(row["margin_max"]) <= 1 for row in rows)
    assert {"progress.png", "margins.png", "margins.json", "training.json", MODEL} <= {
        p.name for p in trained.iterdir()
    }
    assert not (trained / LATEST).exists()
    assert set(json.loads((trained / "margins.json").read_text())) == set(training_data().ids)


def test_curves_are_drawn_now_and_then_and_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in every one of many short epochs, nor at once where a training goes on."""
    drawn: list[int] = []
    monkeypatch.setattr(fit_module._Training, "_draw", lambda self, _: drawn.append(self.epoch))
    go_on = stop_after(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(training_data(), settings(), tmp_path / "ima")
    go_on()
    fit(training_data(), settings(), tmp_path / "ima")
    assert drawn == [1, 6]


def test_the_classifier_is_the_one_that_was_validated(trained: Path) -> None:
    classifier = load_classifier(trained / MODEL)
    data = training_data()
    right = (classifier.network(data.x_validation).argmax(1) == data.y_validation).float().mean()
    assert float(right) == pytest.approx(float(log_of(trained)[-1]["validation"]))
    assert (classifier.classes, classifier.size, classifier.epoch) == (("a", "b"), SIZE, 6)
    assert not any(weight.requires_grad for weight in classifier.network.parameters())


def test_snapshots_trace_the_trade_off(trained: Path) -> None:
    entries = json.loads((trained / "snapshots.json").read_text())
    assert [entry["epoch"] for entry in entries] == [3, 6]
    rows = log_of(trained)
    for entry in entries:
        assert load_classifier(trained / entry["file"]).epoch == entry["epoch"]
        assert entry["margin_max"] == pytest.approx(float(rows[entry["epoch"] - 1]["margin_max"]))
        limit = min(1, (entry["epoch"] + 1) / 3)  # Δ is ε_max / 3 in 6 epochs, and the first margin is Δ
        assert entry["margin_max"] <= limit + 1e-6


@pytest.mark.parametrize(
    ("method", "schedule"),
    [("ima4", "one-cycle"), ("mma4", "constant"), ("fat4", "constant"), ("gairat4", "one-cycle")],
)
def test_resuming_equals_no_interruption(
    method: str, schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(method, schedule=schedule, dropout=0.2, epochs=3, batch_size=16)
    once = fit(training_data(), chosen, tmp_path / "once")
    undo = stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(training_data(), chosen, tmp_path / "twice")
    undo()
    assert not (tmp_path / "twice" / MODEL).exists()
    (tmp_path / "twice" / "snapshots.json").write_text("[")  # is written anew, from the checkpoint's log
    (tmp_path / "twice" / "log.csv").write_bytes(b"\xff")
    twice = fit(training_data(), chosen, tmp_path / "twice")
    first, second = (load_classifier(file).network.state_dict() for file in (once, twice))
    assert all(torch.equal(first[name], second[name]) for name in first)
    without_time = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in log_of(file.parent)]
        for file in (once, twice)
    ]
    assert without_time[0] == without_time[1]
    snapshots = [json.loads((file.parent / "snapshots.json").read_text()) for file in (once, twice)]
    assert snapshots[0] == snapshots[1] != []


def test_a_finished_training_is_not_repeated(trained: Path) -> None:
    before = (trained / MODEL).stat().st_mtime_ns
    assert fit(training_data(), settings(), trained) == trained / MODEL
    assert (trained / MODEL).stat().st_mtime_ns == before


def test_seeds_decide(tmp_path: Path) -> None:
    files = [
        fit(training_data(), settings("adv4", epochs=1, seed=seed), tmp_path / name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    weights = [load_classifier(file).network.state_dict()["linear.weight"] for file in files]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_another_training_in_the_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a training with other method, epochs, options"):
        fit(training_data(), settings("ima5", epochs=5), trained)
    with pytest.raises(ValueError, match="holds a training with other data"):
        fit(training_data("other"), settings(), trained)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(note.txt\)"):
        fit(training_data(), settings(), tmp_path)


def test_damaged_checkpoints_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undo = stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(training_data(), settings("ce"), tmp_path / "ce")
    undo()
    (tmp_path / "ce" / LATEST).write_bytes(b"half")
    with pytest.raises(ValueError, match=f"{LATEST} is damaged"):
        fit(training_data(), settings("ce"), tmp_path / "ce")


def test_a_loss_that_explodes_is_an_error(tmp_path: Path) -> None:
    data = training_data()
    data.x[0] = torch.nan
    with pytest.raises(ValueError, match="the loss is nan in epoch 1"):
        fit(data, settings("ce"), tmp_path / "ce")


def test_a_training_can_begin_with_another_ones_weights(trained: Path, tmp_path: Path) -> None:
    # a step of nothing: the weights are those that it began with
    chosen = settings("ce", learning_rate=1e-12, weight_decay=0, epochs=1, schedule="constant", start_from="ima")
    file = fit(training_data(), chosen, tmp_path / "ce", start=trained / MODEL)
    first, second = (load_classifier(f).network.state_dict() for f in (trained / MODEL, file))
    assert all(torch.allclose(first[name], second[name], atol=1e-9) for name in first)
    with pytest.raises(ValueError, match="other start"):
        fit(training_data(), chosen, tmp_path / "ce", start=trained / "snapshot_003.pt")


def test_other_classes_are_no_start(trained: Path, tmp_path: Path) -> None:
    data = training_data()
    other = replace(data, classes=("b", "a"))
    with pytest.raises(ValueError, match=r"model\.pt tells a, b apart, the images b, a"):
        fit(other, settings("ce", start_from="ima"), tmp_path / "ce", start=trained / MODEL)


def test_images_that_the_network_cannot_take_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size=16 does not suit the network"):
        fit(replace(training_data(), x=torch.rand(48, 1, 16, 16)), settings("ce", size=16), tmp_path / "ce")
    assert not (tmp_path / "ce").exists()


def test_balanced_training_weighs_classes(tmp_path: Path) -> None:
    data = training_data()
    rare = TrainingData(data.x[:30], torch.tensor([1] * 3 + [0] * 27), data.ids[:30], *images(16, 1), ("a", "b"), "r")
    chosen = settings("ce", balanced=True)
    training = fit_module._Training(rare, chosen, tmp_path, torch.device("cpu"))
    assert training.task.class_weights is not None
    assert training.task.class_weights.tolist() == pytest.approx([0.2, 1.8])


def test_the_suggested_noise_level_is_the_median_margin() -> None:
    assert suggested_eps([1.0, 9.0, 2.0]) == 2.0


@pytest.mark.parametrize("method", ["ce", "ima1", "trades1", "mma1"])
def test_half_precision(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, but on the CPU."""
    monkeypatch.setitem(HALF, "cpu", torch.float16)
    file = fit(training_data(), settings(method, epochs=2), tmp_path / method)
    for row in log_of(file.parent):
        assert all(math.isfinite(float(value)) for value in row.values())
    weights = load_classifier(file).network.parameters()
    assert all(weight.isfinite().all() and weight.dtype == torch.float32 for weight in weights)


def test_the_optimiser_gets_unscaled_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of single precision, but for rounding; an overflow costs a step and nothing else."""
    found = []
    for half in (False, True):
        if half:
            monkeypatch.setitem(HALF, "cpu", torch.float16)
        training = fit_module._Training(training_data(), settings("ce"), tmp_path, torch.device("cpu"))
        assert training.scaler.is_enabled() is half
        training._step(torch.arange(8), torch.Generator().manual_seed(0))
        found.append([weight.grad for weight in training.network.parameters()])
    # first layers see images of little contrast, whose rounding normalisation enlarges; the last one tells the scale
    torch.testing.assert_close(found[1][-2], found[0][-2], rtol=0.05, atol=0.05 * float(found[0][-2].abs().max()))
    single, half = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in found)
    assert torch.cosine_similarity(single, half, 0) > 0.9

    before = [weight.detach().clone() for weight in training.network.parameters()]
    training.scaler.update(2.0**127)
    training._step(torch.arange(8), torch.Generator().manual_seed(0))
    assert training.scaler.get_scale() == 2.0**126
    assert all(torch.equal(a, b) for a, b in zip(before, training.network.parameters(), strict=True))


def test_a_training_begun_in_single_precision_goes_on_in_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a CPU to a GPU; and back, for good measure."""
    undo = stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(training_data(), settings("ce", epochs=3), tmp_path / "ce")
    undo()
    monkeypatch.setitem(HALF, "cpu", torch.float16)
    undo = stop_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(training_data(), settings("ce", epochs=3), tmp_path / "ce")
    undo()
    assert torch.load(tmp_path / "ce" / LATEST, weights_only=True)["scaler"]["scale"] > 1
    monkeypatch.delitem(HALF, "cpu")
    assert fit(training_data(), settings("ce", epochs=3), tmp_path / "ce").is_file()
