"""`nnunet-ima-plan`: copies of plans with other settings."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ima.commands.plan import check_plans_name, main, parse_settings


@pytest.fixture
def folder(empty_folders, phantom) -> Path:
    """The phantom's plans under a name that makes them D4's, where writing harms no other test."""
    folder = empty_folders.preprocessed / "Dataset004_Hippocampus"
    folder.mkdir()
    plans = json.loads((phantom.preprocessed / "nnUNetPlans.json").read_text())
    plans |= {"dataset_name": folder.name, "ima": {"delta": 2, "tau": 0.5}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    shutil.copy(phantom.preprocessed / "dataset.json", folder)
    return folder


def load(file: Path) -> Any:
    return json.loads(file.read_text())


def test_copy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = "nnUNetTrainer__nnUNetPlans__2d"
    main(["-d", "4", "--name", "nnUNetPlansIMA5", "--set", "delta=1", "pgd_steps=7", f"start_from={start}"])
    original, copy = load(folder / "nnUNetPlans.json"), load(folder / "nnUNetPlansIMA5.json")
    assert copy["ima"] == {"delta": 1, "tau": 0.5, "steps": 7}  # pgd_steps is its name in release 0.1
    assert copy["schedule"] == {"start_from": start}
    assert copy["plans_name"] == "nnUNetPlansIMA5"
    assert copy["configurations"] == original["configurations"]  # the same preprocessed data
    assert PlansManager(copy).get_configuration("2d").data_identifier == "nnUNetPlans_2d"
    output = capsys.readouterr().out
    assert "nnUNetv2_train 4 2d 0 -tr nnUNetTrainerIMA -p nnUNetPlansIMA5" in output
    assert "ima.eps: 15" in output  # from the packaged plan of the task


def test_settings_of_another_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["-d", "4", "--name", "nnUNetPlansAdv5", "--method", "adv", "--set", "eps=5", "epochs=35"])
    copy = load(folder / "nnUNetPlansAdv5.json")
    assert (copy["adv"], copy["schedule"]) == ({"eps": 5}, {"epochs": 35})
    assert copy["ima"] == {"delta": 2, "tau": 0.5}
    output = capsys.readouterr().out
    assert "nnUNetv2_train 4 2d 0 -tr nnUNetTrainerAdv -p nnUNetPlansAdv5" in output
    assert "adv.eps: 5" in output


def test_copy_of_a_copy(folder: Path) -> None:
    main(["-d", folder.name, "--name", "A", "--set", "delta=1"])
    main(["-d", "4", "-p", "A", "--name", "B", "--set", "beta=0.25"])
    assert load(folder / "B.json")["ima"] == {"delta": 1, "tau": 0.5, "beta": 0.25}
    main(["-d", "4", "--name", "B", "--set", "beta=0.75", "--overwrite"])
    assert load(folder / "B.json")["ima"] == {"delta": 2, "tau": 0.5, "beta": 0.75}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-d 4 --name A --set detla=1", "detla"),
        ("-d 4 --name A --method adv --set delta=1", "adv\": unknown setting 'delta'; known are eps, steps, alpha"),
        ("-d 4 --name A --method magic --set eps=1", "unknown --method 'magic'; known are plain, ima, adv"),
        ("-d 4 --name A --set delta=-1", "delta must be a number greater than 0"),
        ("-d 4 --name A --set delta=NaN", "delta must be a number"),
        ("-d 4 --name A --set delta", "a setting is written key=value, got 'delta'"),
        ("-d 4 --name A --set =1", "a setting is written key=value, got '=1'"),
        ("-d 4 --name A --set delta=1 delta=2", "--set names delta twice"),
        ("-d 4 --name A --set", "--set needs at least one setting"),
        ("-d 4 --name a/b --set delta=1", "a plans name consists of"),
        ("-d 4 --name a__b --set delta=1", "a plans name consists of"),
        ("-d 4 --name nnUNetPlans --set delta=1", "the new plans need another name"),
        ("-d 4 --name taken --set delta=1", "taken.json exists already"),
        ("-d 4 -p missing --name A --set delta=1", "missing.json does not exist; the plans in that folder are"),
        ("-d 5 --name A --set delta=1", "holds no data set 5; it holds Dataset004_Hippocampus"),
        ("-d Hippocampus --name A --set delta=1", "a data set is a number"),
    ],
)
def test_wrong_input(folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    (folder / "taken.json").write_text("{}")
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("nnunet-ima-plan: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_damaged_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "odd.json").write_text(json.dumps(load(folder / "nnUNetPlans.json") | {"ima": ["delta"]}))
    with pytest.raises(SystemExit):
        main(["-d", "4", "-p", "odd", "--name", "A", "--set", "delta=1"])
    assert "\"ima\" in the plans JSON must be an object of settings, got ['delta']" in capsys.readouterr().err


def test_unset_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    with pytest.raises(SystemExit):
        main(["-d", "4", "--name", "A", "--set", "delta=1"])
    assert "the environment variable nnUNet_preprocessed is not set" in capsys.readouterr().err


def test_values_are_json_where_possible() -> None:
    pairs = ["a=1", "b=0.5", "c=true", "d=null", "e=text", "f=a=b", 'g="7"', "h=", "i=1e-3", "j=Infinity"]
    assert parse_settings(pairs) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": None,
        "e": "text",
        "f": "a=b",
        "g": "7",
        "h": "",
        "i": 0.001,
        "j": "Infinity",
    }


@pytest.mark.parametrize("name", ["nnUNetPlansIMA5", "a-b_c", "5"])
def test_usable_plans_names(name: str) -> None:
    check_plans_name(name)


@pytest.mark.parametrize("name", ["", "_", "-a", "_a", "a_", "a b", "a.b", "a__b", "ä"])
def test_unusable_plans_names(name: str) -> None:
    with pytest.raises(ValueError, match="a plans name consists of"):
        check_plans_name(name)
