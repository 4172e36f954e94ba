"""CPU-sized configurations and the settings in the plans."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ima.datasets.overlay import GENERIC_CPU, overlay, read_plans, write_plans
from nnunet_ima.datasets.tasks import CpuConfiguration, load_task


def configuration(
    dims: int, patch_size: list[int], strides: list[list[int]], batch_size: int, residual: bool = False
) -> dict[str, Any]:
    stages = len(strides)
    depth = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    network = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "data_identifier": f"nnUNetPlans_{dims}d",
        "batch_size": batch_size,
        "patch_size": patch_size,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [min(32 * 2**stage, 320) for stage in range(stages)],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [[3] * dims] * stages,
                "strides": strides,
                depth: [1] * stages,
                "n_conv_per_stage_decoder": [1] * (stages - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def prostate_plans(residual: bool = False) -> dict[str, Any]:
    """Plans like those of D5: 320×320 slices, 16×320×320 patches with few poolings along the thick slices."""
    in_plane = [[1, 1], *[[2, 2]] * 6]
    thick = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]
    return {
        "dataset_name": "Dataset005_Prostate",
        "plans_name": "nnUNetPlans",
        "configurations": {
            "2d": configuration(2, [320, 320], in_plane, 32, residual),
            "3d_fullres": configuration(3, [16, 320, 320], thick, 2, residual),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
    }


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("name", "features", "patch_size", "batch_size"),
    [
        ("2d_cpu", [8, 16, 32, 64, 128, 128, 128], [192, 192], 8),
        ("3d_fullres_cpu", [8, 16, 32, 64, 64, 64, 64], [16, 128, 128], 2),
    ],
)
def test_nnunet_builds_the_cpu_configurations(
    residual: bool, name: str, features: list[int], patch_size: list[int], batch_size: int
) -> None:
    plans = overlay(prostate_plans(residual), load_task("D5").cpu)
    loaded = PlansManager(plans).get_configuration(name)
    assert loaded.network_arch_init_kwargs["features_per_stage"] == features
    assert loaded.patch_size == patch_size
    assert loaded.batch_size == batch_size
    assert loaded.data_identifier == f"nnUNetPlans_{name[0]}d"  # the parent's preprocessed data
    network = get_network_from_plans(
        loaded.network_arch_class_name,
        loaded.network_arch_init_kwargs,
        loaded.network_arch_init_kwargs_req_import,
        2,
        3,
        deep_supervision=False,
    )
    logits = network.train()(torch.zeros(1, 2, *patch_size))  # in training mode norms need two positions
    assert logits.shape == (1, 3, *patch_size)


def test_original_configurations_and_input_stay_as_they_are() -> None:
    plans = prostate_plans()
    before = deepcopy(plans)
    result = overlay(plans, load_task("D5").cpu, {"ima": {"delta": 1}})
    assert plans == before
    assert {name: result["configurations"][name] for name in plans["configurations"]} == plans["configurations"]
    assert result["ima"] == {"delta": 1}
    assert "ima" not in overlay(plans, {})


def test_configuration_without_parent_is_left_out() -> None:
    cpu = {"3d_lowres_cpu": CpuConfiguration("3d_lowres", (8, 64), 2), **GENERIC_CPU}
    added = set(overlay(prostate_plans(), cpu)["configurations"]) - set(prostate_plans()["configurations"])
    assert added == {"2d_cpu", "3d_fullres_cpu"}


def test_parent_may_itself_inherit() -> None:
    cpu = {"cascade_cpu": CpuConfiguration("3d_cascade_fullres", (8, 64), 2, (16, 128, 128))}
    loaded = PlansManager(overlay(prostate_plans(), cpu)).get_configuration("cascade_cpu")
    assert loaded.previous_stage_name == "3d_lowres"
    assert loaded.patch_size == [16, 128, 128]


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        ((1000, 1000), [320, 320]),  # never enlarged
        ((200, 260), [192, 256]),  # whole multiples of the total stride, 64
        ((10, 10), [128, 128]),  # two positions are left at the deepest stage
    ],
)
def test_patch_size_cap(cap: tuple[int, int], expected: list[int]) -> None:
    plans = overlay(prostate_plans(), {"2d_cpu": CpuConfiguration("2d", (8, 64), 2, cap)})
    assert PlansManager(plans).get_configuration("2d_cpu").patch_size == expected


def test_network_without_features_is_refused() -> None:
    plans = prostate_plans()
    del plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"]
    with pytest.raises(ValueError, match="configuration 2d has no features_per_stage"):
        overlay(plans, GENERIC_CPU)


def test_plans_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "nnUNetPlans.json"
    write_plans(prostate_plans(), file)
    with pytest.raises(TypeError):
        write_plans({"configurations": {}, "broken": object()}, file)
    assert read_plans(file) == prostate_plans()
    assert list(tmp_path.iterdir()) == [file]


def test_read_plans_refuses_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(prostate_plans()))
    with pytest.raises(FileNotFoundError, match="the plans in that folder are nnUNetPlans"):
        read_plans(tmp_path / "other.json")
    for content, message in (("{", "not valid JSON"), ("[]", "not a plans file")):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_plans(tmp_path / "broken.json")
