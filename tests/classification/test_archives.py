"""Data sets in their original files: what is read is what was written, and damage is one clear sentence."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archive_files import (
    CIFAR_NAMES,
    evil_pickle,
    grey_pictures,
    idx_bytes,
    python2_batch,
    rgb_pictures,
    write_cifar_binary,
    write_cifar_python,
    write_idx,
    write_svhn,
)
from scipy.io import savemat

from nnunet_ima.classification.archives import find_archive, read_archive, svhn
from nnunet_ima.classification.archives.plain_pickle import load_plain

Write = Callable[[Path], None]
IDX = (grey_pictures(30), grey_pictures(20, seed=1))
RGB = (rgb_pictures(50), rgb_pictures(20, seed=1))


def read(folder: Path) -> None:
    layout = find_archive(folder)
    assert layout is not None
    read_archive(folder, layout)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_come_back(packed: bool, tmp_path: Path) -> None:
    write_idx(tmp_path, *IDX, packed=packed)
    assert find_archive(tmp_path) == "MNIST's IDX files"
    archive = read_archive(tmp_path, "MNIST's IDX files")
    for found, (pixels, labels) in zip((archive.train, archive.test), IDX, strict=True):
        assert np.array_equal(found.pixels, pixels[:, None])
        assert found.labels.tolist() == labels.tolist()
    assert archive.classes == tuple("0123456789")


def test_idx_files_with_a_dot_in_their_names(tmp_path: Path) -> None:
    write_idx(tmp_path, *IDX)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    read(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_svhn_comes_back(packed: bool, tmp_path: Path) -> None:
    write_svhn(tmp_path, *RGB, packed=packed)
    (tmp_path / "extra_32x32.mat").write_bytes(b"not looked at")
    archive = read_archive(tmp_path, "SVHN's cropped digits")
    for found, (pixels, labels) in zip((archive.train, archive.test), RGB, strict=True):
        assert np.array_equal(found.pixels, pixels)
        assert found.labels.tolist() == labels.tolist()  # 10 was written for the digit 0
    assert archive.notes == ("extra_32x32.mat is not used",)


@pytest.mark.parametrize(
    ("write", "layout"),
    [(write_cifar_binary, "CIFAR-10's binary version"), (write_cifar_python, "CIFAR-10's Python version")],
)
def test_cifar_comes_back(write: Callable[..., None], layout: str, tmp_path: Path) -> None:
    write(tmp_path, *RGB)
    assert find_archive(tmp_path) == layout
    archive = read_archive(tmp_path, layout)
    for found, (pixels, labels) in zip((archive.train, archive.test), RGB, strict=True):
        assert np.array_equal(found.pixels, pixels)
        assert found.labels.tolist() == labels.tolist()
    assert archive.classes == tuple(CIFAR_NAMES)
    for meta in tmp_path.glob("batches.meta*"):
        meta.unlink()
    assert read_archive(tmp_path, layout).classes == tuple("0123456789")


def test_the_pickles_of_these_tests_are_those_of_python_2(tmp_path: Path) -> None:
    """NumPy itself reads them, and so do we those that Python 3 writes."""
    pixels = RGB[0][0].reshape(50, -1)
    found = pickle.loads(python2_batch(pixels, [1] * 50), encoding="bytes")
    assert np.array_equal(found[b"data"], pixels)
    assert found[b"labels"] == [1] * 50
    with pytest.raises(UnicodeDecodeError):
        pickle.loads(python2_batch(pixels, [1] * 50), encoding="ascii")
    for protocol in (1, 2, 3, 4):
        (tmp_path / "new").write_bytes(pickle.dumps({"data": pixels, "labels": [3, 4]}, protocol))
        again = load_plain(tmp_path / "new")
        assert np.array_equal(again.get("data"), pixels)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_runs_nothing(protocol: int, tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / "data_batch_1"
    file.write_bytes(evil_pickle(trace, protocol))
    with pytest.raises(ValueError, match=r"data_batch_1 would run 'posix\.mkdir' .* nothing was run"):
        load_plain(file)
    assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists()  # so the pickle is as evil as it looks


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02ccopy_reg\n_reconstructor\n.", r"would run 'copy_reg\._reconstructor'"),
        (b"\x80\x02(i__main__\nA\n.", "the instruction INST"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "it puts something at place 2147483647"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\x00\x00.", "damaged, or no pickle"),
        (b"\x80\x02T\xff\xff\xff\x7f.", "damaged, or no pickle"),
        (b"\x80\x02U\x05ab", "damaged, or no pickle"),
        (b"", "damaged, or no pickle"),
        (b"\x80\x02K\x01K\x02R.", "damaged, or no pickle of plain values"),
        (b"\x80\x02cnumpy\nndarray\n(I9999999\nI9999999\ntR.", None),
        (b"\x80\x02cnumpy\nndarray\n)R(K\x01(J\xff\xff\xff\x7ftcnumpy\ndtype\n(U\x02u1tR\x89U\x01atb.", "has 1 bytes"),
        (
            b"\x80\x02cnumpy\nndarray\n)R(K\x01(K\x01tcnumpy\ndtype\n(U\x02f8tR\x89U\x08aaaaaaaatb.",
            "other numbers than",
        ),
        (b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR.", "spelled in"),
    ],
)
def test_odd_pickles_are_harmless(content: bytes, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(content)
    if message is None:
        load_plain(tmp_path / "odd")  # a stand-in without pixels, whatever size it claims
        return
    with pytest.raises(ValueError, match=message) as raised:
        load_plain(tmp_path / "odd")
    assert "\n" not in str(raised.value)


def idx_file(raw: bytes, name: str = "train-images-idx3-ubyte") -> Write:
    def spoil(folder: Path) -> None:
        write_idx(folder, *IDX)
        (folder / name.removesuffix(".gz")).unlink()
        (folder / name).write_bytes(raw)

    return spoil


def svhn_file(x: object = None, **changes: object) -> Write:
    def spoil(folder: Path) -> None:
        write_svhn(folder, *RGB)
        content = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((4, 1), np.uint8)} | changes
        savemat(folder / "test_32x32.mat", {key: value for key, value in content.items() if value is not None})

    return spoil


def cut(write: Callable[..., None], name: str, size: int, pictures: object = RGB) -> Write:
    def spoil(folder: Path) -> None:
        write(folder, *pictures)  # type: ignore[misc]
        os.truncate(folder / name, size if size > 0 else (folder / name).stat().st_size + size)

    return spoil


def change(write: Callable[..., None], name: str, content: bytes | None) -> Write:
    def spoil(folder: Path) -> None:
        write(folder, *RGB)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return spoil


def mat_bomb(folder: Path) -> None:
    """A variable that is small only as long as it is packed."""
    write_svhn(folder, *RGB)
    packed = zlib.compress(bytes((1 << 24) + 1))
    head = (folder / "test_32x32.mat").read_bytes()[:128]
    (folder / "test_32x32.mat").write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)


HUGE = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
LARGE = struct.pack(">BBBBIII", 0, 0, 8, 3, 1_000_000, 28, 28)
PICTURES = idx_bytes(IDX[0][0])
LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (idx_file(b""), "is cut off: its header has 16 bytes, it has 0"),
        (idx_file(b"\x89PNG" + PICTURES[4:]), "begins with 89504e47; an IDX file with 3 axes begins with 00000803"),
        (idx_file(b"\0\0\x0d\x03" + PICTURES[4:]), "numbers of type 0x0d; only unsigned bytes"),
        (idx_file(b"\0\0\x08\x01" + PICTURES[4:]), "begins with 00000801"),
        (idx_file(HUGE), "claims to hold"),
        (idx_file(LARGE), "its header promises 784000000 bytes"),
        (idx_file(gzip.compress(LARGE), "train-images-idx3-ubyte.gz"), "its header promises 784000000 bytes"),
        (idx_file(struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28)), "holds nothing: its shape is 0×28×28"),
        (idx_file(PICTURES[:-1]), "is cut off"),
        (idx_file(PICTURES + b"a"), "holds more than the 23520 bytes"),
        (idx_file(gzip.compress(PICTURES[:-1]), "train-images-idx3-ubyte.gz"), "23519 follow; copy it again"),
        (idx_file(gzip.compress(PICTURES)[:-9], "train-images-idx3-ubyte.gz"), "is damaged or cut off"),
        (idx_file(gzip.compress(PICTURES)[:-8] + bytes(8), "train-images-idx3-ubyte.gz"), "CRC check failed"),
        (idx_file(b"hello", "train-images-idx3-ubyte.gz"), "is damaged or cut off"),
        (idx_file(idx_bytes(IDX[0][1][:-1]), LABELS), "holds 30 images, but .*labels-idx1-ubyte holds 29 labels"),
        (idx_file(idx_bytes(IDX[0][1] + 1), LABELS), "gives image 9 the label 10; labels are 0 to 9"),
        (idx_file(idx_bytes(grey_pictures(30, size=20)[0])), "holds images of 20×20 and 28×28 pixels"),
        (cut(write_svhn, "test_32x32.mat", 1000), "is cut off: a variable of"),
        (cut(write_svhn, "test_32x32.mat", 100), "is no MATLAB 5 file"),
        (mat_bomb, "holds more than 16777216 bytes when it is unpacked"),
        (svhn_file(X=None), "has no variables X and y"),
        (svhn_file(X=np.zeros((32, 32, 3, 4))), "X is 32×32×3×4 of float64; it must be"),
        (svhn_file(X=np.zeros((3, 32, 32, 4), np.uint8)), "X is 3×32×32×4 of uint8"),
        (svhn_file(y=np.ones((3, 1), np.uint8)), "holds 4 images, but 3 labels"),
        (svhn_file(y=np.ones((2, 2), np.uint8)), "y is 2×2 of uint8; it must be N×1"),
        (svhn_file(y=np.zeros((4, 1), np.uint8)), "gives image 0 the label 0; SVHN's labels are 1 to 10"),
        (svhn_file(y=np.full((4, 1), 1.5)), "gives image 0 the label 1.5"),
        (change(write_svhn, "train_32x32.mat", None), "train_32x32.mat is missing, which belongs to SVHN"),
        (change(write_cifar_binary, "data_batch_3.bin", None), "data_batch_3.bin is missing, which belongs to CIFAR"),
        (cut(write_cifar_binary, "data_batch_3.bin", -1), "has 30729 bytes; an image takes 3073"),
        (cut(write_cifar_binary, "data_batch_3.bin", -3073), "holds 9 images, another batch 10"),
        (change(write_cifar_binary, "test_batch.bin", b"\x0a" + bytes(3072)), "image 0 the label 10"),
        (change(write_cifar_binary, "test_batch.bin", b""), "has 0 bytes"),
        (change(write_cifar_binary, "batches.meta.txt", b"cat\ndog\n"), "must hold the names of 10 classes"),
        (change(write_cifar_binary, "batches.meta.txt", b"\xff"), "is no text"),
        (cut(write_cifar_python, "data_batch_2", -1), "damaged, or no pickle"),
        (change(write_cifar_python, "test_batch", None), "test_batch is missing"),
        (change(write_cifar_python, "test_batch", pickle.dumps([1], 2)), "holds no dictionary"),
        (change(write_cifar_python, "test_batch", pickle.dumps({"data": 1}, 2)), "holds no array data of N×3072"),
        (change(write_cifar_python, "test_batch", python2_batch(np.zeros((2, 3072), np.uint8), [1])), "but 1 labels"),
        (change(write_cifar_python, "test_batch", python2_batch(np.zeros((1, 3072), np.uint8), [-1])), "the label -1"),
        (change(write_cifar_python, "batches.meta", pickle.dumps({"label_names": 3}, 2)), "must hold the names"),
    ],
)
def test_damage_is_one_sentence_that_names_the_file(
    spoil: Write, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svhn, "MAX_BYTES", 1 << 24)  # a bomb of the usual size takes a gibibyte of memory to make
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        read(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_two_data_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, *IDX)
    write_svhn(tmp_path, *RGB)
    with pytest.raises(ValueError, match="a folder of its own"):
        find_archive(tmp_path)
    assert find_archive(tmp_path.parent) is None
