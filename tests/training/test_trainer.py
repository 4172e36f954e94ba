"""nnUNetTrainerIMA on phantoms: every kind of configuration and label, and what one step does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_ima.training.nnUNetTrainerIMA import nnUNetTrainerIMA
from nnunet_ima.training.nnUNetTrainerPlain import nnUNetTrainerPlain
from nnunet_ima.training.warm_start import bare_network


class WithoutDeepSupervision(nnUNetTrainerIMA):
    def initialize(self) -> None:
        self.enable_deep_supervision = False
        super().initialize()


def watch_attacks(trainer: nnUNetTrainerIMA) -> list:
    """Record arguments and results of the trainer's attacks."""
    seen, original = [], trainer._attack

    def attack(x, y, keys, score, gradient):
        found = original(x, y, keys, score, gradient)
        seen.append((x.detach().clone(), y, keys, found))
        return found

    trainer._attack = attack
    return seen


def check_run(trainer: nnUNetTrainerIMA, attacked: bool = True) -> list:
    seen = watch_attacks(trainer)
    if not trainer.was_initialized:
        trainer.initialize()
    before = [p.detach().clone() for p in trainer.network.parameters()]
    trainer.run_training()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    assert all(p.isfinite().all() for p in trainer.network.parameters())
    found = [entry for entry in seen if entry[3] is not None]
    if attacked:
        assert found, "no sample was attacked, so that this run says nothing"
    for x, _, keys, result in found:
        sizes = trainer.norm.size(result.x - x)
        # radii may have moved since, but never beyond the largest margin
        assert (sizes <= trainer.budget.effective(trainer.settings.eps_max) * (1 + 1e-5)).all()
        assert len(keys) == len(x)
    return found


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "3d_lowres"])
def test_configurations(make_trainer, configuration: str) -> None:
    trainer = make_trainer(configuration)
    check_run(trainer)
    fold = trainer.output_folder
    for name in ("checkpoint_final.pth", "ima_progress.png", "progress.png", "ima_snapshots.json"):
        assert (Path(fold) / name).is_file(), name


def test_without_deep_supervision(make_trainer) -> None:
    check_run(make_trainer(trainer=WithoutDeepSupervision))


def test_two_channels_are_both_perturbed(make_trainer, make_phantom) -> None:
    found = check_run(make_trainer(dataset=make_phantom(channels=2)))
    x, _, _, result = found[0]
    assert ((result.x - x).abs().amax((0, 2, 3)) > 0).tolist() == [True, True]


@pytest.mark.parametrize("labels", [{"ignore": True}, {"regions": True}, {"ignore": True, "regions": True}])
def test_kinds_of_labels(make_trainer, make_phantom, labels: dict) -> None:
    trainer = make_trainer(dataset=make_phantom(**labels))
    check_run(trainer)
    assert trainer.labels.regions == labels.get("regions", False)
    assert (trainer.labels.ignore is not None) == labels.get("ignore", False)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_norms_and_presets(make_trainer, norm: str, preset: str) -> None:
    trainer = make_trainer(norm=norm, preset=preset, epochs=1)
    found = check_run(trainer)
    assert any((result.size > 0).all() for _, _, _, result in found)


def test_cascade_perturbs_image_channels_only(make_trainer, phantom) -> None:
    trainer = make_trainer("3d_cascade_fullres")
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    folder.mkdir(parents=True)
    data_folder = trainer.preprocessed_dataset_folder
    data = nnUNetDatasetBlosc2(data_folder)
    for case in data.identifiers:
        nnUNetDatasetBlosc2.save_seg(np.array(data.load_case(case)[1])[0].clip(0), str(folder / case))
    found = check_run(trainer)
    for x, _, _, result in found:
        noise = (result.x - x).abs()
        assert x.shape[1] == 3
        assert noise[:, 1:].max() == 0
        assert noise[:, 0].max() > 0


def test_one_step_is_algorithm_1(make_trainer) -> None:
    """The gradient of a step equals that of the objective, computed anew in one piece."""
    trainer = make_trainer(beta=0.3)
    seen = watch_attacks(trainer)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer._optimizer_step = lambda: None
    batch = next(trainer.dataloader_train)
    step = trainer.train_step(batch)
    gradients = [p.grad.clone() for p in trainer.network.parameters() if p.grad is not None]
    (_, _, keys, found) = seen[0]
    assert 0 < len(keys)

    trainer.network.zero_grad()
    x, target = batch["data"], batch["target"]
    clean, logits = trainer._losses(x, target)
    attacked = trainer.criterion.score(logits, target[0]) >= 0
    boundary, _ = trainer._losses(found.x, [t[attacked] for t in target])
    loss = 0.7 * clean.mean() + 0.3 * boundary.mean()
    loss.backward()
    assert float(step["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert len(expected) == len(gradients)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("key", "expected"), [("sample", tuple), ("case", str)])
def test_in_2d_margins_belong_to_slices_or_as_before_to_cases(make_trainer, key: str, expected: type) -> None:
    trainer = make_trainer(margin_key=key, epochs=1)
    found = check_run(trainer)
    assert {type(sample) for _, _, samples, _ in found for sample in samples} == {expected}
    moved = [name for name, margin in trainer.margin_table.state_dict().items() if margin != 0.2]
    assert expected in {type(name) for name in moved}


def test_in_3d_margins_belong_to_cases(make_trainer) -> None:
    found = check_run(make_trainer("3d_fullres", epochs=1))
    assert {type(sample) for _, _, samples, _ in found for sample in samples} == {str}


def test_nothing_right_means_plain_training(make_trainer) -> None:
    trainer = make_trainer(tau=1.0, epochs=1)
    check_run(trainer, attacked=False)
    assert set(trainer.margin_table.margins.values()) == {0.2}
    assert trainer.logger.get_value("ima_attacked", step=-1) == 0


def test_the_network_is_put_back_as_it_was(make_trainer) -> None:
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.network.train()
    with trainer._attackable_network() as model:
        assert not trainer.network.training
        assert isinstance(model(torch.zeros(1, 1, *trainer.configuration_manager.patch_size)), torch.Tensor)
    assert trainer.network.training
    assert trainer.network.decoder.deep_supervision


def test_compiled_network(make_trainer) -> None:
    trainer = make_trainer(epochs=1)
    trainer.initialize()
    trainer.network = torch.compile(trainer.network, backend="eager")
    shapes = []
    bare_network(trainer.network).register_forward_pre_hook(
        lambda module, inputs: shapes.append(len(inputs[0])) if module.training else None
    )
    check_run(trainer)
    assert set(shapes) == {trainer.batch_size}  # training passes keep their shape


def test_plain_trainer_keeps_nnunet_s_step_on_our_schedule(make_trainer) -> None:
    trainer = make_trainer(trainer=nnUNetTrainerPlain, epochs=1, iterations_per_epoch=3)
    trainer.run_training()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (1, 3)
    assert len(trainer.logger.get_value("train_losses", step=None)) == 1


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
