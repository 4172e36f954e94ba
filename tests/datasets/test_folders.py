"""nnU-Net's folders and the way a data set gets into them."""

import os
from pathlib import Path

import pytest

from nnunet_ima.datasets.folders import (
    dataset_folder_name,
    find_dataset,
    nnunet_at,
    nnunet_folder,
    refuse_taken,
    staging,
)

NAME = "Dataset004_Hippocampus"


def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(ValueError, match=r"nnUNet_raw is not set; type: export nnUNet_raw="):
        nnunet_folder("nnUNet_raw")


def test_dataset_folder_name() -> None:
    assert dataset_folder_name(4, "Hippocampus") == NAME
    for dataset_id, name in ((0, "A"), (1000, "A"), (4, ""), (4, "a_b"), (4, "../a")):
        with pytest.raises(ValueError, match="of a data set must"):
            dataset_folder_name(dataset_id, name)


def test_find_dataset(empty_folders) -> None:
    for name in (NAME, "Dataset040_Other", "Dataset007_A", "Dataset007_B"):
        (empty_folders.preprocessed / name).mkdir()
    assert find_dataset("4") == NAME
    assert find_dataset("004") == NAME
    assert find_dataset(NAME) == NAME
    with pytest.raises(FileNotFoundError, match=r"holds no data set 5; it holds Dataset004_Hippocampus, "):
        find_dataset("5")
    with pytest.raises(ValueError, match="several data sets with the number 7"):
        find_dataset("7")
    with pytest.raises(ValueError, match="is a number"):
        find_dataset("Hippocampus")


def test_taken_names_are_refused(empty_folders) -> None:
    refuse_taken(NAME, overwrite=False)
    (empty_folders.results / NAME).mkdir()
    refuse_taken(NAME, overwrite=False)  # trained models stay
    (empty_folders.preprocessed / NAME).mkdir()
    with pytest.raises(FileExistsError, match="replace it with --overwrite, or remove it yourself"):
        refuse_taken(NAME, overwrite=False)
    refuse_taken(NAME, overwrite=True)
    (empty_folders.results / "Dataset004_Other").mkdir()
    with pytest.raises(FileExistsError, match="has the same number as Dataset004_Hippocampus"):
        refuse_taken(NAME, overwrite=True)


def make(places, content: str) -> None:
    for parent in (places.raw, places.preprocessed):
        (parent / NAME).mkdir()
        (parent / NAME / "file").write_text(content)


def contents(folders) -> list[str]:
    return [(home / NAME / "file").read_text() for home in (folders.raw, folders.preprocessed)]


def only(folders) -> bool:
    """Whether nothing but the data set is left in the folders."""
    return all(os.listdir(home) in ([], [NAME]) for home in (folders.raw, folders.preprocessed))


def test_publish_replaces_as_a_whole(empty_folders) -> None:
    for content in ("first", "second"):
        with staging() as places:
            make(places, content)
            assert places.publish(NAME) == (empty_folders.raw / NAME, empty_folders.preprocessed / NAME)
        assert contents(empty_folders) == [content] * 2
        assert only(empty_folders)


def test_failed_publish_keeps_the_former_data_set(empty_folders) -> None:
    with staging() as places:
        make(places, "first")
        places.publish(NAME)
    with pytest.raises(FileNotFoundError), staging() as places:  # noqa: PT012
        make(places, "second")
        (places.preprocessed / NAME / "file").unlink()
        (places.preprocessed / NAME).rmdir()
        places.publish(NAME)
    assert contents(empty_folders) == ["first"] * 2
    assert only(empty_folders)


def test_staging_leaves_nothing_behind(empty_folders) -> None:
    with pytest.raises(KeyboardInterrupt), staging() as places:  # noqa: PT012
        make(places, "half")
        raise KeyboardInterrupt
    assert only(empty_folders)
    assert not (empty_folders.raw / NAME).exists()


def test_nnunet_works_in_the_staging_folders(empty_folders) -> None:
    before = dict(os.environ)
    with staging() as places, nnunet_at(places):
        assert Path(os.environ["nnUNet_raw"]) == places.raw
        assert places.raw.is_relative_to(empty_folders.raw)  # the same file system: publishing is a rename
        assert "nnUNet_results" not in os.environ
    assert dict(os.environ) == before
