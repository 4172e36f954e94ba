"""Which cases get into an audit, and which are refused and why."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ima.inference.cases import Case, check_case, dataset_cases, folder_cases

DATASET = "Dataset901_Test"
SPLITS = [
    {"train": ["c_2", "c_3", "c_4"], "val": ["c_0", "c_1"]},
    {"train": ["c_0", "c_3", "c_4"], "val": ["c_1", "c_2"]},
    {"train": ["c_0", "c_1", "c_2"], "val": ["c_3", "c_4"]},
]


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


@pytest.fixture
def raw(empty_folders: Any) -> Path:
    """Raw data set of six cases with two channels, the last of which no split knows."""
    folder = empty_folders.raw / DATASET
    touch(folder / "imagesTr", *(f"c_{case}_000{channel}.nii.gz" for case in range(6) for channel in (1, 0)))
    touch(folder / "labelsTr", *(f"c_{case}.nii.gz" for case in range(6)))
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    splits = touch(empty_folders.preprocessed / DATASET) / "splits_final.json"
    splits.write_text(json.dumps(SPLITS))
    return folder


def test_validation_cases_of_one_fold(raw: Path) -> None:
    cases = dataset_cases(DATASET, ("0",))
    assert names(cases) == ["c_0", "c_1"]
    files = tuple(raw / "imagesTr" / f"c_0_000{channel}.nii.gz" for channel in (0, 1))
    assert cases[0] == Case("c_0", files, raw / "labelsTr" / "c_0.nii.gz")
    assert names(dataset_cases(DATASET, ("2",))) == ["c_3", "c_4"]


def test_an_ensemble_is_audited_on_what_no_fold_was_trained_on(raw: Path) -> None:
    assert names(dataset_cases(DATASET, ("0", "1"))) == ["c_1"]
    with pytest.raises(ValueError, match=r"every case .* is a training case of one of the folds 0, 1, 2; .*--allow"):
        dataset_cases(DATASET, ("0", "1", "2"))


def test_named_cases(raw: Path) -> None:
    assert names(dataset_cases(DATASET, ("0",), names=("c_1", "c_0", "c_1"))) == ["c_1", "c_0"]
    assert names(dataset_cases(DATASET, ("0",), names=("c_5",))) == ["c_5"]  # nobody was trained on it
    with pytest.raises(ValueError, match=r"holds no case 'c_01'; did you mean c_"):
        dataset_cases(DATASET, ("0",), names=("c_01",))
    with pytest.raises(ValueError, match=r"holds no case 'heart'; it holds c_0, c_1"):
        dataset_cases(DATASET, ("0",), names=("heart",))


def test_training_cases_are_refused_unless_allowed(raw: Path) -> None:
    for folds, case, fold in ((("0",), "c_3", "0"), (("0", "1"), "c_0", "1"), (("all",), "c_0", "all")):
        with pytest.raises(ValueError, match=f"{case} is a training case of fold {fold}, .*--allow-training-cases"):
            dataset_cases(DATASET, folds, names=(case,))
        assert names(dataset_cases(DATASET, folds, names=(case,), allow_training_cases=True)) == [case]
    with pytest.raises(ValueError, match="every case of Dataset901_Test is a training case"):
        dataset_cases(DATASET, ("all",))
    assert len(dataset_cases(DATASET, ("all",), allow_training_cases=True)) == 6


def test_data_set_with_listed_files(raw: Path) -> None:
    listed = {"c_0": {"images": ["imagesTr/c_0_0000.nii.gz"], "label": "labelsTr/c_1.nii.gz"}}
    (raw / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", "dataset": listed}))
    (case,) = dataset_cases(DATASET, ("0",), names=["c_0"])
    assert case == Case("c_0", (raw / "imagesTr" / "c_0_0000.nii.gz",), raw / "labelsTr" / "c_1.nii.gz")


def test_missing_folders_and_folds(raw: Path, empty_folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for fold in ("3", "best"):
        with pytest.raises(ValueError, match=f"holds the folds 0 to 2, but the model is of fold {fold}"):
            dataset_cases(DATASET, (fold,))
    (raw / "labelsTr" / "c_1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"case c_1 is incomplete: .*labelsTr/c_1.nii.gz not found"):
        dataset_cases(DATASET, ("0",))
    splits = empty_folders.preprocessed / DATASET / "splits_final.json"
    splits.write_text("{")
    with pytest.raises(ValueError, match=r"splits_final.json is damaged"):
        dataset_cases(DATASET, ("0",))
    splits.unlink()
    with pytest.raises(FileNotFoundError, match=r"splits_final.json is missing: .*copy it"):
        dataset_cases(DATASET, ("0",))
    with pytest.raises(FileNotFoundError, match=r"Dataset902_Other/dataset.json is missing: .*check nnUNet_raw"):
        dataset_cases("Dataset902_Other", ("0",))
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(ValueError, match="nnUNet_raw is not set"):
        dataset_cases(DATASET, ("0",))


def test_prepared_phantom(phantom: Any) -> None:
    splits = [{"train": [], "val": [image.name[:-12] for image in sorted((phantom.raw / "imagesTr").iterdir())]}]
    file = phantom.preprocessed / "splits_final.json"
    former = file.read_text() if file.is_file() else None
    file.write_text(json.dumps(splits))
    try:
        cases = dataset_cases(phantom.name, ("0",))
    finally:
        file.unlink() if former is None else file.write_text(former)
    assert names(cases) == splits[0]["val"]
    model = make_model({"background": 0, "one": 1, "two": 2})
    assert [check_case(case, model) for case in cases] == [[]] * len(cases)


def test_own_cases_with_channels(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", ".hidden.nii.gz")
    labels = touch(tmp_path / "l", "a.nii.gz", "b.nii.gz")
    cases = folder_cases(images, labels, 2, ".nii.gz")
    assert names(cases) == ["a", "b"]
    assert cases[1] == Case("b", (images / "b_0000.nii.gz", images / "b_0001.nii.gz"), labels / "b.nii.gz")


def test_own_cases_named_as_their_labels(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "scan_0001.nii.gz", "other_0000.nii.gz")
    labels = touch(tmp_path / "l", "scan_0001.nii.gz", "other.nii.gz")
    cases = folder_cases(images, labels, 1, ".nii.gz")
    assert [(case.name, case.images[0].name) for case in cases] == [
        ("other", "other_0000.nii.gz"),
        ("scan_0001", "scan_0001.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            ["a_0000.nii.gz"],
            ["a.nii.gz"],
            r"a has 1 channel \(a_0000.nii.gz\), the model wants 2 \(a_0000.nii.gz, a_0001",
        ),
        (["a_0000.nii.gz", "a_0002.nii.gz"], ["a.nii.gz"], "a has 2 channels .*the model wants 2 "),
        (["a_0000.nii.gz", "a.nii.gz"], ["a.nii.gz"], "a has 2 channels"),
        ([], ["a.nii.gz"], "holds no file that ends in .nii.gz.*it is empty"),
        (["a_0000.png"], ["a.nii.gz"], "holds no file that ends in .nii.gz.*it holds a_0000.png"),
        (["a_0000.nii.gz"], [], "holds no file that ends in .nii.gz"),
    ],
)
def test_own_cases_that_do_not_fit(tmp_path: Path, images: list[str], labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        folder_cases(touch(tmp_path / "i", *images), touch(tmp_path / "l", *labels), 2, ".nii.gz")


def test_all_lonely_files_are_named_at_once(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a_0000.nii.gz", "b_0000.nii.gz", "c.nii.gz", "d_0000.nii.gz")
    labels = touch(tmp_path / "l", "a.nii.gz", "e.nii.gz", "f.nii.gz")
    with pytest.raises(ValueError, match="images without a label") as error:
        folder_cases(images, labels, 1, ".nii.gz")
    for file in ("b_0000.nii.gz (no l", "c.nii.gz (no l", "d_0000.nii.gz (no l", "e.nii.gz (no i", "f.nii.gz (no i"):
        assert file in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        folder_cases(images, tmp_path / "nowhere", 1, ".nii.gz")


def make_model(labels: dict[str, Any]) -> Any:
    return SimpleNamespace(label_manager=LabelManager(labels, regions_class_order=[1, 2]))


MODEL = make_model({"background": 0, "one": 1, "two": 2})
AFFINE = np.array([[0, -1.5, 0, 7], [1, 0, 0, -3], [0, 0, -2, 11], [0, 0, 0, 1.0]])


def save(file: Path, voxels: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] = AFFINE) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), file)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Two channels, and a label that holds 1 and 2."""
    images = (tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    for number, file in enumerate(images):
        save(file, np.random.default_rng(number).normal(size=(8, 7, 6)).astype(np.float32))
    label = np.zeros((8, 7, 6), np.uint8)
    label[2:4], label[4:6] = 1, 2
    save(tmp_path / "a.nii.gz", label)
    return Case("a", images, tmp_path / "a.nii.gz")


def edit(file: Path, change: Callable[[np.ndarray[Any, Any]], Any], affine: np.ndarray[Any, Any] = AFFINE) -> None:
    voxels = np.array(nib.load(file).dataobj, dtype=np.float32)
    save(file, np.asarray(change(voxels), np.float32), affine)


def put(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def change(voxels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        voxels[0, 0, 0] = value
        return voxels

    return change


def moved(distance: float) -> np.ndarray[Any, Any]:
    affine = AFFINE.copy()
    affine[0, 3] += distance
    return affine


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("a_0000", Path.unlink, "is missing"),
        ("a_0001", lambda f: f.write_bytes(f.read_bytes()[:200]), "cannot be read: Compressed file ended"),
        ("a", lambda f: f.write_bytes(b"no image"), "cannot be read: Not a gzipped file"),
        ("a_0000", lambda f: edit(f, lambda v: v[None] + np.zeros((3, 1, 1, 1))), "has 4 dimensions; expected 3, each"),
        ("a_0000", lambda f: edit(f, put(np.nan)), "has 1 voxel that are not finite"),
        ("a_0001", lambda f: edit(f, put(np.inf)), "has 1 voxel that are not finite"),
        ("a_0001", lambda f: edit(f, lambda v: 0 * v + 3), "is constant: every voxel is 3"),
        ("a_0001", lambda f: edit(f, lambda v: v[1:]), "has shape 7×7×6, its image 8×7×6"),
        ("a_0001", lambda f: edit(f, lambda v: v, moved(0.5)), "has another affine than its image: .* 0.5 mm apart"),
        ("a", lambda f: edit(f, lambda v: v[:, 1:]), "has shape 8×6×6, its image 8×7×6"),
        ("a", lambda f: edit(f, lambda v: v, moved(0.5)), "has another affine than its image: .* 0.5 mm apart"),
        ("a", lambda f: edit(f, lambda v: v, AFFINE @ np.diag([1, 1, 1.1, 1])), "has another affine"),
        ("a", lambda f: edit(f, put(7)), r"has label values 7, which the model does not know \(it knows 0, 1, 2\)"),
        ("a", lambda f: edit(f, put(0.5)), "has label values 0.5, which"),
        ("a", lambda f: edit(f, put(np.nan)), "has 1 voxel that are not finite"),
        ("a", lambda f: edit(f, lambda v: 0 * v), "holds no foreground: Dice is undefined"),
    ],
)
def test_fault(case: Case, file: str, damage: Callable[[Path], Any], message: str) -> None:
    path = case.label.with_name(f"{file}.nii.gz")
    damage(path)
    (fault,) = check_case(case, MODEL)
    assert fault.startswith(f"{path} ")
    assert re.search(message, fault), fault


def test_whole_case_has_no_faults_and_rounding_of_the_affine_is_none(case: Case) -> None:
    edit(case.label, lambda voxels: voxels, moved(1e-4))
    assert check_case(case, MODEL) == []


def test_every_fault_is_found_at_once(case: Case) -> None:
    edit(case.images[0], put(np.nan))
    case.images[1].unlink()
    edit(case.label, put(9), moved(2))
    assert len(check_case(case, MODEL)) == 4


def test_ignore_label_and_regions(case: Case) -> None:
    edit(case.label, lambda voxels: 3 * (voxels > 0))
    ignoring = make_model({"background": 0, "both": [1, 2], "second": 2, "ignore": 3})
    (fault,) = check_case(case, ignoring)
    assert fault.endswith("holds no foreground: Dice is undefined")
    edit(case.label, put(2))
    assert check_case(case, ignoring) == []


def test_two_dimensional_images(tmp_path: Path) -> None:
    image, label = tmp_path / "a_0000.png", tmp_path / "a.png"
    voxels = np.random.default_rng(0).integers(0, 255, (6, 7, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=True), str(image))
    sitk.WriteImage(sitk.GetImageFromArray((voxels[..., 0] > 99).astype(np.uint8)), str(label))
    assert check_case(Case("a", (image,), label), MODEL) == []
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((6, 8), np.uint8)), str(label))
    assert "has shape 8×6×1, its image 7×6×1" in check_case(Case("a", (image,), label), MODEL)[0]
