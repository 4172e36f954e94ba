"""Open archives: folders, tar files, and what is neither."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.datasets.archive import open_archive
from nnunet_ima.datasets.tasks import load_task

D4 = load_task("D4")


@pytest.fixture(scope="module")
def root(write_archive: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("archive"), cases=2)


@pytest.fixture(scope="module")
def tar(root: Path) -> Path:
    file = root.with_suffix(".tar")
    with tarfile.open(file, "w") as stream:
        stream.add(root, root.name)
        entry = tarfile.TarInfo(f"{root.name}/imagesTr/._hippocampus_000.nii.gz")
        stream.addfile(entry, io.BytesIO())
    return file


def test_folder(root: Path, tmp_path: Path) -> None:
    archive = open_archive(root, D4, tmp_path)
    assert archive.root == root
    assert archive.channels == ("MRI",)
    assert archive.labels == {0: "background", 1: "one", 2: "two"}
    assert archive.listed["hippocampus_001"] == (
        "imagesTr/hippocampus_001.nii.gz",
        "labelsTr/hippocampus_001.nii.gz",
    )


def test_folder_that_holds_the_archive(root: Path, tmp_path: Path) -> None:
    assert open_archive(root.parent, D4, tmp_path).root == root


def test_tar(tar: Path, tmp_path: Path) -> None:
    archive = open_archive(tar, D4, tmp_path)
    assert archive.root == tmp_path / "Task04_Hippocampus"
    assert sorted(file.name for file in (archive.root / "imagesTr").iterdir()) == [
        "hippocampus_000.nii.gz",
        "hippocampus_001.nii.gz",
    ]


def test_truncated_tar(tar: Path, tmp_path: Path) -> None:
    content = tar.read_bytes()
    with tarfile.open(tar) as stream:
        members = stream.getmembers()
    between = members[-2].offset  # where a member begins: tarfile itself would not notice
    end_of_data = members[-1].offset_data
    for number, length in enumerate((0, 100, len(content) // 2, between, end_of_data)):
        file = tmp_path / f"{number}.tar"
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"{file} is truncated or not a tar file"):
            open_archive(file, D4, tmp_path / f"scratch_{number}")


def test_tar_with_a_damaged_header(tar: Path, tmp_path: Path) -> None:
    """tarfile takes the members before it for all."""
    content = bytearray(tar.read_bytes())
    with tarfile.open(tar) as stream:
        content[stream.getmembers()[3].offset + 10] ^= 1
    file = tmp_path / "damaged.tar"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is truncated or not a tar file"):
        open_archive(file, D4, tmp_path / "scratch")


def test_tar_that_writes_outside_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as stream:
        stream.addfile(tarfile.TarInfo("../outside.txt"), io.BytesIO())
    with pytest.raises(ValueError, match="cannot be extracted"):
        open_archive(file, D4, tmp_path / "scratch")
    assert not (tmp_path / "outside.txt").exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--source must name the folder Task04_Hippocampus or its \.tar file"):
        open_archive(tmp_path / "missing", D4, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no dataset\.json"):
        open_archive(tmp_path, D4, tmp_path)


def test_archive_of_another_task(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is Task04_Hippocampus, but D5 needs Task05_Prostate"):
        open_archive(root, load_task("D5"), tmp_path)


def test_missing_folder(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "labelsTr")
    with pytest.raises(FileNotFoundError, match="labelsTr is missing"):
        open_archive(copy, D4, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": None}, "damaged"),
        ({"modality": {}}, '"modality" names no channel'),
        ({"labels": {"0": "background", "2": "two"}}, '"labels" must name the values 0, 1'),
        ({"labels": {"0": "background", "1": "one", "2": "one"}}, '"labels" must name'),
        ({"training": ["a", "b"]}, "damaged"),
        ({"training": [{"image": "../a.nii.gz", "label": "b.nii.gz"}]}, "lies outside the archive"),
        ({"training": [{"image": "a.nii.gz", "label": "a.nii.gz"}] * 2}, '"training" lists a case twice'),
    ],
)
def test_damaged_dataset_json(root: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    file = copy / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        open_archive(copy, D4, tmp_path)
    assert str(file) in str(caught.value)


def test_dataset_json_that_is_no_json(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        open_archive(copy, D4, tmp_path)
