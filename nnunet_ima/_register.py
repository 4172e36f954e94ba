"""Makes `-tr NAME` find this package's trainers, without copying files into nnU-Net.

nnU-Net looks a trainer up with `hasattr(module, NAME)` on every module of its trainer folder. `install`
arranges that its base module, as soon as somebody imports it, gets a module-level `__getattr__` (PEP 562)
that imports our trainers when they are asked for by name.

`nnunet_ima_register.pth` calls `install` at every interpreter start, hence the two rules of this file:
standard library only, and no import that takes time.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing `typing` for its flag would cost more than the rest of this file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

HOST = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
"""The nnU-Net module on which the trainers appear; the first one that nnU-Net's lookup asks."""

MODULE = "nnunet_ima.training.trainers"


def trainers() -> dict[str, str]:
    """Return the module of each of our trainers by its name: one for each method."""
    from nnunet_ima._methods import METHODS

    return {trainer: MODULE for _, trainer in METHODS.values()}


def load_trainer(name: str) -> Any:
    """Import and return one of our trainer classes.

    Args:
        name: A key of `trainers`.

    Raises:
        ImportError: If the import fails with an AttributeError, which nnU-Net's `hasattr` would turn into
            "trainer not found". All other errors of the import pass through as they are.
    """
    from importlib import import_module

    try:
        return getattr(import_module(trainers()[name]), name)
    except AttributeError as error:
        msg = f"nnunet_ima could not load its trainer {name} from {trainers()[name]}: {error}"
        raise ImportError(msg) from error


def attach(module: ModuleType) -> None:
    """Give `module` a `__getattr__` for the names of our trainers; an existing one keeps all other names."""
    earlier = module.__dict__.get("__getattr__")
    if getattr(earlier, "_from_nnunet_ima", False):
        return  # a reload keeps the module's dictionary

    def lookup(name: str) -> Any:
        if name in trainers():
            return load_trainer(name)
        if earlier is not None:
            return earlier(name)
        msg = f"module {module.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)

    lookup._from_nnunet_ima = True  # type: ignore[attr-defined]
    module.__getattr__ = lookup  # type: ignore[method-assign]


class HostLoader:
    """The real loader of `HOST`, followed by `attach`."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def exec_module(self, module: ModuleType) -> None:
        """Put the real loader back, for inspect and pkgutil; execute the module; attach the lookup."""
        module.__loader__ = self.real
        if module.__spec__ is not None:
            module.__spec__.loader = self.real
        self.real.exec_module(module)
        attach(module)


class HostFinder:
    """Meta path finder that answers for `HOST` alone and leaves the search itself to the other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return another finder's spec for `HOST`, its loader wrapped; None for every other module."""
        if fullname != HOST:
            return None
        finders = list(sys.meta_path)
        if self in finders:
            del finders[: finders.index(self) + 1]  # those before have declined
        for finder in finders:
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = HostLoader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


def install() -> None:
    """Register the trainers with nnU-Net, now or when it is imported. Calling it again changes nothing."""
    if HOST in sys.modules:
        attach(sys.modules[HOST])
    if not any(isinstance(finder, HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, HostFinder())  # stays: the module may be dropped and imported once more
