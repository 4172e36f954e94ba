"""A run that is stopped and resumed equals one that was not, and equal seeds give equal runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ima.training.batches import SeededBatches
from nnunet_ima.training.trainers import nnUNetTrainerPlain


class PowerLossError(Exception):
    pass


def lose_power_at(trainer, epoch: int) -> None:
    original = trainer.on_epoch_start

    def on_epoch_start() -> None:
        if trainer.current_epoch == epoch:
            raise PowerLossError
        original()

    trainer.on_epoch_start = on_epoch_start


def series(trainer) -> dict[str, list]:
    log = trainer.logger.local_logger.my_fantastic_logging
    return {key: values for key, values in log.items() if "timestamps" not in key and key != "ima_seconds"}


def test_resume_equals_no_interruption(make_trainer) -> None:
    options = {"epochs": 4, "snapshot_interval": 1, "robust_interval": 2}
    whole = make_trainer(plans_name="whole", **options)
    whole.run_training()

    first = make_trainer(plans_name="halved", **options)
    lose_power_at(first, 2)
    with pytest.raises(PowerLossError):
        first.run_training()
    resumed = make_trainer(plans_name="halved", resume=True, **options)
    resumed.load_checkpoint(str(Path(resumed.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 2
    resumed.run_training()

    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert resumed.method.state_dict() == whole.method.state_dict()
    assert len(set(whole.method.margins().values())) > 1
    for key, values in series(whole).items():
        assert [str(value) for value in values] == [str(value) for value in series(resumed)[key]], key
    names = [Path(trainer.output_folder) / "ima_snapshots.json" for trainer in (whole, resumed)]
    assert names[0].read_text() == names[1].read_text()


def test_a_checkpoint_does_not_go_on_under_other_settings(make_trainer) -> None:
    first = make_trainer(snapshot_interval=1)
    lose_power_at(first, 1)
    with pytest.raises(PowerLossError):
        first.run_training()
    file = Path(first.output_folder) / "checkpoint_latest.pth"
    before = {file.name: file.stat().st_mtime_ns for file in file.parent.iterdir()}
    resumed = make_trainer(resume=True, snapshot_interval=1, eps_max=0.05, delta=0.01, norm="Linf")
    resumed.load_checkpoint(str(file))
    with pytest.raises(
        ValueError, match=r"checkpoint_latest\.pth was trained with other settings .*norm was 'L2', now"
    ):
        resumed.run_training()
    after = {file.name: file.stat().st_mtime_ns for file in file.parent.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} <= {Path(resumed.log_file).name}  # nnU-Net's log


def test_a_plain_training_does_not_go_on_under_other_settings(make_trainer) -> None:
    first = make_trainer(trainer=nnUNetTrainerPlain, epochs=1, iterations_per_epoch=1)
    first.run_training()
    file = Path(first.output_folder) / "checkpoint_final.pth"
    resumed = make_trainer(trainer=nnUNetTrainerPlain, resume=True, epochs=2, iterations_per_epoch=1)
    resumed.load_checkpoint(str(file))
    with pytest.raises(ValueError, match=r"was trained with other settings \(epochs was 1, now 2\)"):
        resumed.run_training()


def test_a_checkpoint_of_the_first_release_goes_on_with_slices(make_trainer) -> None:
    """It knows no margin_key, and a margin per case, from which its slices start."""
    first = make_trainer(snapshot_interval=1, epochs=3, margin_key="case")
    lose_power_at(first, 2)
    with pytest.raises(PowerLossError):
        first.run_training()
    file = Path(first.output_folder) / "checkpoint_latest.pth"
    stored = torch.load(file, weights_only=False)
    ours = stored["init_args"]["nnunet_ima"]
    known = ours["settings"] | ours["settings"].pop("options")
    former = {"eps": "eps_max", "steps": "pgd_steps"}
    settings = {former.get(key, key): value for key, value in known.items() if key not in ("margin_key", "method")}
    stored["init_args"]["nnunet_ima"] = {"margins": ours["state"]["margins"], "settings": settings}
    torch.save(stored, file)
    resumed = make_trainer(resume=True, snapshot_interval=1, epochs=3)
    resumed.load_checkpoint(str(file))
    case, margin = max(first.method.table.cases.items(), key=lambda entry: entry[1])
    assert margin > 0.2
    resumed.on_train_start()
    assert resumed.method.table.margin((case, 7)) == margin
    resumed.run_training()
    assert resumed.method.table.slices


def test_seeds(make_trainer) -> None:
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        trainer = make_trainer(plans_name=f"run{number}", seed=seed, epochs=1)
        trainer.run_training()
        runs.append(torch.cat([p.detach().flatten() for p in trainer.network.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_batches_do_not_depend_on_the_number_of_workers(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for workers in ("0", "2"):
        monkeypatch.setenv("nnUNet_n_proc_DA", workers)
        trainer = make_trainer(trainer=nnUNetTrainerPlain)
        trainer.initialize()
        train, val = trainer.get_dataloaders()
        batches.append([next(train) for _ in range(3)] + [next(val) for _ in range(2)])
        del train, val
    for one, other in zip(*batches, strict=True):
        assert list(one["keys"]) == list(other["keys"])
        assert torch.equal(one["data"], other["data"])
        assert all(torch.equal(a, b) for a, b in zip(one["target"], other["target"], strict=True))
    assert not torch.equal(batches[0][0]["data"], batches[0][1]["data"])


def test_every_sample_of_a_2d_batch_comes_with_the_number_of_its_slice(make_trainer) -> None:
    trainer = make_trainer()
    trainer.initialize()
    _, validation = nnUNetTrainer.get_dataloaders(trainer)  # whose patches are cut out and nothing more
    loader = validation.data_loader
    load = loader._data.load_case

    def load_numbered(name: str) -> tuple:
        data, *rest = load(name)
        return np.broadcast_to(np.arange(data.shape[1])[None, :, None, None], data.shape), *rest

    loader._data.load_case = load_numbered
    batches = [SeededBatches(loader, (0,))[number] for number in range(4)]
    for batch in batches:
        assert [int(image.max()) for image in batch["data"]] == batch["slices"]
    assert len({number for batch in batches for number in batch["slices"]}) > 3


def test_validation_patches_are_the_same_in_every_epoch(make_trainer) -> None:
    trainer = make_trainer(iterations_per_epoch=10)
    trainer.initialize()
    _, val = trainer.get_dataloaders()
    drawn = [next(val)["data"] for _ in range(4)]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])


def test_checkpoint_holds_margins_and_settings_as_plain_values(make_trainer) -> None:
    trainer = make_trainer(epochs=1)
    trainer.run_training()
    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    stored = torch.load(file, map_location="cpu", weights_only=False)["init_args"]["nnunet_ima"]
    assert all(torch.is_tensor(value) for value in stored.pop("average").values())
    margins = stored["state"]["margins"]
    assert margins == trainer.method.table.state_dict()
    assert any(isinstance(name, tuple) for name in margins)  # slices have their own
    assert all(type(value) is float for value in margins.values())
    assert stored["settings"]["tau"] == 0.05
    torch.save(stored, file.with_name("ours.pth"))
    assert torch.load(file.with_name("ours.pth"), weights_only=True) == stored


def test_a_checkpoint_of_another_trainer_is_refused(make_trainer) -> None:
    plain = make_trainer(trainer=nnUNetTrainerPlain, epochs=1)
    plain.run_training()
    with pytest.raises(ValueError, match="start_from"):
        make_trainer().load_checkpoint(str(Path(plain.output_folder) / "checkpoint_final.pth"))
