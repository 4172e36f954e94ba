"""Makes `-tr nnUNetTrainerIMA` work from a checkout that is merely on the path, where nobody has run pip.

Importing this module is enough: it puts the checkout on the path and registers the trainers. Worker processes import
their main script again, so that a script which imports it at its head has the trainers there, too. As a program it runs
a function of a module in place of a console script:

    python scripts/with_trainers.py nnunetv2.run.run_training:run_training_entry 4 2d 0 -tr nnUNetTrainerIMA
    python scripts/with_trainers.py nnunet_ima.commands.attack:main --task D4
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from nnunet_ima._register import install  # noqa: E402 - the path comes first

install()

if __name__ == "__main__":
    if len(sys.argv) < 2 or ":" not in sys.argv[1]:
        raise SystemExit("usage: with_trainers.py MODULE:FUNCTION [ARGUMENTS]")
    module, _, function = sys.argv.pop(1).partition(":")
    getattr(import_module(module), function)()
