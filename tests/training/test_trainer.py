"""Trainers on phantoms: every kind of configuration and label, and what one step of IMA does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from trainer_fixtures import Learning, check_run

from nnunet_ima._methods import METHODS
from nnunet_ima.report import progress
from nnunet_ima.training import trainers
from nnunet_ima.training.attackable import attackable
from nnunet_ima.training.snapshots import FORMER
from nnunet_ima.training.trainers import nnUNetTrainerIMA, nnUNetTrainerPlain
from nnunet_ima.training.warm_start import bare_network


class WithoutDeepSupervision(nnUNetTrainerIMA):
    def initialize(self) -> None:
        self.enable_deep_supervision = False
        super().initialize()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "3d_lowres"])
def test_configurations(make_trainer, learnt: list[Learning], configuration: str) -> None:
    trainer = make_trainer(configuration)
    check_run(trainer, learnt)
    for name in ("checkpoint_final.pth", "ima_snapshots.json"):
        assert (Path(trainer.output_folder) / name).is_file(), name


def test_without_deep_supervision(make_trainer, learnt: list[Learning]) -> None:
    check_run(make_trainer(trainer=WithoutDeepSupervision), learnt)


def test_two_channels_are_both_perturbed(make_trainer, make_phantom, learnt: list[Learning]) -> None:
    check_run(make_trainer(dataset=make_phantom(channels=2)), learnt)
    clean, noisy, _ = learnt[0]
    assert ((noisy - clean).abs().amax((0, 2, 3)) > 0).tolist() == [True, True]


@pytest.mark.parametrize("labels", [{"ignore": True}, {"regions": True}, {"ignore": True, "regions": True}])
def test_kinds_of_labels(make_trainer, make_phantom, learnt: list[Learning], labels: dict) -> None:
    trainer = make_trainer(dataset=make_phantom(**labels))
    check_run(trainer, learnt)
    assert trainer.labels.regions == labels.get("regions", False)
    assert (trainer.labels.ignore is not None) == labels.get("ignore", False)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_norms_and_presets(make_trainer, learnt: list[Learning], norm: str, preset: str) -> None:
    trainer = make_trainer(norm=norm, preset=preset, epochs=1)
    check_run(trainer, learnt)
    assert any((noisy != clean).flatten(1).any(1).all() for clean, noisy, _ in learnt)


@pytest.mark.parametrize("name", ["nnUNetTrainerIMA", "nnUNetTrainerAdv", "nnUNetTrainerDDN", "nnUNetTrainerMMA"])
def test_cascade_perturbs_image_channels_only(make_trainer, phantom, learnt: list[Learning], name: str) -> None:
    trainer = make_trainer("3d_cascade_fullres", trainer=getattr(trainers, name))
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    folder.mkdir(parents=True)
    data_folder = trainer.preprocessed_dataset_folder
    data = nnUNetDatasetBlosc2(data_folder)
    for case in data.identifiers:
        nnUNetDatasetBlosc2.save_seg(np.array(data.load_case(case)[1])[0].clip(0), str(folder / case))
    check_run(trainer, learnt)
    for clean, noisy, _ in learnt:
        noise = (noisy - clean).abs()
        assert clean.shape[1] == 3
        assert noise[:, 1:].max() == 0
    assert any((noisy != clean)[:, 0].any() for clean, noisy, _ in learnt)


def test_one_step_is_algorithm_1(make_trainer, learnt: list[Learning]) -> None:
    """The gradient of a step equals that of the objective, computed anew in one piece."""
    trainer = make_trainer(beta=0.3)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer._optimizer_step = lambda: None
    batch = next(trainer.dataloader_train)
    step = trainer.train_step(batch)
    gradients = [p.grad.clone() for p in trainer.network.parameters() if p.grad is not None]
    (_, noisy, names) = learnt[0]
    assert 0 < len(names)

    trainer.network.zero_grad()
    again = trainer.learner(batch)
    clean = again(again.x)
    right = (trainer.task.score(clean.logits.detach(), again.y) >= 0).nonzero()[:, 0]
    again._left = 1
    loss = 0.7 * clean.losses.mean() + 0.3 * again(noisy, right).losses.mean()
    loss.backward()
    assert float(step["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert len(expected) == len(gradients)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["nnUNetTrainerIMA", "nnUNetTrainerMMA"])
def test_in_2d_margins_belong_to_slices(make_trainer, learnt: list[Learning], name: str) -> None:
    trainer = make_trainer(trainer=getattr(trainers, name), epochs=1)
    check_run(trainer, learnt)
    assert {type(sample) for found in learnt for sample in found.names} == {tuple}
    assert tuple in {type(sample) for sample in trainer.method.margins()}


def test_margins_belong_to_cases_if_asked(make_trainer, learnt: list[Learning]) -> None:
    trainer = make_trainer(margin_key="case", epochs=1)
    check_run(trainer, learnt)
    margins = trainer.method.margins()
    assert {type(sample) for sample in margins} == {str}
    assert any(margin != 0.2 for margin in margins.values())


def test_in_3d_margins_belong_to_cases(make_trainer, learnt: list[Learning]) -> None:
    check_run(make_trainer("3d_fullres", epochs=1), learnt)
    assert {type(sample) for found in learnt for sample in found.names} == {str}


def test_nothing_right_means_plain_training(make_trainer, learnt: list[Learning]) -> None:
    trainer = make_trainer(tau=1.0, epochs=1)
    check_run(trainer, learnt, attacked=False)
    assert set(trainer.method.margins().values()) == {0.2}
    assert trainer.logger.get_value("ima_attacked", step=-1) == 0


ROBUST = [trainer for method, (_, trainer) in METHODS.items() if method != "plain"]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("name", ROBUST)
def test_every_method_trains_and_goes_on(make_trainer, learnt: list[Learning], name: str, configuration: str) -> None:
    """The last epoch, resumed, equals that of a training that was not stopped."""
    options = {"epochs": 3, "snapshot_interval": 1, "robust_interval": 0, "iterations_per_epoch": 1}
    whole = make_trainer(configuration, trainer=getattr(trainers, name), plans_name="whole", **options)
    check_run(whole, learnt)
    assert {len(values) for values in whole.logger.local_logger.my_fantastic_logging.values()} == {3}
    assert max(whole.logger.get_value("ima_forward", step=None)) > 1
    resumed = make_trainer(configuration, trainer=getattr(trainers, name), plans_name="whole", resume=True, **options)
    resumed.load_checkpoint(str(Path(whole.output_folder) / "snapshots" / "epoch_0002.pth"))
    resumed.run_training()
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("labels", [{"ignore": True}, {"ignore": True, "regions": True}])
@pytest.mark.parametrize("name", ROBUST)
def test_every_method_knows_every_kind_of_label(
    make_trainer, make_phantom, learnt: list[Learning], name: str, labels: dict
) -> None:
    trainer = make_trainer(
        dataset=make_phantom(**labels), trainer=getattr(trainers, name), epochs=1, iterations_per_epoch=1
    )
    check_run(trainer, learnt)


@pytest.mark.parametrize("name", ROBUST)
def test_every_method_lowers_its_loss(make_trainer, name: str) -> None:
    """On one batch, again and again."""
    trainer = make_trainer(trainer=getattr(trainers, name), epochs=2)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    losses = []
    for _ in range(12):
        trainer.iteration = 0  # the same random starts
        losses.append(float(trainer.train_step(dict(batch))["loss"]))
    assert min(losses[-3:]) < 0.95 * losses[0]


def test_the_network_is_put_back_as_it_was(make_trainer) -> None:
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.network.train()
    with attackable(trainer.network, 2) as model:
        assert not trainer.network.training
        assert isinstance(model(torch.zeros(1, 1, *trainer.configuration_manager.patch_size)), torch.Tensor)
    assert trainer.network.training
    assert trainer.network.decoder.deep_supervision


def test_compiled_network(make_trainer, learnt: list[Learning]) -> None:
    trainer = make_trainer(epochs=1)
    trainer.initialize()
    trainer.network = torch.compile(trainer.network, backend="eager")
    shapes = []
    bare_network(trainer.network).register_forward_pre_hook(
        lambda module, inputs: shapes.append(len(inputs[0])) if module.training else None
    )
    check_run(trainer, learnt)
    assert set(shapes) == {trainer.batch_size}  # training passes keep their shape


def test_plain_trainer_keeps_nnunet_s_step_on_our_schedule(make_trainer) -> None:
    trainer = make_trainer(trainer=nnUNetTrainerPlain, epochs=1, iterations_per_epoch=3)
    of_another_training = Path(trainer.output_folder) / FORMER
    of_another_training.parent.mkdir(parents=True, exist_ok=True)
    of_another_training.write_text("its end, which a choice of snapshots had kept")
    trainer.run_training()
    assert not of_another_training.exists()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (1, 3)
    assert len(trainer.logger.get_value("train_losses", step=None)) == 1


def test_progress_is_drawn_now_and_then_and_in_the_end(make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in every one of many short epochs."""
    drawn = []
    monkeypatch.setattr(progress, "plot_progress", lambda *_, file, **__: drawn.append(file.name))
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: drawn.append("progress.png"))
    make_trainer(epochs=4, iterations_per_epoch=1, robust_interval=0).run_training()
    assert drawn == 2 * ["progress.png", "ima_progress.png"]


def test_every_epoch_is_logged(make_trainer) -> None:
    trainer = make_trainer(robust_interval=2, epochs=3)
    trainer.run_training()
    log = trainer.logger.local_logger.my_fantastic_logging
    assert {len(values) for values in log.values()} == {3}
    assert log["ima_robust_dice"][0] is None
    assert all(0 <= value <= 1 for value in log["ima_robust_dice"][1:])  # every second, and the last
    assert log["ima_margin_max"][0] <= 0.4
    assert log["ima_seconds"][0] > 0
    assert trainer.logger.get_value("ima_forward", step=-1) > 0
