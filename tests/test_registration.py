"""`-tr NAME` finds our trainers: the import hook on its own, on nnU-Net, and installed from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from nnunet_ima._register import HOST, trainers

TRAINERS = trainers()

ROOT = Path(__file__).resolve().parents[1]
LOOKUP = """
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
"""


def python(code: str, cwd: Path, executable: Path | str = sys.executable, path: Path | str = "") -> str:
    """Run `code` in a new interpreter, in the folder `cwd`, and return what it printed."""
    env = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "nnUNet_extTrainer"}}
    if path:
        env["PYTHONPATH"] = str(path)
    command = [str(executable), "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout.strip()


# --- the hook on its own, with a stand-in for nnU-Net that needs no PyTorch ---------------------------------


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with trainers and a small `nnunetv2`, whose trainer module has a `__getattr__` already."""
    folder = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "nnUNetTrainer.py").write_text(
        textwrap.dedent("""
        import os
        assert __loader__ is __spec__.loader
        assert "LET_IT_FAIL" not in os.environ, "on purpose"
        class nnUNetTrainer: pass
        def __getattr__(name):
            if name == "old_name": return "from the existing __getattr__"
            raise AttributeError("the existing __getattr__ does not know " + name)
        """)
    )
    (tmp_path / "good.py").write_text("class Good: pass\n")
    (tmp_path / "bad_import.py").write_text("import a_module_that_does_not_exist\n")
    (tmp_path / "bad_attribute.py").write_text("import sys\nsys.an_attribute_that_does_not_exist\n")
    return tmp_path


HOOKED = f"""
import sys, importlib
from nnunet_ima import _register
_register.trainers = lambda: dict(Good="good", BadImport="bad_import", BadAttribute="bad_attribute", NoClass="good")
def host(): return importlib.import_module("{HOST}")
def error(call):
    try: call()
    except BaseException as e: return e
"""


def test_trainer_appears_on_the_module_and_is_imported_only_when_asked_for(stand_in):
    code = """
    m = host()
    assert "good" not in sys.modules
    import good
    assert hasattr(m, "Good")
    assert m.Good is good.Good
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_existing_getattr_answers_all_other_names(stand_in):
    code = """
    assert host().old_name == "from the existing __getattr__"
    e = error(lambda: host().NoSuch)
    assert type(e) is AttributeError and "the existing __getattr__ does not know NoSuch" in str(e)
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_unknown_names_raise_what_python_raises_without_an_existing_getattr(stand_in):
    (stand_in / "nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py").write_text("class nnUNetTrainer: pass\n")
    code = """
    e = error(lambda: host().NoSuch)
    assert type(e) is AttributeError
    assert str(e) == f"module {_register.HOST!r} has no attribute 'NoSuch'"
    assert not hasattr(host(), "NoSuch")
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_errors_in_a_trainer_module_are_not_taken_for_an_unknown_trainer(stand_in):
    code = """
    e = error(lambda: hasattr(host(), "BadImport"))
    assert type(e) is ModuleNotFoundError and e.name == "a_module_that_does_not_exist"
    e = error(lambda: hasattr(host(), "BadAttribute"))
    assert type(e) is ImportError and type(e.__cause__) is AttributeError
    assert "BadAttribute" in str(e) and "an_attribute_that_does_not_exist" in str(e)
    e = error(lambda: hasattr(host(), "NoClass"))
    assert type(e) is ImportError and "NoClass" in str(e)
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_module_keeps_its_own_loader_and_source(stand_in):
    code = """
    import inspect
    from importlib.machinery import SourceFileLoader
    m = host()
    assert type(m.__loader__) is SourceFileLoader and m.__loader__ is m.__spec__.loader
    assert "from the existing __getattr__" in inspect.getsource(m)
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_works_after_a_failed_import_a_reload_and_a_second_import(stand_in):
    code = """
    import os
    os.environ["LET_IT_FAIL"] = "1"
    assert type(error(host)) is AssertionError
    del os.environ["LET_IT_FAIL"]
    for m in (host(), importlib.reload(host())):
        assert hasattr(m, "Good") and m.old_name and not hasattr(m, "NoSuch")
    del sys.modules[_register.HOST]
    assert hasattr(host(), "Good")
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_installing_again_or_late_changes_nothing(stand_in):
    code = """
    finders = list(sys.meta_path)
    _register.install()
    assert sys.meta_path == finders

    sys.meta_path[:] = [f for f in finders if not isinstance(f, _register.HostFinder)]
    m = host()
    assert not hasattr(m, "Good")
    _register.install()
    _register.install()
    assert hasattr(m, "Good") and m.old_name and not hasattr(m, "NoSuch")
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_two_copies_of_the_hook_get_along(stand_in):
    code = """
    del sys.modules["nnunet_ima._register"]
    importlib.import_module("nnunet_ima._register").install()
    assert sum(type(finder).__name__ == "HostFinder" for finder in sys.meta_path) == 2
    m = host()
    assert hasattr(m, "nnUNetTrainer") and m.old_name and not hasattr(m, "NoSuch")
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


def test_other_modules_are_left_to_the_other_finders(stand_in):
    code = """
    finder = _register.HostFinder()
    assert finder.find_spec("nnunetv2") is None
    assert finder.find_spec(_register.HOST + ".more") is None
    assert finder.find_spec(_register.HOST, ["/nonexistent"]) is None
    """
    python(HOOKED + textwrap.dedent(code), stand_in, path=stand_in)


# --- nnU-Net itself -----------------------------------------------------------------------------------------


def test_nnunet_finds_every_trainer(tmp_path):
    code = f"""
    for name, module in {TRAINERS!r}.items():
        trainer = find(name)
        assert (trainer.__module__, trainer.__name__) == (module, name)
    assert find("nnUNetTrainer").__module__ == "{HOST}"
    """
    python(LOOKUP + textwrap.dedent(code), tmp_path)


def test_nnunet_finds_a_trainer_in_a_spawned_worker(tmp_path):
    (tmp_path / "worker.py").write_text(LOOKUP + "def look_up(name): return find(name).__module__\n")
    code = """
    import multiprocessing, sys
    from worker import look_up
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(look_up, ["nnUNetTrainerIMA"]))
    """
    assert python(code, tmp_path, path=tmp_path) == TRAINERS["nnUNetTrainerIMA"]


def test_unknown_trainer_fails_as_it_does_without_us(tmp_path):
    ask = """
    try: find("nnUNetTrainerNoSuch")
    except Exception as e: print(type(e), e)
    """
    without = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'HostFinder']"
    outcome = python(LOOKUP + textwrap.dedent(ask), tmp_path)
    assert "Error" in outcome
    assert outcome == python(without + LOOKUP + textwrap.dedent(ask), tmp_path)


# --- installed from a wheel into a fresh virtual environment ------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel that is built from the source archive, as for a release."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("nnunet_ima-*.whl"))


class FreshEnvironment:
    """A virtual environment without pip that can borrow the dependencies of the running one."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.folder = folder
        self.executable = folder / "bin" / "python"
        self.site = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))"))
        self._borrowed = self.site / "zz_borrowed.pth"

    def run(self, code: str) -> str:
        return python(code, self.folder, self.executable)

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.executable), *arguments]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    def borrow_dependencies(self) -> None:
        # A path in a .pth file does not make Python read the .pth files in that path: an editable install of
        # ours in the running environment stays invisible.
        folders = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        self.site.mkdir(exist_ok=True)  # pip removes the folder with the last package in it
        self._borrowed.write_text("\n".join(folders) + "\n")

    def return_dependencies(self) -> None:
        self._borrowed.unlink()

    def make_nnunet_editable(self) -> None:
        """Put a finder like the one of setuptools' editable installs before the borrowed nnU-Net."""
        copy = self.folder / "checkout" / "nnunetv2"
        source = find_spec("nnunetv2").submodule_search_locations[0]
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (self.site / "editable_nnunet.py").write_text(
            textwrap.dedent(f"""
            import sys
            from importlib.util import spec_from_file_location

            class Finder:
                @classmethod
                def find_spec(cls, fullname, _path=None, _target=None):
                    if fullname == "nnunetv2":
                        init, folder = {str(copy / "__init__.py")!r}, [{str(copy)!r}]
                        return spec_from_file_location(fullname, init, submodule_search_locations=folder)

            sys.meta_path.insert(0, Finder)
            """)
        )
        (self.site / "editable_nnunet.pth").write_text("import editable_nnunet\n")


@pytest.fixture
def fresh(tmp_path) -> FreshEnvironment:
    return FreshEnvironment(tmp_path / "venv")


def test_wheel_holds_the_plans_the_hook_and_the_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    plans = sorted(path.name for path in (ROOT / "plans").glob("*.json"))
    assert plans
    assert sorted(name for name in names if name.startswith("nnunet_ima/plans/")) == [
        f"nnunet_ima/plans/{name}" for name in plans
    ]
    assert "nnunet_ima_register.pth" in names
    assert "nnunet_ima/_register.py" in names
    assert "nnunet_ima/py.typed" in names
    assert not any(name.startswith(("plans/", "tests/", "scripts/")) for name in names)


def test_the_version_is_told_alike() -> None:
    """Also by what is installed, from which audits read it."""
    from importlib.metadata import version

    import nnunet_ima

    assert version("nnunet-ima") == nnunet_ima.__version__
    assert f"\nversion: {nnunet_ima.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_interpreter_starts_quietly_whatever_is_missing(wheel, fresh):
    loaded = "import sys; print(*sorted(sys.modules))"
    before = set(fresh.run(loaded).split())
    fresh.pip("install", "--no-index", "--no-deps", str(wheel))
    assert set(fresh.run(loaded).split()) - before <= {"__future__", "nnunet_ima", "nnunet_ima._register"}

    absent = """
    try: import nnunetv2.training.nnUNetTrainer.nnUNetTrainer
    except ModuleNotFoundError as e: print(e.name)
    """
    assert fresh.run(absent) == "nnunetv2"

    def output_of_a_start() -> str:
        command = [str(fresh.executable), "-c", "pass"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert output_of_a_start() == ""
    (fresh.site / "nnunet_ima" / "_register.py").write_text("this is not Python\n")
    assert output_of_a_start() == ""
    shutil.rmtree(fresh.site / "nnunet_ima")
    assert output_of_a_start() == ""


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_trainer_is_there_after_installing_and_gone_after_uninstalling(wheel, fresh, kind):
    fresh.pip("install", "--no-index", "--no-deps", str(wheel))
    if kind == "editable":
        fresh.make_nnunet_editable()
    fresh.borrow_dependencies()

    found = f"""
    from pathlib import Path
    trainer = find("nnUNetTrainerIMA")
    assert trainer.__module__ == "{TRAINERS["nnUNetTrainerIMA"]}"
    import nnunetv2, nnunet_ima
    print(Path(nnunet_ima.__file__).parent, Path(nnunetv2.__file__).parent)
    """
    ours, nnunet = map(Path, fresh.run(LOOKUP + textwrap.dedent(found)).splitlines()[-1].split())
    assert ours == fresh.site / "nnunet_ima"
    assert nnunet.is_relative_to(fresh.folder) == (kind == "editable")
    assert list((ours / "plans").glob("*.json"))
    told = subprocess.run([fresh.folder / "bin" / "nnunet-ima-plan", "--help"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "nnunet-ima-plan" in told.stdout

    fresh.return_dependencies()  # else pip sees the running environment's copy of this package, too
    fresh.pip("uninstall", "--yes", "nnunet-ima")
    fresh.borrow_dependencies()
    assert not [path for path in fresh.site.iterdir() if path.name.startswith("nnunet_ima")]
    gone = f"""
    import importlib
    host = importlib.import_module("{HOST}")
    assert hasattr(host, "nnUNetTrainer") and not hasattr(host, "nnUNetTrainerIMA")
    """
    fresh.run(gone)
