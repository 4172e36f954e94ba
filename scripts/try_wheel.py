"""What an installed wheel must do before anybody trains: part of matrix.sh, run where no checkout is in sight."""

from __future__ import annotations

import subprocess
from importlib.metadata import distribution
from pathlib import Path

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_ima
from nnunet_ima._register import trainers
from nnunet_ima.datasets.tasks import load_task

found = distribution("nnunet-ima")
assert found.version == nnunet_ima.__version__
assert "site-packages" in Path(nnunet_ima.__file__).parts, f"{nnunet_ima.__file__} is not what was installed"
for command in found.entry_points:
    subprocess.run([command.name, "--help"], check=True, capture_output=True)
for name, module in trainers().items():
    assert recursive_find_trainer_class_by_name(name).__module__ == module
assert load_task("D4").dataset_name
subprocess.run(["nnunet-ima-prepare", "phantom", "--help"], check=True, capture_output=True)
print(f"nnunet-ima {found.version}: {len(found.entry_points)} commands, {len(trainers())} trainers")
