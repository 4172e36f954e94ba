"""What files may name: exact parts of networks, and nothing a stranger could make run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pydoc
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_ima.architecture import MOVED, NETWORKS, PARTS, check_architecture
from nnunet_ima.classification.head import small_architecture
from nnunet_ima.classification.networks import new_network, save_classifier
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.commands import attack, classify

FILE = Path("plans.json")


def changed(key: str, value: Any) -> dict[str, Any]:
    """An architecture with an entry, or one of its arch_kwargs, of another value."""
    architecture = small_architecture()
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    return architecture


def test_every_part_is_what_pytorch_calls_so() -> None:
    for name in PARTS:
        found: Any = pydoc.locate(name)
        assert issubclass(found, torch.nn.Module), name
        assert found.__name__ == name.rpartition(".")[2]
    for name in ("conv.Conv3d", "conv.ConvTranspose2d", "batchnorm.BatchNorm3d", "instancenorm.InstanceNorm2d"):
        assert f"torch.nn.modules.{name}" in PARTS
    assert {"torch.nn.LeakyReLU", "torch.nn.Dropout3d", "torch.nn.modules.normalization.GroupNorm"} <= PARTS
    assert not any(name.rpartition(".")[2].startswith("_") for name in PARTS)


def test_every_network_is_where_its_name_says() -> None:
    for name in (*NETWORKS, *MOVED.values()):
        module, _, cls = name.rpartition(".")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        assert f"class {cls}(" in Path(spec.origin).read_text()  # importing some needs packages that may be missing


@pytest.mark.parametrize("residual", [False, True])
def test_what_nnunet_plans_is_let_in(residual: bool, phantom: Any) -> None:
    check_architecture(small_architecture(residual), FILE)
    plans = json.loads((phantom.preprocessed / "nnUNetPlans.json").read_text())
    for configuration in plans["configurations"].values():
        check_architecture(configuration["architecture"], FILE)
    check_architecture(changed("network_class_name", next(iter(MOVED))), FILE)
    check_architecture(changed("nonlin", "torch.nn.modules.activation.GELU"), FILE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network_class_name", "os.system"),
        ("network_class_name", "monai.networks.nets.unet.UNet"),
        ("network_class_name", "PlainConvUNet"),  # would be looked for in the working directory
        ("network_class_name", "dynamic_network_architectures.architectures.unet.nn.Conv2d"),
        ("network_class_name", "dynamic_network_architectures.architectures.unet.PlainConvUNet "),
        ("network_class_name", "../evil.PlainConvUNet"),
        ("network_class_name", "a\nb"),
        ("network_class_name", None),
        ("network_class_name", ["torch.nn.ReLU"]),
        ("nonlin", "monai.losses.perceptual.PerceptualLoss"),
        ("nonlin", "torch.nn.Module"),
        ("nonlin", "torch.nn.modules.activation.torch.hub.load"),
        ("nonlin", "torch.hub.load"),
        ("nonlin", "LeakyReLU"),
        ("nonlin", "torch.nn.LeakyReLU\x00"),
        ("nonlin", "torch.nn.leakyrelu"),
        ("nonlin", ""),
        ("nonlin", 5),
        ("nonlin", {"torch.nn.ReLU": 1}),
        ("norm_op", ["torch.nn.InstanceNorm2d"]),
    ],
)
def test_anything_else_is_refused_in_one_line(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^plans\.json names .*Ask its author$") as caught:
        check_architecture(changed(key, value), FILE, "Ask its author")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "architecture",
    [
        None,
        [],
        "PlainConvUNet",
        {},
        changed("arch_kwargs", None),
        changed("arch_kwargs", ["conv_op"]),
        changed("_kw_requires_import", None),
        changed("_kw_requires_import", "nonlin"),
        changed("_kw_requires_import", {"nonlin": 1}),
        changed("_kw_requires_import", ["nonlin", "absent"]),
        changed("_kw_requires_import", [["nonlin"]]),
    ],
)
def test_what_is_no_architecture_is_refused(architecture: Any) -> None:
    with pytest.raises(ValueError, match=r"^plans\.json"):
        check_architecture(architecture, FILE)


def test_values_that_are_not_imported_are_plain_values() -> None:
    check_architecture(changed("nonlin_kwargs", {"inplace": "os.system", "nested": {"nonlin": "os.system"}}), FILE)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a layer that make PyTorch run a file of the stranger's, as it would offline."""

    def offline(*_: Any, **__: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    hub = tmp_path / "model" / "hub"
    for repository in ("Project-MONAI_perceptual-models_main", "warvito_MedicalNet-models_main"):  # of MONAI's versions
        (hub / repository).mkdir(parents=True)
        (hub / repository / "hubconf.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\n")
    return {
        "nonlin": "monai.losses.perceptual.PerceptualLoss",
        "nonlin_kwargs": {
            "spatial_dims": 3,
            "is_fake_3d": False,
            "network_type": "medicalnet_resnet10_23datasets",
            "channel_wise": True,
            "cache_dir": str(hub),
        },
    }


def spring(trap: dict[str, Any], marker: Path) -> None:
    """Make sure that nnU-Net alone would walk into the trap, or a test would prove nothing."""
    architecture = small_architecture()
    options = architecture["arch_kwargs"] | trap
    named = architecture["network_class_name"], options, architecture["_kw_requires_import"]
    with contextlib.suppress(Exception):
        get_network_from_plans(*named, 1, 2, allow_init=False)
    assert marker.exists()


def refused(capsys: pytest.CaptureFixture[str], main: Any, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_plans_cannot_make_pytorch_run_a_file_of_the_model(
    trap: dict[str, Any], trained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained_model, model, dirs_exist_ok=True)
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= trap
    (model / "plans.json").write_text(json.dumps(plans))
    arguments = ["--model", str(model), "--images", str(tmp_path), "--labels", str(tmp_path), "--device", "cpu"]
    error = refused(capsys, attack.main, arguments)
    assert "plans.json names monai.losses.perceptual.PerceptualLoss" in error
    assert "--trust-checkpoint" in error
    assert not (tmp_path / "marker").exists()
    spring(trap, tmp_path / "marker")


def test_a_classifier_cannot_make_pytorch_run_a_file_of_a_stranger(
    trap: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = resolve_settings("ce", "cpu", {})
    network, description = new_network(settings, 2)
    description["architecture"]["arch_kwargs"] |= trap
    save_classifier(tmp_path / "model.pt", network, description, ("a", "b"), settings, 1)
    np.save(tmp_path / "image.npy", np.zeros((4, 4)))
    arguments = ["predict", str(tmp_path / "image.npy"), "--model", str(tmp_path / "model.pt")]
    error = refused(capsys, classify.main, arguments)
    assert "model.pt names monai.losses.perceptual.PerceptualLoss" in error
    assert not (tmp_path / "marker").exists()
    spring(trap, tmp_path / "marker")


def test_no_module_of_the_working_directory_is_imported(
    trained_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(trained_model, tmp_path / "model"))
    (tmp_path / "harmless_looking.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\n")
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does with the working directory
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["nonlin"] = "harmless_looking.Layer"
    (model / "plans.json").write_text(json.dumps(plans))
    arguments = ["--model", str(model), "--images", str(tmp_path), "--labels", str(tmp_path), "--device", "cpu"]
    assert "names harmless_looking.Layer" in refused(capsys, attack.main, arguments)
    assert not (tmp_path / "marker").exists()
    assert "harmless_looking" not in sys.modules
    pydoc.locate("harmless_looking.Layer")
    assert (tmp_path / "marker").exists()  # the trap works
