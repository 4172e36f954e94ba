"""Folders and CSV files become one tensor with labels, or an error that names the fault."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from nnunet_ima.classification.data import class_weights, duplicates, load_images, shorten
from nnunet_ima.classification.image_set import ImageSet
from nnunet_ima.classification.images import read_grey
from nnunet_ima.classification.splits import leaks, make_splits

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "SARS-CoV-2-CT"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the SARS-CoV-2 CT data set is not at {REAL}")


def save(file: Path, seed: int, dtype: type = np.uint8, colours: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10)).astype(dtype)
    image = sitk.GetImageFromArray(np.stack([pixels] * colours, -1), isVector=True) if colours > 1 else None
    sitk.WriteImage(image or sitk.GetImageFromArray(pixels), str(file))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """3 images of COVID in grey, 4 of non-COVID in RGBA, as in the original data set."""
    for i in range(3):
        save(tmp_path / "data" / "COVID" / f"Covid ({i}).png", i)
    for i in range(4):
        save(tmp_path / "data" / "non-COVID" / f"Non-Covid ({i}).png", 10 + i, colours=4)
    return tmp_path / "data"


@pytest.fixture
def sheet(folder: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (folder / "sheet.csv").write_text(text, encoding="utf-8-sig")
        return folder / "sheet.csv"

    return write


def load(source: Path, size: int | tuple[int, int] = 8, **settings: object) -> ImageSet:
    return load_images(source, size, show_progress=False, **settings)  # type: ignore[arg-type]


def test_folder_per_class(folder: Path) -> None:
    (folder / "COVID" / "Thumbs.db").write_text("")
    (folder / "COVID" / "._Covid (0).png").write_text("")
    (folder / "README.md").write_text("")
    data = load(folder, (8, 6))
    assert data.images.shape == (7, 1, 8, 6)
    assert data.images.dtype == torch.float32
    assert 0 <= data.images.min() < data.images.max() <= 1
    assert data.labels.dtype == torch.long
    assert data.labels.tolist() == [0] * 3 + [1] * 4
    assert data.classes == ("COVID", "non-COVID")
    assert data.class_counts() == {"COVID": 3, "non-COVID": 4}
    assert data.ids[0] == "COVID/Covid (0).png"
    assert (data.patients, data.splits, data.skipped) == (None, None, ())
    assert "patients are not known" in data.notes[0]
    assert len(data.notes) == 1
    assert load(folder).images.shape == (7, 1, 8, 8)
    assert load_images(folder, show_progress=False).images.shape == (7, 1, 224, 224)


def test_colour_mode_of_a_class_does_not_leak(tmp_path: Path) -> None:
    """The same pictures in both classes, grey in one and RGBA in the other: the tensors are the same."""
    for i in range(3):
        save(tmp_path / "COVID" / f"{i}.png", i)
        save(tmp_path / "non-COVID" / f"{i}.png", i, colours=4)
    data = load(tmp_path)
    assert torch.equal(data.images[:3], data.images[3:])
    assert duplicates(data) == [(f"COVID/{i}.png", f"non-COVID/{i}.png") for i in range(3)]
    assert len(data.notes) == 1


def test_number_format_that_gives_the_class_away_is_noted(folder: Path) -> None:
    save(folder / "COVID" / "16-bit.png", 5, np.uint16)
    note = load(folder).notes[1]
    assert "COVID: 8-bit and other; non-COVID: 8-bit" in note


def test_given_classes_set_the_order_and_choose_folders(folder: Path) -> None:
    save(folder / "masks" / "0.png", 0)
    data = load(folder, classes=("non-COVID", "COVID"))
    assert data.class_counts() == {"non-COVID": 4, "COVID": 3}
    assert data.labels.tolist() == [0] * 4 + [1] * 3
    with pytest.raises(FileNotFoundError, match="no folder flu; it holds COVID, masks, non-COVID"):
        load(folder, classes=("COVID", "flu"))
    with pytest.raises(ValueError, match="must differ"):
        load(folder, classes=("COVID", "COVID"))


def test_csv(folder: Path, sheet: Callable[[str], Path]) -> None:
    rows = [
        "label, image, patient, split, remark",
        "sick,COVID/Covid (0).png,p1,train,",
        "well,./non-COVID/Non-Covid (0).png,p2,train,x",
        "sick,COVID/Covid (1).png,p1,test,",
    ]
    data = load(sheet("\n".join(rows)))
    assert data.ids == ("COVID/Covid (0).png", "non-COVID/Non-Covid (0).png", "COVID/Covid (1).png")
    assert data.classes == ("sick", "well")
    assert data.labels.tolist() == [0, 1, 0]
    assert data.patients == ("p1", "p2", "p1")
    assert data.splits == ("train", "train", "test")
    assert data.notes == ()
    assert torch.equal(data.images[:1], load(folder).images[:1])


ONE = "COVID/Covid (0).png"
TWO = "non-COVID/Non-Covid (0).png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", r"sheet\.csv has no column image; its first line says 'file, label'"),
        ("image;label\na;b\n", "no column image and no column label"),
        ("", "no column image and no column label"),
        ("image,label\n", "lists no images"),
        (f"image,label\n{ONE},COVID\n{TWO},flu\n", "line 3: label 'flu' is none of the classes COVID, non-COVID"),
        (f"image,label\n{ONE},COVID\n{TWO}\n", "line 3: label is empty; fill it in"),
        (f"image,label,patient\n{ONE},COVID,\n", "line 2: patient is empty; fill it in on every line, or remove"),
        (f"image,label,split\n{ONE},COVID,val\n", "line 2: split 'val' is none of train, validation, test"),
        (f"image,label\n{ONE},COVID\n./{ONE},COVID\n", r"line 3: COVID/Covid \(0\)\.png is listed twice"),
        (f"image,label\n{ONE},COVID\n", "no readable image of class non-COVID"),
    ],
)
def test_faults_of_a_csv(sheet: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(sheet(text), classes=("COVID", "non-COVID"))


def test_csv_with_missing_files_or_of_another_kind(folder: Path, sheet: Callable[[str], Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png is missing; --skip-faulty leaves"):
        load(sheet(f"image,label\n{ONE},a\nnone.png,b\n"))
    with pytest.raises(ValueError, match=r"single class \(a\)"):
        load(sheet(f"image,label\n{ONE},a\n{TWO},a\n"))
    with pytest.raises(ValueError, match="no CSV file in UTF-8"):
        load(folder / ONE)


def test_faults_of_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is missing: name a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no folders; it must hold a folder per class"):
        load(folder / "COVID")
    save(folder / "x.png", 0)
    with pytest.raises(ValueError, match=r"single class \(data\)"):
        load(tmp_path)
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no images \(\.png, "):
        load(folder)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        load(folder, 0)


def test_faulty_images_are_named_or_skipped(folder: Path) -> None:
    for name in ("COVID/Covid (1).png", "non-COVID/Non-Covid (2).png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=r"(?s)2 images cannot be used; .*Covid \(1\)\.png.*Non-Covid \(2\)\.png"):
        load(folder)
    data = load(folder, skip_faulty=True)
    assert len(data) == len(data.images) == len(data.labels) == len(data.digests) == 5
    assert data.class_counts() == {"COVID": 2, "non-COVID": 3}
    assert "COVID/Covid (1).png" not in data.ids
    assert [fault.split(" cannot")[0] for fault in data.skipped] == [
        f"{folder}/COVID/Covid (1).png",
        f"{folder}/non-COVID/Non-Covid (2).png",
    ]
    for file in (folder / "COVID").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="no readable image of class COVID: "):
        load(folder, skip_faulty=True)


def test_links_to_nowhere_are_listed_among_the_skipped(folder: Path) -> None:
    for name, target in (("loop.png", "loop.png"), ("broken.png", "none.png")):
        (folder / "COVID" / name).symlink_to(target)
    with pytest.raises(FileNotFoundError, match=r"(?s)2 images cannot be used.*broken\.png is a link to nowhere.*loop"):
        load(folder)
    skipped = load(folder, skip_faulty=True).skipped
    assert [fault.split(" is ")[0] for fault in skipped] == [
        f"{folder}/COVID/broken.png",
        f"{folder}/COVID/loop.png",
    ]


def test_duplicates_are_found_by_pixels(folder: Path) -> None:
    assert duplicates(load(folder)) == []
    save(folder / "COVID" / "again.nii.gz", 1)
    save(folder / "COVID" / "once more.png", 1, colours=3)
    save(folder / "non-COVID" / "in colour.png", 10, colours=3)
    assert duplicates(load(folder)) == [
        ("COVID/Covid (1).png", "COVID/again.nii.gz", "COVID/once more.png"),
        ("non-COVID/Non-Covid (0).png", "non-COVID/in colour.png"),
    ]


def test_class_weights() -> None:
    weights = class_weights(torch.tensor([0, 0, 0, 1]), 2)
    assert torch.allclose(weights, torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match=r"got \[1, 0\] images per class"):
        class_weights(torch.tensor([0]), 2)


def test_shorten() -> None:
    assert shorten(["a", "b"]) == "a, b"
    assert shorten(list("abcdefg")) == "a, b, c, d, e and 2 more"


@needs_real
def test_real_data(tmp_path: Path) -> None:
    files = [file for name in ("COVID", "non-COVID") for file in sorted((REAL / name).glob("*.png"))[:30]]
    (tmp_path / "some.csv").write_text("image,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    data = load(tmp_path / "some.csv", 64)
    assert data.images.shape == (60, 1, 64, 64)
    assert data.class_counts() == {"COVID": 30, "non-COVID": 30}
    assert 0 <= data.images.min() < 0.2 < 0.8 < data.images.max() <= 1
    splits = make_splits(data)
    assert {name: len(ids) for name, ids in splits.ids().items()} == {"train": 36, "validation": 12, "test": 12}
    assert leaks(splits, data) == []
    assert read_grey(files[0]).shape == (224, 224)
