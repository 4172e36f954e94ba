"""Bad input of `nnunet-ima-classify`: one sentence that names the value or file, status 2, and nothing left behind."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from archive_files import evil_pickle, grey_pictures, rgb_pictures, write_cifar_binary, write_cifar_python, write_idx
from PIL import Image

from nnunet_ima.classification import fit as fit_module
from nnunet_ima.classification.networks import new_network, save_classifier
from nnunet_ima.classification.settings import resolve_settings
from nnunet_ima.commands import classify

Arrange = Callable[[Path], list[str] | None]
"""Spoils a work folder that holds data (a folder per class); returns the command, None for `fit` of that data."""


def write_image(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)).save(file)


def write_png_header(file: Path, width: int, height: int) -> None:
    """A PNG that claims this size, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_nifti_header(file: Path, *shape: int) -> None:
    """A NIfTI file that claims this shape, and holds next to nothing."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1, 1, 1))
    header["dim"][1 : 1 + len(shape)] = shape
    file.write_bytes(gzip.compress(header.binaryblock + bytes(5)))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with a healthy data set of two classes; to train in it is an error."""
    for number in range(8):
        write_image(tmp_path / "data" / ("COVID", "other")[number % 2] / f"{number}.png", number)

    def began(self: Any, epoch: int) -> str:
        pytest.fail("a training began")

    monkeypatch.setattr(fit_module._Training, "run_epoch", began)
    return tmp_path


def files_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        link = os.readlink(path) if path.is_symlink() else None
        found[str(path)] = link or (path.read_bytes() if path.is_file() else "folder")
    return found


def nothing(work: Path) -> None:
    pass


def put(name: str, content: str | bytes) -> Arrange:
    """Write a file into the work folder."""

    def arrange(work: Path) -> None:
        file = work / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def put_only(name: str, content: str | bytes = b"") -> Arrange:
    """Write a file, whose folder is the data."""

    def arrange(work: Path) -> list[str]:
        put(name, content)(work)
        return fit(work, data=str(Path(name).parent))

    return arrange


def folder(name: str) -> Arrange:
    return lambda work: (work / name).mkdir(parents=True)


def after(*steps: Arrange) -> Arrange:
    def arrange(work: Path) -> None:
        for step in steps:
            step(work)

    return arrange


def picture(name: str) -> Arrange:
    return lambda work: write_image(work / name, 99)


def link(name: str, target: str) -> Arrange:
    return lambda work: (work / name).symlink_to(target)


def table(*lines: str) -> Arrange:
    """A CSV file as the data."""

    return put_table("\n".join(("image,label", *lines)) + "\n")


def put_table(text: str) -> Arrange:
    def arrange(work: Path) -> list[str]:
        put("data/list.csv", text)(work)
        return fit(work, data="data/list.csv")

    return arrange


def fit(
    work: Path, method: str = "ce", changes: Sequence[str] = ("size=32",), data: str = "data", output: str = "out"
) -> list[str]:
    places = ["--data", str(work / data), "--output", str(work / output)]
    return ["fit", "--device", "cpu", "--method", method, *places, *(["--set", *changes] if changes else [])]


def begin(work: Path) -> None:
    """Let `fit` claim its folder, and stop it there."""

    def stop(self: Any, epoch: int) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module._Training, "run_epoch", stop)
        with pytest.raises(SystemExit):
            classify.main(fit(work))


def begun(**files: str | bytes) -> Arrange:
    """A training that was stopped as it began, with some of its files spoilt since."""

    def arrange(work: Path) -> None:
        begin(work)
        for key, content in files.items():
            put(f"out/ce/{NAMES[key]}", content)(work)

    return arrange


NAMES = {"model": "model.pt", "latest": "checkpoint_latest.pt", "claim": "training.json", "log": "log.csv"}
NAMES |= {"margins": "margins.json"}

SETTINGS = [
    ("ima", ["beta=7"], "beta must be a number at least 0 and at most 1, got 7"),
    ("ima", ["eps=1e400"], "eps must be a number greater than 0 and at most 1000000, got inf"),
    ("ima", ["steps=2.5"], "steps must be a whole number"),
    ("ima", ["steps=true"], "steps must be a whole number"),
    ("ima", ["bisection_tolerance=[1]"], "got [1]"),
    ("ima3", ["delta=4"], "delta (4) must not exceed eps (3)"),
    ("adv", ["eps=null"], "adv needs a noise level"),
    ("adv", ["alpha=big"], "alpha must be a number greater than 0"),
    ("adv3", ["eps=3"], "keep one of them"),
    ("trades", ["weight=-1"], "weight must be"),
    ("mma", ["clean_share=1.5"], "clean_share must be"),
    ("ddn", ["gamma=1"], "gamma must be"),
    ("ddn0.1", ["norm=Linf"], "ddn knows the L2 norm only"),
    ("fat", ["tau=3"], "tau must be pairs of a share of the epochs"),
    ("fat", ["tau=[[0.5, 1]]"], "tau must be pairs"),
    ("fat", ["tau=[[0, 0], [0.9, 1], [0.5, 2]]"], "tau must be pairs"),
    ("gairat", ["begin={}"], "begin must be"),
    ("ce", ["size=1"], "size=1 does not suit the network"),
    ("ce", ["size=100000"], "size must be a whole number at least 1 and at most 4096, got 100000"),
    ("ce", ["batch_size=1000000000"], "batch_size must be"),
    ("ce", ["epochs=0"], "epochs must be"),
    ("ce", ["epochs=1" + "0" * 400], "epochs must be"),
    ("ce", ["norm=L1"], "norm must be one of L2, Linf, got 'L1'"),
    ("ce", ["network=[]"], "network must be one of resnet18, small, wrn-28-4, cnn"),
    ("ce", ["network=cnn", "size=3"], "size=3 does not suit the network: it halves images twice"),
    ("ce", ["frozen=1"], "frozen must be one of true, false"),
    ("ce", ["encoder=5"], "encoder must be"),
    ("ce", ["start_from=[]"], "start_from must be"),
    ("ce", ["learning_rate=NaN"], "learning_rate must be"),
    ("ce", ["seed=3"], "seed=3 belongs to --seed"),
    ("ce", ["method=ima"], "unknown setting method"),
    ("ce3", [], "ce uses no noise"),
    ("adv0", [], "eps must be a number greater than 0"),
    ("adv-1", [], "unknown method 'adv-1'"),
    ("adv1e5", [], "unknown method 'adv1e5'"),
    ("adv" + "9" * 400, [], "eps must be"),
]

DATA: list[tuple[str, Arrange, str]] = [
    ("no data", lambda work: fit(work, data="none"), "none is missing"),
    ("a picture as data", lambda work: fit(work, data="data/COVID/0.png"), "0.png is no CSV file"),
    ("one class", lambda work: [*fit(work), "--classes", "COVID"], "single class (COVID)"),
    ("empty class", folder("data/third"), "third holds no images"),
    ("class of folders", folder("data/third/a.png"), "third holds no images"),
    ("class is a loop", link("data/third", "third"), "data/third is a link to nowhere"),
    ("class with a line break", picture("data/a\nb/0.png"), r"'a\nb' holds control"),
    ("text as PNG", put("data/COVID/text.png", "hello"), "text.png cannot be read"),
    ("empty PNG", put("data/COVID/empty.png", ""), "empty.png cannot be read"),
    ("loop", link("data/COVID/loop.png", "loop.png"), "loop.png is a link to nowhere"),
    ("broken link", link("data/COVID/link.png", "none.png"), "link.png is a link to nowhere"),
    ("pipe", lambda work: os.mkfifo(work / "data/COVID/pipe.png"), "pipe.png is no file"),
    ("name", picture("data/COVID/a\nb.png"), r"a\nb.png' has control characters"),
    (
        "PNG bomb",
        lambda work: write_png_header(work / "data/COVID/bomb.png", 60_000, 60_000),
        "bomb.png has 60000×60000 pixels; at most 64 million",
    ),
    (
        "NIfTI bomb",
        lambda work: write_nifti_header(work / "data/COVID/bomb.nii.gz", 30_000, 30_000, 1),
        "bomb.nii.gz has 30000×30000 pixels; at most 64 million",
    ),
    (
        "volume",
        lambda work: write_nifti_header(work / "data/COVID/volume.nii.gz", 512, 512, 30_000),
        "volume.nii.gz holds 30000 slices",
    ),
    ("CSV: parent", table("COVID/0.png,COVID", "COVID/../../b.png,other"), "line 3: image 'COVID/../../b.png'"),
    ("CSV: more cells", table("COVID/0.png,COVID", "other/1,b.png,other"), "line 3: it has more cells"),
    ("CSV: columns", put_table("image,label,label\n"), "list.csv has several columns label"),
    ("class argument", lambda work: [*fit(work), "--classes", "COVID", "other\n"], r"class 'other\n' holds control"),
    ("CSV: NUL", table("a\0.png,COVID"), ", line 2: image 'a\\x00.png' holds control characters"),
    ("CSV: control in a class", table("COVID/0.png,CO\x1bVID"), r"line 2: label 'CO\x1bVID' holds control characters"),
]


def archive(write: Callable[..., None], name: str, content: bytes | None, rgb: bool = True) -> Arrange:
    """A data set in its original files, one of which is spoilt, or missing."""

    def arrange(work: Path) -> list[str]:
        pictures = (rgb_pictures if rgb else grey_pictures)(50)
        write(work / "archive", pictures, pictures)
        (work / "archive" / name).unlink()
        if content is not None:
            (work / "archive" / name).write_bytes(content)
        return fit(work, data="archive")

    return arrange


def evil_batch(work: Path) -> list[str] | None:
    return archive(write_cifar_python, "test_batch", evil_pickle(work / "trace"))(work)


HUGE = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**16, 2**16)
IMAGES = "train-images-idx3-ubyte"
ARCHIVES: list[tuple[str, Arrange, str]] = [
    ("IDX: no header", archive(write_idx, IMAGES, b"", rgb=False), f"{IMAGES} is cut off"),
    ("IDX: bomb", archive(write_idx, IMAGES, HUGE, rgb=False), f"{IMAGES} claims to hold"),
    ("IDX: missing", archive(write_idx, IMAGES, None, rgb=False), f"{IMAGES} is missing, which belongs to MNIST"),
    ("IDX: picture", archive(write_idx, IMAGES, b"\x89PNG" + bytes(99), rgb=False), f"{IMAGES} begins with 89504e47"),
    ("CIFAR: cut", archive(write_cifar_binary, "test_batch.bin", bytes(3072)), "test_batch.bin has 3072 bytes"),
    ("CIFAR: missing", archive(write_cifar_binary, "data_batch_5.bin", None), "data_batch_5.bin is missing"),
    ("CIFAR: evil pickle", evil_batch, "test_batch would run 'posix.mkdir'"),
    ("SVHN: alone", put_only("archive/train_32x32.mat"), "train_32x32.mat is no MATLAB 5 file"),
    ("SVHN: HDF5", put_only("archive/train_32x32.mat", b"MATLAB 7.3 MAT-file".ljust(512)), "is no MATLAB 5 file"),
]

PLACES: list[tuple[str, Arrange, str]] = [
    ("output is a file", put("out", "mine"), "out is no folder"),
    ("output is a broken link", link("out", "none"), "out is no folder"),
    ("output inside a file", lambda work: fit(work, output="data/COVID/0.png/out"), "0.png is no folder"),
    ("method's folder is a file", put("out/ce", "mine"), "out/ce is no folder"),
    ("other files", put("out/ce/note.txt", "mine"), "ce holds other files (note.txt)"),
    ("splits: list", put("out/splits.json", "[]"), "splits.json does not list image names"),
    ("splits: cut", put("out/splits.json", '{"train": ['), "splits.json is damaged"),
    ("splits: folder", folder("out/splits.json"), "splits.json is missing"),
    ("training.json: list", begun(claim="[]"), "training.json does not describe a training; remove the folder"),
    ("training.json: cut", begun(claim="{"), "training.json is damaged"),
    ("training.json: nested", begun(claim='{"settings": 3}'), "training.json does not describe a training"),
    ("checkpoint: cut", begun(latest=b"PK\x03\x04half"), "checkpoint_latest.pt is damaged"),
    ("checkpoint: empty", begun(latest=b""), "remove it to train from the start"),
    ("model is a folder", after(begin, folder("out/ce/model.pt")), "model.pt is no file; remove it"),
    ("log: damaged", begun(model=b"any", log="epoch\n"), "log.csv is damaged"),
    (
        "margins: list",
        begun(model=b"any", log="epoch,validation,validation_robust\n1,1,1\n", margins="[1]"),
        "margins.json does not list margins",
    ),
]


def predict(*arguments: str, arrange: Arrange = nothing, model: str = "model.pt") -> Arrange:
    """`predict` of images in the work folder, with its model.pt and further arguments."""

    def made(work: Path) -> list[str]:
        settings = resolve_settings("ce", "cpu", {"size": 32})
        network, description = new_network(settings, 2)
        save_classifier(work / "model.pt", network, description, ("COVID", "other"), settings, 1)
        arrange(work)
        images = [argument if argument.startswith("--") else str(work / argument) for argument in arguments]
        return ["predict", "--device", "cpu", "--model", str(work / model), *images]

    return made


PREDICTIONS: list[tuple[str, Arrange, str]] = [
    ("nothing there", predict("none.png"), "none.png is missing"),
    ("no images", predict("empty", arrange=folder("empty")), "empty holds no images"),
    ("loop", predict("data/COVID", arrange=link("data/COVID/loop.png", "loop.png")), "loop.png is a link to nowhere"),
    ("link", predict("link.png", arrange=link("link.png", "none")), "link.png is a link to nowhere"),
    ("text", predict("data/a.png", arrange=put("data/a.png", "hello")), "a.png cannot be read"),
    ("name", predict("data/COVID", arrange=put("data/COVID/a\nb.png", "")), r"a\nb.png' has control characters"),
    ("output is a folder", predict("data/COVID", "--output", "data"), "data is a folder; name a CSV file"),
    ("output nowhere", predict("data/COVID", "--output", "none/a.csv"), "there is no folder"),
    ("model is a folder", predict("data/COVID", model="data"), "data is missing"),
]

COMPARISONS = [
    ([], "--methods needs at least one"),
    (["ce", "ima", "--set", "beta=7"], "beta must be"),
    (["ce", "--limit", "-1"], "--limit must be at least 1, got -1"),
    (["ce", "--eps", "nan"], "noise levels must"),
    (["ce", "--eps", "inf"], "noise levels must"),
    (["ce", "--seed", "-1"], "seed must be"),
    (["ce", "--seed", str(2**70)], "seed must be"),
    (["ce", "--positive", "flu", "--set", "size=32"], "--positive flu is none of the classes"),
    (["ima", "--set", "start_from=ima2", "size=8"], "size=8 does not suit the network"),
]


def compare(*methods: str) -> Arrange:
    places = ("--device", "cpu", "--data", "data", "--output", "out")
    return lambda work: [
        "compare",
        *(str(work / part) if part in ("data", "out") else part for part in places),
        "--methods",
        *methods,
    ]


CASES = [
    *(
        (f"{method[:9]} {' '.join(to)[:40]}", partial(fit, method=method, changes=to), text)
        for method, to, text in SETTINGS
    ),
    *((f"data: {name}", arrange, text) for name, arrange, text in DATA),
    *((f"archive: {name}", arrange, text) for name, arrange, text in ARCHIVES),
    *((f"folders: {name}", arrange, text) for name, arrange, text in PLACES),
    *((f"predict: {name}", arrange, text) for name, arrange, text in PREDICTIONS),
    *((f"compare: {' '.join(words)[:40]}", compare(*words), text) for words, text in COMPARISONS),
]


@pytest.mark.parametrize(
    ("arrange", "message"), [pytest.param(arrange, message, id=name) for name, arrange, message in CASES]
)
def test_bad_input_is_one_sentence(
    arrange: Arrange, message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arrange(work) or fit(work)
    before = files_of(work)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        classify.main(arguments)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and not line.startswith("Reading ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("nnunet-ima-classify: ")
    assert message in lines[0]
    assert files_of(work) == before
