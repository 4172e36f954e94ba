"""Which cases lie in a folder of DICOM files, and what they are called."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from dicom_files import report, series_of, uid_of, voxels, write

from nnunet_ima.datasets.dicom.folders import DicomCase, find_cases, holds_dicom
from nnunet_ima.datasets.dicom.names import tells_patient


def put(folder: Path, series: str = "one", **tags: Any) -> None:
    write(series_of(voxels((3, 8, 8)), series=uid_of(series), **tags), folder)


def alias(series: str = "one") -> str:
    return f"series-{hashlib.sha256(uid_of(series).encode()).hexdigest()[:10]}"


def only(cases: list[DicomCase]) -> DicomCase:
    (case,) = cases
    return case


def test_a_folder_for_each_case(tmp_path: Path) -> None:
    put(tmp_path / "b" / "0000", "two")
    put(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "DICOMDIR").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    first, second = find_cases(tmp_path, 1)
    assert (first.name, first.source, first.fault) == ("a", "a", None)
    assert (second.name, second.series) == ("b", {uid_of("two")})
    assert [len(first.channels), len(first.channels[0])] == [1, 3]


def test_channels_are_numbered_never_guessed(tmp_path: Path) -> None:
    put(tmp_path / "a" / "0001", "t2")
    put(tmp_path / "a" / "0000", "t1")
    (channels,) = [case.channels for case in find_cases(tmp_path, 2)]
    assert [channel[0].text("0020|000e") for channel in channels] == [uid_of("t1"), uid_of("t2")]


@pytest.mark.parametrize(
    ("places", "channels", "held"),
    [
        ({"t1": ".", "t2": "."}, 2, "sub-folder for each channel of the model (0000, 0001) with the files of a single"),
        ({"t1": "T1", "t2": "T2"}, 2, "it holds 2 series in 2 folders"),
        ({"t1": "0000"}, 2, "it holds 1 series in 1 folder"),
        ({"t1": "."}, 2, "it holds 1 series in 1 folder"),
        ({"t1": "0000", "t2": "0001", "t3": "."}, 2, "it holds 3 series in 3 folders"),
        ({"t1": ".", "t2": "."}, 1, "must hold the files of a single series, or a sub-folder"),
        ({"t1": "study"}, 1, "it holds 1 series in 1 folder"),
        ({"t1": "0000", "t2": "0001"}, 1, "it holds 2 series in 2 folders"),
    ],
)
def test_a_case_that_is_laid_out_otherwise_is_refused(
    places: dict[str, str], channels: int, held: str, tmp_path: Path
) -> None:
    for number, (series, place) in enumerate(places.items()):
        for file in write(series_of(voxels((3, 8, 8)), series=uid_of(series)), tmp_path / "a" / place / f"{number}"):
            file.rename(file.parent.parent / f"{series}_{file.name}")
        (tmp_path / "a" / place / f"{number}").rmdir()
    case = only(find_cases(tmp_path, channels))
    assert held in str(case.fault)
    assert str(tmp_path) not in str(case.fault)


def test_series_mixed_in_one_folder(tmp_path: Path) -> None:
    """They go by pseudonyms; what is no image, or cannot be read, is a case of its own."""
    for series in ("one", "two"):
        for file in write(series_of(voxels((3, 8, 8)), series=uid_of(series)), tmp_path / series):
            file.rename(tmp_path / f"{series}{file.name}")
        (tmp_path / series).rmdir()
    report(tmp_path / "sr")
    (tmp_path / "broken").write_bytes((tmp_path / "oneIM_0001").read_bytes()[:-5])
    cases = {case.name: case for case in find_cases(tmp_path, 1)}
    assert {alias("one"), alias("two")} <= cases.keys()
    assert cases[alias("two")].source == uid_of("two")
    assert f"SeriesInstanceUID {uid_of('two')}, 3 files" in cases[alias("two")].place
    strays = [case for name, case in cases.items() if name.startswith("file-")]
    assert sorted(str(case.fault)[:30] for case in strays) == [
        "a file cannot be read: it is d",
        "a file is no image but a struc",
    ]


@pytest.mark.parametrize(
    ("folder", "tags"),
    [
        ("Doe", {}),
        ("DOE_JOHNNY", {}),
        ("study-johnny2", {}),
        ("doejohnny", {}),
        ("pid 4711", {}),
        ("x19700131", {}),
        ("1970-01-31", {}),
        ("Li_Wu", {"PatientName": "Li^Wu"}),
        ("muller", {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"}),
        ("Mu\u0308ller", {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 192"}),
        ("山田", {"PatientName": "Yamada^Tarou=山田^太郎", "SpecificCharacterSet": ["", "ISO 2022 IR 87"]}),
        ("Wang-1", {"OtherPatientNames": "Wang^X"}),
    ],
)
def test_a_folder_that_tells_the_patient_gets_a_pseudonym(folder: str, tags: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path / folder, **tags)
    case = only(find_cases(tmp_path, 1))
    assert case.name == alias()
    assert case.source == folder
    assert case.place == str(tmp_path / folder)


@pytest.mark.parametrize("folder", ["case_001", "prostate_do", "XY"])
def test_a_folder_that_tells_nobody_keeps_its_name(folder: str, tmp_path: Path) -> None:
    """Parts of fewer than three letters are no names."""
    put(tmp_path / folder)
    assert only(find_cases(tmp_path, 1)).name == folder


def test_a_folder_with_unreadable_files_gets_a_pseudonym(tmp_path: Path) -> None:
    """Its patient may stand in them."""
    put(tmp_path / "Roe", PatientName="anonymous")
    report(tmp_path / "Roe" / "sr")
    report(tmp_path / "Poe" / "sr")
    damaged, whole = sorted(find_cases(tmp_path, 1), key=lambda case: case.name)
    assert damaged.name.startswith("file-")
    assert whole.name == alias()
    assert "structured report" in str(whole.fault)


def test_words_of_the_patient_in_other_texts(tmp_path: Path) -> None:
    put(tmp_path / "a")
    words = only(find_cases(tmp_path, 1)).words
    assert tells_patient("lesion of JOHNNY", words)
    assert not tells_patient("lesion", words)


def test_layouts_that_are_none(tmp_path: Path) -> None:
    put(tmp_path / "both" / "a")
    put(tmp_path / "both")
    with pytest.raises(ValueError, match="holds both files"):
        find_cases(tmp_path / "both", 1)
    put(tmp_path / "mixed")
    with pytest.raises(ValueError, match="wants 2 channels for each case"):
        find_cases(tmp_path / "mixed", 2)
    put(tmp_path / "twice" / "Doe 1")
    put(tmp_path / "twice" / "Doe 2")
    with pytest.raises(ValueError, match="hold the same series"):
        find_cases(tmp_path / "twice", 1)


def test_what_is_taken_for_dicom(tmp_path: Path) -> None:
    put(tmp_path / "a")
    assert holds_dicom(tmp_path, ".nii.gz")
    (tmp_path / "x_0000.nii.gz").write_bytes(b"")
    assert not holds_dicom(tmp_path, ".nii.gz")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.nii").write_bytes(b"")
    assert not holds_dicom(tmp_path / "other", ".nii.gz")
    assert not holds_dicom(tmp_path / "nowhere", ".nii.gz")


def test_folders_behind_links_are_read(tmp_path: Path) -> None:
    put(tmp_path / "archive" / "x")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0000").symlink_to(tmp_path / "archive" / "x")
    assert only(find_cases(tmp_path / "images", 1)).fault is None
