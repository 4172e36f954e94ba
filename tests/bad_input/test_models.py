"""Models, snapshots and classifiers from strangers: what is wrong with them is told in one line, with status 2."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.classification.networks import new_network, save_classifier
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.commands import attack, classify, select

Main = Callable[[Sequence[str]], None]
Capture = pytest.CaptureFixture[str]
CHECKPOINT = "fold_0/checkpoint_final.pth"
NAN = float("nan")
HUGE = 10**309  # JSON knows it, floats do not


def refused(capsys: Capture, program: str, main: Main, arguments: Sequence[str], *named: str) -> None:
    """Assert that a command ends with status 2 and one line, which names what is wrong."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(f"{program}: "), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for name in named:
        assert name in error


# models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(trained_model: Path) -> dict[str, Any]:
    return {
        "plans.json": json.loads((trained_model / "plans.json").read_text()),
        "dataset.json": json.loads((trained_model / "dataset.json").read_text()),
        "checkpoint": torch.load(trained_model / CHECKPOINT, weights_only=False) | {"optimizer_state": {}},
    }


@pytest.fixture
def model(stored: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        (folder / name).write_text(json.dumps(stored[name]))
    torch.save(stored["checkpoint"], folder / CHECKPOINT)
    return folder


def audit(capsys: Capture, model: Path, *named: str, more: Sequence[str] = ()) -> None:
    arguments = ["--model", str(model), "--images", str(model), "--labels", str(model), "--device", "cpu", *more]
    refused(capsys, "nnunet-ima-attack", attack.main, arguments, *named)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", [[], [1], "text", None, 5, True, {}])
def test_json_of_another_kind(name: str, content: Any, model: Path, capsys: Capture) -> None:
    (model / name).write_text(json.dumps(content))
    audit(capsys, model, str(model / name))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", [0, 32]),
        ("patch_size", [-32, 32]),
        ("patch_size", [65536, 32]),
        ("patch_size", [65536, 65536]),
        ("patch_size", [HUGE, 32]),
        ("patch_size", [8192, 8192, 8192]),
        ("patch_size", [32.5, 32]),
        ("patch_size", [True, 32]),
        ("patch_size", ["32", "32"]),
        ("patch_size", [32]),
        ("patch_size", [[32], [32]]),
        ("patch_size", 32),
        ("patch_size", None),
        ("spacing", [0, 1]),
        ("spacing", [1, -1.5]),
        ("spacing", [1, NAN]),
        ("spacing", [1, float("inf")]),
        ("spacing", [HUGE, 1]),
        ("spacing", ["1", 1]),
        ("spacing", [1]),
        ("spacing", 1),
        ("spacing", None),
        ("preprocessor_name", "PreprocessorOfAStranger"),
        ("preprocessor_name", "../evil"),
        ("preprocessor_name", "os.system"),
        ("preprocessor_name", "a\nb"),
        ("preprocessor_name", "join"),  # known in nnU-Net's modules, and no preprocessor
        ("preprocessor_name", "ImageNormalization"),
        ("preprocessor_name", None),
        ("preprocessor_name", ["DefaultPreprocessor"]),
        ("normalization_schemes", ["os.system"]),
        ("normalization_schemes", ["DefaultPreprocessor"]),
        ("normalization_schemes", ["ImageNormalization"]),  # has no way of its own to normalise
        ("normalization_schemes", []),
        ("normalization_schemes", None),
        ("use_mask_for_norm", [1]),
        ("use_mask_for_norm", []),
        ("resampling_fn_data", "system"),
        ("resampling_fn_data", "recursive_find_resampling_fn_by_name"),
        ("resampling_fn_data_kwargs", {"command": "id"}),
        ("resampling_fn_data_kwargs", None),
        ("resampling_fn_seg", "partial"),
        ("resampling_fn_probabilities", 5),
        ("architecture", None),
        ("architecture", []),
    ],
)
def test_impossible_configuration(key: str, value: Any, model: Path, stored: dict[str, Any], capsys: Capture) -> None:
    plans = json.loads(json.dumps(stored["plans.json"]))
    plans["configurations"]["2d"][key] = value
    (model / "plans.json").write_text(json.dumps(plans))
    audit(capsys, model, str(model / "plans.json"), key)


@pytest.mark.parametrize(
    "key", ["patch_size", "spacing", "preprocessor_name", "use_mask_for_norm", "resampling_fn_seg"]
)
def test_configuration_that_lacks_an_entry(key: str, model: Path, stored: dict[str, Any], capsys: Capture) -> None:
    plans = json.loads(json.dumps(stored["plans.json"]))
    del plans["configurations"]["2d"][key]
    (model / "plans.json").write_text(json.dumps(plans))
    audit(capsys, model, str(model / "plans.json"), f"lacks {key}")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("plans.json", "configurations", []),
        ("plans.json", "dataset_name", "../../etc"),
        ("plans.json", "transpose_forward", [0, 1, 1]),
        ("plans.json", "transpose_backward", "abc"),
        ("plans.json", "image_reader_writer", "os"),
        ("plans.json", "image_reader_writer", "BaseReaderWriter"),
        ("plans.json", "label_manager", "ManagerOfAStranger"),
        ("dataset.json", "file_ending", "/../../x.nii.gz"),
        ("dataset.json", "file_ending", None),
        ("dataset.json", "labels", []),
        ("dataset.json", "labels", {"background": 0}),
        ("dataset.json", "labels", {"background": 0, "a": "text"}),
        ("dataset.json", "channel_names", []),
        ("dataset.json", "channel_names", {}),
        ("dataset.json", "channel_names", "MRI"),
    ],
)
def test_impossible_entry(
    name: str, key: str, value: Any, model: Path, stored: dict[str, Any], capsys: Capture
) -> None:
    (model / name).write_text(json.dumps(stored[name] | {key: value}))
    audit(capsys, model, str(model / name), key.removesuffix("s"))
    if key != "label_manager":
        (model / name).write_text(json.dumps({other: stored[name][other] for other in stored[name] if other != key}))
        audit(capsys, model, str(model / name), f"lacks {key}")


@pytest.mark.parametrize("more", [(), ("--trust-checkpoint",)])
def test_unknown_network(more: Sequence[str], model: Path, stored: dict[str, Any], capsys: Capture) -> None:
    plans = json.loads(json.dumps(stored["plans.json"]))
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "package_of_a_stranger.Network"
    (model / "plans.json").write_text(json.dumps(plans))
    audit(capsys, model, "package_of_a_stranger.Network", "unknown", str(model), more=more)


@pytest.mark.parametrize(
    "entries",
    [
        {"trainer_name": "../evil"},
        {"trainer_name": "os.system"},
        {"trainer_name": "a\nb"},
        {"trainer_name": None},
        {"init_args": ["2d"]},
        {"init_args": {}},
        {"init_args": {"configuration": "a\nb"}},
        {"network_weights": [1]},
        {"network_weights": {"a": torch.ones(2, 2).to_sparse()}},
        {"network_weights": {"a\nb": torch.ones(1)}},
        {"inference_allowed_mirroring_axes": (0, 7)},
        {"inference_allowed_mirroring_axes": "xy"},
    ],
)
def test_impossible_entry_of_a_checkpoint(
    entries: dict[str, Any], model: Path, stored: dict[str, Any], capsys: Capture
) -> None:
    torch.save(stored["checkpoint"] | entries, model / CHECKPOINT)
    audit(capsys, model, str(model / CHECKPOINT))


@pytest.mark.parametrize("name", ["os", "join", "nnUNetTrainerOfAStranger"])
def test_a_trainer_that_is_none_is_not_called(name: str, model: Path, stored: dict[str, Any], capsys: Capture) -> None:
    """With nnU-Net's own network the model is opened all the same, and the next fault is told."""
    torch.save(stored["checkpoint"] | {"trainer_name": name}, model / CHECKPOINT)
    audit(capsys, model, "holds no file that ends in .nii.gz")


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_weights_of_a_model_that_are_not_finite(
    value: float, model: Path, stored: dict[str, Any], capsys: Capture
) -> None:
    weights = {key: tensor.clone() for key, tensor in stored["checkpoint"]["network_weights"].items()}
    name = next(key for key in weights if "decoder" in key)
    weights[name].view(-1)[:3] = value  # a copy of the encoder's, which overwrites it in the network
    torch.save(stored["checkpoint"] | {"network_weights": weights}, model / CHECKPOINT)
    audit(capsys, model, str(model / CHECKPOINT), "not finite: 3 of")


def overwrite(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    file.write_bytes(content)


def test_overwritten_checkpoint(model: Path, capsys: Capture) -> None:
    overwrite(model / CHECKPOINT)
    audit(capsys, model, f"{model / CHECKPOINT} is damaged")


def test_device_that_computes_nothing(model: Path, capsys: Capture) -> None:
    audit(capsys, model, "--device meta cannot be used", more=["--device", "meta"])


# classifiers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of a classifier's file."""
    file = tmp_path_factory.mktemp("classifier") / "model.pt"
    settings = resolve_settings("ce", "cpu", {})
    network, description = new_network(settings, 2)
    save_classifier(file, network, description, ("a", "b"), settings, 1)
    content: dict[str, Any] = torch.load(file, weights_only=True)
    return content


def predict(capsys: Capture, file: Path, *named: str, more: Sequence[str] = ()) -> None:
    image = file.with_name("image.png")
    image.write_bytes(b"not looked at")
    arguments = ["predict", str(image), "--model", str(file), "--device", "cpu", *more]
    refused(capsys, "nnunet-ima-classify", classify.main, arguments, *named)


def nested(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a path of keys; a value of ... takes the key away."""
    key, _, rest = path.partition(".")
    if rest:
        return content | {key: nested(content[key], rest, value)}
    return {other: content[other] for other in content if other != key} | ({} if value is ... else {key: value})


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("settings.size", -5, "size"),
        ("settings.size", 0, "size"),
        ("settings.size", "64", "size"),
        ("settings.size", 64.0, "size"),
        ("settings.size", True, "size"),
        ("settings.size", 10**9, "size"),
        ("settings.size", None, "size"),
        ("settings.size", ..., "size"),
        ("settings", ..., "settings"),
        ("settings", None, "classifier"),
        ("settings", [64], "classifier"),
        ("classes", ["a", "a"], "classes"),
        ("classes", [], "classes"),
        ("classes", ["a"], "classes"),
        ("classes", ["a", ""], "classes"),
        ("classes", [1, 2], "classes"),
        ("classes", "ab", "classes"),
        ("classes", None, "classes"),
        ("classes", ["a", "b", "c"], "classifier"),
        ("epoch", "last", "classifier"),
        ("network", None, "classifier"),
        ("network.kind", "vgg", "vgg"),
        ("network.architecture", ..., "lacks"),
        ("network.architecture.network_class_name", "package_of_a_stranger.Network", "unknown network"),
        ("network.architecture.arch_kwargs.conv_op", "os.system", "names os.system"),
        ("network.architecture.arch_kwargs.n_stages", "four", "classifier"),
        ("network.architecture.arch_kwargs.strides", [], "classifier"),
        ("weights", None, "classifier"),
        ("weights", {}, "classifier"),
        ("weights.linear\\bias", torch.tensor([NAN, 1.0]), "1 of the 2 values of 'linear.bias'"),
    ],
)
def test_impossible_classifier(
    path: str, value: Any, named: str, classifier: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "model.pt"
    if "\\" in path:
        content = classifier | {"weights": classifier["weights"] | {"linear.bias": value}}
    else:
        content = nested(classifier, path, value)
    torch.save(content, file)
    predict(capsys, file, str(file), named)


def test_overwritten_classifier(classifier: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    torch.save(classifier, tmp_path / "model.pt")
    overwrite(tmp_path / "model.pt")
    predict(capsys, tmp_path / "model.pt", "model.pt is damaged")
    predict(capsys, tmp_path / "model.pt", "--device meta", more=["--device", "meta"])


# snapshots -------------------------------------------------------------------------------------------------------

ENTRY = {
    "epoch": 5,
    "file": "snapshots/epoch_0005.pth",
    "clean_dice": 0.9,
    "robust_dice": None,
    "robust_eps": 5.0,
    "mean_margin": 1.0,
    "largest_margin": 4.0,
}


@pytest.fixture
def fold(empty_folders: Any) -> Path:
    """A fold's folder in nnU-Net's results, with a snapshot and the checkpoint of the training's end."""
    (empty_folders.preprocessed / "Dataset007_Any").mkdir()
    fold = Path(empty_folders.results, "Dataset007_Any", "nnUNetTrainerIMA__nnUNetPlans__2d", "fold_0")
    (fold / "snapshots").mkdir(parents=True)
    (fold / "checkpoint_final.pth").write_text("end of training")
    write_index(fold, [ENTRY])
    write_snapshot(fold)
    return fold


def write_index(fold: Path, entries: Any) -> None:
    (fold / "ima_snapshots.json").write_text(json.dumps({"snapshots": entries}))


def write_snapshot(fold: Path, **changes: Any) -> None:
    content = {"network_weights": {"a": torch.ones(1000)}, "trainer_name": "nnUNetTrainerIMA", "init_args": {}}
    torch.save(content | changes, fold / str(ENTRY["file"]))


def choose(capsys: Capture, fold: Path, *named: str, more: Sequence[str] = ()) -> None:
    arguments = ["-d", "7", "-c", "2d", "--min-dice", "0.5", *more]
    refused(capsys, "nnunet-ima-select", select.main, arguments, *named)
    assert (fold / "checkpoint_final.pth").read_text() == "end of training"
    assert not (fold / "checkpoint_final.former.pth").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clean_dice", "0.9"),
        ("clean_dice", None),
        ("clean_dice", NAN),
        ("clean_dice", [0.9]),
        ("clean_dice", True),
        pytest.param("clean_dice", HUGE, id="clean_dice-huge"),
        ("robust_dice", "high"),
        ("robust_dice", float("inf")),
        ("robust_eps", None),
        ("mean_margin", {}),
        ("largest_margin", "4"),
        ("epoch", "five"),
        ("epoch", 5.5),
        ("epoch", None),
        ("file", None),
        ("file", 5),
        ("file", ""),
        ("file", "../" * 20 + "etc/hostname"),
        ("file", "/etc/hostname"),
        ("file", "a\x00b"),
        ("file", ...),
        ("foreign", 1),
    ],
)
def test_impossible_snapshot(key: str, value: Any, fold: Path, capsys: Capture) -> None:
    write_index(fold, [ENTRY, nested(ENTRY, key, value)])
    choose(capsys, fold, str(fold / "ima_snapshots.json"), "entry 2", key)
    choose(capsys, fold, "entry 2", more=["--dry-run"])


@pytest.mark.parametrize("content", [[], None, "text", {}, {"snapshots": None}, {"snapshots": [1]}, {"snapshots": {}}])
def test_index_of_another_kind(content: Any, fold: Path, capsys: Capture) -> None:
    (fold / "ima_snapshots.json").write_text(json.dumps(content))
    choose(capsys, fold, str(fold / "ima_snapshots.json"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network_weights": {"a": torch.tensor([1.0, NAN])}}, "1 of the 2 values of 'a'"),
        ({"network_weights": None}, "network_weights"),
        ({"init_args": None}, "init_args"),
    ],
)
def test_impossible_checkpoint_of_a_snapshot(
    changes: dict[str, Any], named: str, fold: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_snapshot(fold, **changes)
    choose(capsys, fold, str(fold / str(ENTRY["file"])), named)
    choose(capsys, fold, named, more=["--export-stock", str(tmp_path / "stock")])
    assert not (tmp_path / "stock").exists()


def test_overwritten_snapshot(fold: Path, capsys: Capture) -> None:
    overwrite(fold / str(ENTRY["file"]))
    choose(capsys, fold, f"{fold / str(ENTRY['file'])} is damaged")


def test_an_export_that_fails_replaces_nothing(fold: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "taken").write_text("a file")
    for target in (fold.parent, tmp_path / "taken"):
        choose(capsys, fold, str(target), more=["--export-stock", str(target)])
