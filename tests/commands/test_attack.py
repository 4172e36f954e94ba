"""`nnunet-ima-attack`: what it finds, what it refuses, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from nnunet_ima.attacks.losses import LOSSES, AttackLoss
from nnunet_ima.attacks.presets import PRESETS, Component
from nnunet_ima.attacks.problem import Attacked, Loss, Problem
from nnunet_ima.attacks.worst import Worst
from nnunet_ima.commands.attack import main
from nnunet_ima.tasks.voxelwise import Labels

QUICK = ["--attack", "fgsm", "--eps", "0.3", "--no-margins", "--no-tta", "--check-cases", "0"]


@pytest.fixture
def own_cases(phantom, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of images and labels of two cases, as a hospital would lay them out."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, source in ((images, "imagesTr"), (labels, "labelsTr")):
        folder.mkdir()
        for file in sorted((phantom.raw / source).glob("*.nii.gz"))[:2]:
            shutil.copy(file, folder)
    return images, labels


def arguments(model: Path, own_cases: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    images, labels = own_cases
    named = ["--model", str(model), "--images", str(images), "--labels", str(labels), "--output", str(output)]
    return [*named, *QUICK, *more]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that ends with exit status 2 before any work; returns its one sentence."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "Traceback" not in error
    return error


def test_a_moved_and_renamed_model_on_own_cases(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the folder is needed: none of nnU-Net's variables, not the data set's name."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable)
    moved = tmp_path / "model from somewhere"
    shutil.copytree(trained_model, moved)
    main(arguments(moved, own_cases, tmp_path / "out"))
    assert "model from somewhere" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"manifest.json", "summary.json", "summary.csv", "report.md"} <= names
    assert any(name.endswith(".png") for name in names)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["question"]["cases"]) == 2
    assert manifest["question"]["models"]["model from somewhere"]["trainer"] == "nnUNetTrainer"


def test_same_command_again_measures_nothing(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = arguments(trained_model, own_cases, tmp_path / "out")
    main(command)
    first = capsys.readouterr().out
    monkeypatch.setattr("nnunet_ima.segmentation.target.Target.look", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(
        "nnunet_ima.segmentation.predictions.Predictions.logits", lambda *_: pytest.fail("measured again")
    )
    main(command)
    assert capsys.readouterr().out == first


def test_equal_audits_are_equal_to_the_byte(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they took in time stands with each measurement alone."""
    clock = iter(float(number * number) for number in range(10**6))
    monkeypatch.setattr("nnunet_ima.segmentation.case_audit.perf_counter", lambda: next(clock))
    for output in ("one", "two"):
        main(arguments(trained_model, own_cases, tmp_path / output))
    for name in ("summary.json", "summary.csv", "cases.csv", "report.md", "dossier.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "seconds" in json.loads(next((tmp_path / "one").glob("results/*/*/fgsm@0.3.json")).read_text())


def test_a_locked_protocol_is_followed_or_its_deviations_are_told(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    file = tmp_path / "protocol.toml"
    command = arguments(trained_model, own_cases, tmp_path / "out")
    main([*command, "--lock", str(file)])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    followed = ["--protocol", str(file)]
    error = refused(capsys, [*command, "--seed", "1", *followed])
    assert "differs from" in error
    assert "settings seed: 0 in the protocol, now 1" in error
    assert not (tmp_path / "out").exists()
    main([*command, *followed])
    assert f"SHA-256 {digest}; no deviations" in capsys.readouterr().out
    main([*arguments(trained_model, own_cases, tmp_path / "other", "--seed", "1"), *followed, "--allow-deviations"])
    assert "DEVIATIONS: settings seed: 0 in the protocol, now 1" in capsys.readouterr().out
    assert "DEVIATIONS" in (tmp_path / "other" / "dossier.html").read_text()
    assert "needs a --protocol" in refused(capsys, [*command, "--allow-deviations"])


def test_other_arguments_into_the_same_folder(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    main(arguments(trained_model, own_cases, tmp_path / "out"))
    error = refused(capsys, arguments(trained_model, own_cases, tmp_path / "out", "--seed", "1"))
    assert "holds an audit with other settings" in error
    assert "--output" in error


def test_an_audit_grows_to_what_a_fresh_one_finds(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    more = ["--limit", "1", "--attack", "fgsm", "ifgsm", "--eps", "0.3", "0.5"]
    main(arguments(trained_model, own_cases, tmp_path / "out", "--limit", "1"))
    for output in ("out", "fresh"):
        main(arguments(trained_model, own_cases, tmp_path / output, *more))
    for name in ("summary.json", "summary.csv", "cases.csv"):
        grown, fresh = ((tmp_path / output / name).read_text() for output in ("out", "fresh"))
        assert [line for line in grown.splitlines() if "seconds" not in line] == [
            line for line in fresh.splitlines() if "seconds" not in line
        ]


def test_a_new_attack_and_a_new_loss_are_a_function_and_a_line_each(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def highest_logit(logits: torch.Tensor, target: torch.Tensor, labels: Labels, progress: float) -> torch.Tensor:
        return (1 - progress) * logits.flatten(1).amax(1)

    def wander(
        problem: Problem, loss: Loss, steps: int, generator: torch.Generator, start: torch.Tensor | None
    ) -> Attacked:
        worst, noise = Worst(problem), problem.start(generator, start)
        for number in range(steps):
            _, gradient = worst.climb(noise, loss, number / steps)
            noise = problem.project(noise + gradient.sign())
        return worst.result()

    monkeypatch.setitem(LOSSES, "highest", AttackLoss(highest_logit, keeps_form=False))
    monkeypatch.setitem(PRESETS, "wander", (Component("wander", wander, 7, "highest"),))
    chosen = ["--attack", "wander", "--steps", "3", "--limit", "1"]
    main(arguments(trained_model, own_cases, tmp_path / "out", *chosen))
    assert "wander with steps = 3" in capsys.readouterr().out
    result = json.loads(next((tmp_path / "out").glob("results/*/*/components/wander@0.3.json")).read_text())
    assert (result["trace"]["steps"], result["trace"]["keeps_form"]) == (3, False)
    assert result["noise"]["rms"] <= 0.3 * (1 + 1e-6)


def test_two_models_are_compared_on_the_same_cases(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    weaker = tmp_path / "weaker"
    shutil.copytree(trained_model, weaker)
    file = weaker / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = {
        key: value + 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        for key, value in checkpoint["network_weights"].items()
    }
    torch.save(checkpoint, file)
    main(arguments(trained_model, own_cases, tmp_path / "out", "--model", str(weaker)))
    printed = capsys.readouterr().out
    assert "weaker" in printed
    assert trained_model.name in printed


def test_validation_cases_of_the_task_by_default(trained_model: Path, phantom, tmp_path: Path, capsys) -> None:
    """The model in nnU-Net's own folders; of its fold's cases only those for validation."""
    trainer, plans, configuration = trained_model.name.split("__")
    command = ["--task", str(phantom.dataset_id), "-tr", trainer, "-p", plans, "-c", configuration]
    main([*command, *QUICK, "--output", str(tmp_path / "out")])
    validation = set(json.loads((phantom.preprocessed / "splits_final.json").read_text())[0]["val"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(manifest["question"]["cases"]) == validation
    training = next(iter(json.loads((phantom.preprocessed / "splits_final.json").read_text())[0]["train"]))
    error = refused(capsys, [*command, *QUICK, "--output", str(tmp_path / "other"), "--cases", training])
    assert f"{training} is a training case of fold 0" in error
    assert "--allow-training-cases" in error


def test_a_requirement_gates_a_release(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ima.segmentation.probes.QUERIES", 10)
    sound = ["--attack", "pgd", "--steps", "20", "--eps", "0.05", "--check-cases", "1", "--limit", "1"]
    command = arguments(trained_model, own_cases, tmp_path / "out", *sound)
    main([*command, "--require", "0.01@0.05", "--require", "0.01@0"])
    assert "Conclusive: all 10 checks" in capsys.readouterr().out
    for requirement in ("0.99@0.05", "0.99@0"):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--require", requirement])
        assert stop.value.code == 1
        assert "--require is not met" in capsys.readouterr().out


def test_levels_of_a_task_are_not_taken_for_those_of_another_norm(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    """D4's 2 to 15 are L2 norms on a slice, and would be σ of each voxel."""
    model = tmp_path / "hippocampus"
    shutil.copytree(trained_model, model)
    plans = json.loads((model / "plans.json").read_text()) | {"dataset_name": "Dataset004_Hippocampus"}
    (model / "plans.json").write_text(json.dumps(plans))
    named = ["--model", str(model), "--images", str(own_cases[0]), "--labels", str(own_cases[1])]
    error = refused(capsys, [*named, "--output", str(tmp_path / "out"), "--norm", "Linf"])
    assert "name the noise levels with --eps" in error
    assert "Linf" in error


def test_what_was_not_run_meets_no_requirement(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    """Noise without a gradient, and no case checked, say next to nothing about a model."""
    command = arguments(trained_model, own_cases, tmp_path / "out", "--attack", "noise-uniform", "--limit", "1")
    with pytest.raises(SystemExit) as stop:
        main([*command, "--require", "0@0.3"])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "NOT CONCLUSIVE" in printed
    assert "the audit is not conclusive" in printed


def test_an_inconclusive_audit_meets_no_requirement(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    """A case without foreground fails, and what is missing could have been the worst."""
    label = sorted(own_cases[1].iterdir())[0]
    image: Any = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    with pytest.raises(SystemExit) as stop:
        main(arguments(trained_model, own_cases, tmp_path / "out", "--require", "0@0.3"))
    assert stop.value.code == 1
    assert "not conclusive" in capsys.readouterr().out


def test_dry_run_tells_the_cost_and_writes_nothing(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    main(arguments(trained_model, own_cases, tmp_path / "out", "--dry-run"))
    printed = capsys.readouterr().out
    assert "forward" in printed
    assert "MiB" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--eps", "-1"], "--eps must be numbers of at least 0, got -1"),
        (["--eps", "nan"], "--eps must be numbers of at least 0, got nan"),
        (["--eps", "much"], "eps"),
        (["--attack", "pgx"], "unknown attack 'pgx'"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--step-size", "0"], "--step-size must be above 0"),
        (["--dice-threshold", "2"], "--dice-threshold must be above 0"),
        (["--require", "5"], "--require is written Dice@ε"),
        (["--require", "0.5@7"], "7 is not among the noise levels"),
        (["--cases", "nobody"], "holds no case nobody"),
        (["--fold", "3"], "fold_3"),
        (["--checkpoint", "checkpoint_best.pth"], "checkpoint_best.pth does not exist"),
        (["--eps-unit", "paper"], "reference size"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--name", "a", "--name", "b"], "--name belongs to a --model: give as many; got 2 for 1"),
        (["--name", "a/b"], "--name holds the name 'a/b'"),
        (["--model", "/nowhere", "--name", "a", "--name", "a"], "--name a is given twice"),
        (["--certify", "0"], "--certify must be numbers above 0, got 0"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--certify", "0.1", "--samples", "9"], "--samples must be at least 25 for --certify, got 9"),
        (["--tolerance", "-1"], "--tolerance must be a distance of at least 0 mm"),
        (["--task", "D5"], "name either a --task or --model folders"),
    ],
)
def test_wrong_arguments(
    more: list[str], sentence: str, trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    assert sentence in refused(capsys, arguments(trained_model, own_cases, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def without_plans(model: Path, images: Path, labels: Path) -> str:
    (model / "plans.json").unlink()
    return f"{model / 'plans.json'} is missing"


def without_checkpoint(model: Path, images: Path, labels: Path) -> str:
    file = model / "fold_0" / "checkpoint_final.pth"
    file.unlink()
    return f"{file} does not exist"


def truncated_checkpoint(model: Path, images: Path, labels: Path) -> str:
    file = model / "fold_0" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:1000])
    return f"{file} is damaged"


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def checkpoint_with_code(model: Path, images: Path, labels: Path) -> str:
    file = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    torch.save(checkpoint | {"logging": Evil(f"touch {model / 'was_here'}")}, file)
    assert pickle.loads(pickle.dumps(Evil(f"touch {model / 'proof'}"))) == 0  # the trap works
    assert (model / "proof").exists()
    return "would run code"


def image_without_label(model: Path, images: Path, labels: Path) -> str:
    file = sorted(labels.iterdir())[0]
    file.unlink()
    return "(no label)"


def label_without_image(model: Path, images: Path, labels: Path) -> str:
    file = sorted(images.iterdir())[0]
    file.unlink()
    return "(no image)"


def two_channels(model: Path, images: Path, labels: Path) -> str:
    file = sorted(images.iterdir())[0]
    shutil.copy(file, file.with_name(file.name.replace("_0000", "_0001")))
    return "has 2 channels"


def images_and_labels_swapped(model: Path, images: Path, labels: Path) -> str:
    aside = images.with_name("aside")
    images.rename(aside)
    labels.rename(images)
    aside.rename(labels)
    return "(no label)"


def nothing_in_the_folders(model: Path, images: Path, labels: Path) -> str:
    for file in images.iterdir():
        file.unlink()
    return f"{images} holds no file that ends in .nii.gz"


def file_as_output(model: Path, images: Path, labels: Path) -> str:
    (model.parent / "out").write_text("a file")
    return str(model.parent / "out")


def foreign_output(model: Path, images: Path, labels: Path) -> str:
    (model.parent / "out").mkdir()
    (model.parent / "out" / "thesis.txt").write_text("precious")
    return "holds other files"


@pytest.mark.parametrize(
    "spoil",
    [
        without_plans,
        without_checkpoint,
        truncated_checkpoint,
        checkpoint_with_code,
        image_without_label,
        label_without_image,
        two_channels,
        images_and_labels_swapped,
        nothing_in_the_folders,
        file_as_output,
        foreign_output,
    ],
)
def test_bad_input_is_refused_before_any_work(
    spoil: Callable[[Path, Path, Path], str],
    trained_model: Path,
    own_cases: tuple[Path, Path],
    tmp_path: Path,
    capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained_model, model)
    sentence = spoil(model, *own_cases)
    monkeypatch.setattr("nnunet_ima.segmentation.case_audit.CaseAudit.clean", lambda *_: pytest.fail("work was done"))
    assert sentence in refused(capsys, arguments(model, own_cases, tmp_path / "out"))
    assert not (model / "was_here").exists()


def test_folder_that_cannot_be_written(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    error = refused(capsys, arguments(trained_model, own_cases, Path("/proc/audit")))
    assert "/proc/audit" in error


def test_one_bad_case_among_others_is_marked(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    """An unreadable image, or a label value that the model does not know, must not end an audit of forty cases."""
    label = sorted(own_cases[1].iterdir())[1]
    image: Any = nib.load(label)
    voxels = np.asarray(image.dataobj).astype(np.uint8)
    voxels[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(voxels, image.affine), label)
    main(arguments(trained_model, own_cases, tmp_path / "out"))
    printed = capsys.readouterr().out
    assert str(label) in printed
    assert "label values 9" in printed


def test_nothing_but_bad_cases(trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    for file in own_cases[0].iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert "no case could be measured" in refused(capsys, arguments(trained_model, own_cases, tmp_path / "out"))


def test_unknown_task(phantom, capsys) -> None:
    assert "unknown task 'D9'" in refused(capsys, ["--task", "D9"])
    assert "holds no data set 77" in refused(capsys, ["--task", "77"])
    error = refused(capsys, ["--task", str(phantom.dataset_id), "-tr", "nnUNetTrainerNobody"])
    assert "nnUNetTrainerNobody__nnUNetPlans__3d_fullres does not exist" in error


def test_every_requirement_counts(trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments(trained_model, own_cases, tmp_path / "out", "--require", "0.99@0.3", "--require", "0@0"))
    assert stop.value.code == 1
    assert "below 0.99" in capsys.readouterr().out


def test_images_and_labels_of_the_same_names_swapped(
    trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    """Named alike, they can be told apart by their voxels alone."""
    images, labels = own_cases
    for file in images.iterdir():
        file.rename(file.with_name(file.name.replace("_0000", "")))
    error = refused(capsys, arguments(trained_model, (labels, images), tmp_path / "out"))
    assert "no case could be measured" in error
    assert "which the model does not know" in error


def test_missing_folder(trained_model: Path, own_cases: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    images, labels = own_cases
    for pair in ((tmp_path / "nowhere", labels), (images, tmp_path / "nowhere")):
        assert "nowhere does not exist" in refused(capsys, arguments(trained_model, pair, tmp_path / "out"))
    assert "nowhere" in refused(capsys, arguments(tmp_path / "nowhere", own_cases, tmp_path / "out"))
