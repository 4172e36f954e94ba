from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.evidence.protocol import deviations, lock, make_protocol, read_protocol

HASH = "0123456789abcdef" * 4
QUESTION: dict[str, Any] = {
    "attacks": 3,
    "settings": {"norm": "L2", "reference_elements": None, "seed": 0},
    "models": {"a model": {"checkpoints": {"0": HASH}, "mirroring": [0, 1], "step_size": 0.5}},
    "cases": {"case_0": HASH, 'odd "name" ü': HASH},
}


def protocol(**changes: Any) -> dict[str, Any]:
    wanted = {"attacks": ("pgd",), "eps": (5.0, 10.0), "shift": {"modality": "MR", "severities": (1, 3)}}
    given: dict[str, Any] = {"question": QUESTION, "wanted": wanted, "checks": 2, "demanded": ("0.8@5",)}
    return make_protocol(**given | changes)


def test_a_protocol_is_read_as_it_was_locked(tmp_path: Path) -> None:
    file = tmp_path / "protocol.toml"
    digest = lock(protocol(), file)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert deviations(read_protocol(file), protocol()) == []
    with pytest.raises(FileExistsError, match="a protocol is locked once"):
        lock(protocol(), file)


def test_deviations_are_named(tmp_path: Path) -> None:
    file = tmp_path / "protocol.toml"
    lock(protocol(), file)
    other = copy.deepcopy(QUESTION)
    other["models"]["a model"]["checkpoints"]["0"] = "f" * 64
    other["models"]["a model"]["step_size"] = 1.0
    del other["cases"]["case_0"]
    other["cases"]["case_7"] = HASH
    wanted = {"attacks": ("pgd",), "eps": (5.0,), "threshold": 0.2, "shift": None}
    assert deviations(read_protocol(file), protocol(question=other, wanted=wanted, demanded=())) == [
        "eps: 5.0, 10.0 in the protocol, now 5.0",
        "require: 0.8@5 in the protocol, now none",
        "shift: missing",
        "threshold: not in the protocol",
        "cases case_0: missing",
        "cases case_7: not in the protocol",
        "models a model checkpoints 0: 0123456789ab… in the protocol, now ffffffffffff…",
        "models a model step_size: 0.5 in the protocol, now 1.0",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [("a = ", "is no TOML file"), ("a = 1", "is no protocol of this release"), ("schema = 99", "is no protocol")],
)
def test_other_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "protocol.toml"
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        read_protocol(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"protocol\.toml does not exist; lock one with --lock"):
        read_protocol(tmp_path / "protocol.toml")
