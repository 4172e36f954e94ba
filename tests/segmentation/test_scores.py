"""Scores against nnU-Net's own evaluation and against distances known by construction."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunet_ima.evidence.records import Score
from nnunet_ima.inference.cases import Case
from nnunet_ima.inference.volume import Volume
from nnunet_ima.segmentation import scores as module
from nnunet_ima.segmentation.scores import mean_dice

CLASSES = {"background": 0, "one": 1, "two": 2}
SPACING = (3.0, 1.0, 0.5)  # (Z, Y, X)


def make_model(labels: dict[str, Any]) -> Any:
    return SimpleNamespace(dataset_json={"labels": labels}, label_manager=LabelManager(labels, [1, 2]))


def make_volume(label: np.ndarray[Any, Any]) -> Volume:
    case = Case("a", (), Path("a.nii.gz"))
    nothing = torch.empty(0)
    return Volume(case, nothing, nothing, {"spacing": SPACING}, label, None, np.empty(0))


def score(predicted: np.ndarray[Any, Any], volume: Volume, model: Any, tolerance: float = 1.0) -> Score:
    return module.score(predicted, volume, model, tolerance)


def blobs(seed: int, values: int = 3) -> np.ndarray[Any, Any]:
    """A label map of random blocks."""
    coarse = np.random.default_rng(seed).integers(0, values, (3, 4, 4))
    return coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.int16)


def boxes(shift: int = 0, other: int = 2) -> np.ndarray[Any, Any]:
    label = np.zeros((8, 12, 20), np.int16)
    label[2:6, 3:7, 2 + shift : 6 + shift] = 1
    label[2:6, 3:7, 14:18] = other
    return label


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        {"background": 0, "both": [1, 2], "second": 2},
        {"background": 0, "one": 1, "two": 2, "ignore": 3},
        {"background": 0, "both": [1, 2], "second": [2], "ignore": 3},
    ],
    ids=["classes", "regions", "ignore", "regions and ignore"],
)
def test_overlap_as_nnunet_counts_it(tmp_path: Path, labels: dict[str, Any]) -> None:
    label, predicted = blobs(0, 4 if "ignore" in labels else 3), blobs(1)
    files = [tmp_path / name for name in ("label.nii.gz", "predicted.nii.gz")]
    for array, file in zip((label, predicted), files, strict=True):
        nib.save(nib.Nifti1Image(array.T, np.eye(4)), file)
    model = make_model(labels)
    names = [name for name in labels if name not in ("background", "ignore")]
    keys = [tuple(labels[name]) if isinstance(labels[name], list) else labels[name] for name in names]
    theirs = compute_metrics(*map(str, files), SimpleITKIO(), keys, labels.get("ignore"))["metrics"]
    ours = score(predicted, make_volume(label), model)
    assert list(ours.dice_per_class) == list(ours.overlap) == names
    for name, key in zip(names, keys, strict=True):
        assert ours.dice_per_class[name] == pytest.approx(theirs[key]["Dice"])
        assert ours.overlap[name] == tuple(theirs[key][count] for count in ("TP", "FP", "FN"))
    assert ours.dice == pytest.approx(np.mean([theirs[key]["Dice"] for key in keys]))
    assert mean_dice(predicted, make_volume(label), model) == ours.dice


def test_perfect_segmentation() -> None:
    scores = score(boxes(), make_volume(boxes()), make_model(CLASSES))
    assert (scores.dice, scores.hd95_mm, scores.nsd, scores.volume_error, scores.missed) == (1, 0, 1, 0, ())


def test_background_does_not_count() -> None:
    scores = score(np.zeros((8, 12, 20), np.uint8), make_volume(boxes()), make_model(CLASSES))
    assert scores.dice == 0
    assert scores.missed == ("one", "two")
    assert (scores.nsd, scores.volume_error) == (0, 1)
    assert scores.volume_error_per_class == {"one": -1, "two": -1}


def test_absent_classes() -> None:
    only_one = np.where(boxes() == 1, 1, 0)
    scores = score(only_one, make_volume(only_one), make_model(CLASSES))
    assert scores.dice_per_class == {"one": 1, "two": None}
    assert (scores.dice, scores.hd95_mm) == (1, 0)
    scores = score(boxes(), make_volume(only_one), make_model(CLASSES))
    assert scores.dice_per_class == {"one": 1, "two": 0}
    assert scores.dice == 1  # over the classes that are there
    assert scores.nsd_per_class == {"one": 1, "two": 0}
    assert (scores.nsd, scores.volume_error_per_class) == (1, {"one": 0, "two": None})
    scores = score(boxes(), make_volume(0 * boxes()), make_model(CLASSES))
    assert (scores.dice, scores.hd95_mm, scores.missed) == (None, None, ())


def test_missed_class_leaves_no_mean_distance() -> None:
    scores = score(boxes(shift=2, other=0), make_volume(boxes()), make_model(CLASSES))
    assert scores.hd95_mm_per_class == {"one": 1.0, "two": None}
    assert scores.hd95_mm is None
    assert scores.missed == ("two",)
    assert scores.dice == pytest.approx(0.25)


@pytest.mark.parametrize(("axis", "expected"), [(0, 3.0), (1, 1.0), (2, 0.5)])
def test_distance_is_in_mm(axis: int, expected: float) -> None:
    label = boxes(other=0)
    scores = score(np.roll(label, 1, axis), make_volume(label), make_model({"background": 0, "one": 1}))
    assert scores.hd95_mm == pytest.approx(expected)


def test_distance_against_its_definition() -> None:
    label, predicted = blobs(2), blobs(3)

    def directed(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        edges = [mask ^ binary_erosion(mask) for mask in (a, b)]
        return float(np.percentile(distance_transform_edt(~edges[1], SPACING)[edges[0]], 95))

    scores = score(predicted, make_volume(label), make_model(CLASSES))
    for name, value in (("one", 1), ("two", 2)):
        a, b = predicted == value, label == value
        assert scores.hd95_mm_per_class[name] == pytest.approx(max(directed(a, b), directed(b, a)), rel=1e-5)


@pytest.mark.parametrize("tolerance", [0.0, 0.5, 2.0])
def test_surface_dice_against_its_definition(tolerance: float) -> None:
    label, predicted = blobs(2), blobs(3)
    scores = score(predicted, make_volume(label), make_model(CLASSES), tolerance)
    for name, value in (("one", 1), ("two", 2)):
        edges = [mask ^ binary_erosion(mask) for mask in (predicted == value, label == value)]
        far = [distance_transform_edt(~edge, SPACING) for edge in edges]
        near = (far[1][edges[0]] <= tolerance).sum() + (far[0][edges[1]] <= tolerance).sum()
        assert scores.nsd_per_class[name] == pytest.approx(near / (edges[0].sum() + edges[1].sum()))
    assert scores.nsd == pytest.approx(np.mean(list(scores.nsd_per_class.values())))


def test_a_shift_within_the_tolerance_is_none() -> None:
    label = boxes(other=0)
    model = make_model({"background": 0, "one": 1})
    found = [score(np.roll(label, 1, 0), make_volume(label), model, tolerance).nsd for tolerance in (2.9, 3.0)]
    assert found[0] < 1 == found[1]  # a slice is 3 mm thick


def test_volume_error_has_a_sign_by_class() -> None:
    label = boxes()
    larger = label.copy()
    larger[2:6, 3:7, 6:10] = 1  # twice as many
    larger[2:4, 3:7, 14:18] = 0  # half as many
    scores = score(larger, make_volume(label), make_model(CLASSES))
    assert scores.volume_error_per_class == {"one": 1.0, "two": -0.5}
    assert scores.volume_error == 0.75


def test_ignored_voxels_count_nowhere() -> None:
    label, predicted = boxes(), boxes()
    label[:, :, 6:14], predicted[:, :, 6:14] = 3, 1
    scores = score(predicted, make_volume(label), make_model({**CLASSES, "ignore": 3}))
    assert (scores.dice, scores.hd95_mm) == (1, 0)


def test_volume_of_one_slice_is_measured_in_its_plane() -> None:
    label = np.zeros((1, 30, 30), np.int16)
    label[0, 5:25, 5:25] = 1
    scores = score(np.roll(label, 4, 2), make_volume(label), make_model({"background": 0, "one": 1}))
    assert scores.hd95_mm == pytest.approx(2.0)  # of the contours; over whole areas it would be less


def test_shapes_must_agree() -> None:
    for function in (score, mean_dice):
        with pytest.raises(ValueError, match=r"a: the prediction has shape \(1, 2, 3\), a.nii.gz \(8, 12, 20\)"):
            function(np.zeros((1, 2, 3), np.uint8), make_volume(boxes()), make_model(CLASSES))


def test_import_brings_in_no_torchvision() -> None:
    """The library of the surface distance is loaded late, and without torchvision, which may be broken."""
    code = "import sys, nnunet_ima.segmentation.scores; early = 'monai' in sys.modules; import monai.metrics; "
    code += "print(early, 'torchvision' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
