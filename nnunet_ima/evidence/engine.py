"""Units of work: each is looked up, else measured and stored, so that audits stop, go on and grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nnunet_ima.evidence.store import Store, level_key

R = TypeVar("R")


@dataclass(frozen=True)
class Unit:
    """A measurement by what it depends on, so that it can be made anywhere and in any order.

    Attributes:
        model: name of the model.
        case: name of the case, or of the set of images.
        measurement: name of the attack or other measurement; "folder/name" puts the result into a folder.
        eps: noise level; None: the measurement has none.
        seed: of all random draws of the audit.
        given: results of other measurements that this one is built upon, in words. Where others are stored, it is
            measured again.
    """

    model: str
    case: str
    measurement: str
    eps: float | None = None
    seed: int = 0
    given: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Measurement and level: "pgd@5"."""
        name = self.measurement.rpartition("/")[2]
        return name if self.eps is None else f"{name}@{level_key(self.eps)}"

    @property
    def place(self) -> tuple[str, ...]:
        """Where the store keeps the result."""
        return (self.model, self.case, *self.measurement.split("/")[:-1], self.name)

    @property
    def key(self) -> str:
        """The place as a text, which no other unit of the same audit has."""
        return "/".join(self.place)


class Engine:
    """Gives the results of units of work.

    Attributes:
        store: keeps them.
        done: told of each unit whose result is there.
    """

    def __init__(self, store: Store, done: Callable[[Unit], None] | None = None) -> None:
        self.store, self.done = store, done

    def holds(self, unit: Unit, kind: type[Any]) -> bool:
        """Whether the result of a unit is stored."""
        return self.store.get(kind, *unit.place, given=unit.given) is not None

    def result(self, unit: Unit, kind: type[R], measure: Callable[[Unit], R]) -> R:
        """Return the stored result of a unit; if there is none, or one built upon other results, measure and store it.

        Raises:
            ValueError: what was measured is not finite.
            OSError: the stored result is that of another release, or the store cannot be written.
        """
        found = self.store.get(kind, *unit.place, given=unit.given)
        if found is None:
            found = self.store.put(measure(unit), *unit.place, given=unit.given)
        if self.done is not None:
            self.done(unit)
        return found
