"""What the optimizers of a run, and their groups, are called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any, Generic, TypeVar

__all__ = ["ByObject", "Names", "group_names"]

T = TypeVar("T")


class ByObject(Generic[T]):
    """Something for each of some objects, as long as they live: whatever they say of equality, and of their hash."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[Any], T]] = {}

    def get(self, thing: Any) -> T | None:
        """What is kept for an object, if anything."""
        kept = self._kept.get(id(thing))
        return kept[1] if kept is not None and kept[0]() is thing else None

    def put(self, thing: Any, value: T, gone: Callable[[T], Any] = lambda _: None) -> None:
        """Keep a value. `gone` is called with it when the object is gone."""
        key = id(thing)

        def forget(reference: weakref.ref[Any]) -> None:
            if (kept := self._kept.get(key)) is not None and kept[0] is reference:
                del self._kept[key]
            gone(value)

        self._kept[key] = (weakref.ref(thing, forget), value)


class _Met:
    """An optimizer that there is, or was."""

    named = False


class Names:
    """What the optimizers of a run are called.

    The name is that of the class. Of several, each is called with what its parameters' names begin with (`generator.BFO`), or
    with its number in the order of their making (`BFO.0`). The first one keeps its plain name when nobody knew of the second.
    """

    def __init__(self) -> None:
        self._met = ByObject[_Met]()
        # In the order of their making; none that is gone without a name.
        self._of_class: dict[str, dict[_Met, None]] = {}
        self._taken: dict[str, None] = {}
        self._modules = ByObject[str]()  # of parameters: the first part of their names

    def know(self, module: Any) -> None:
        """Know what the parameters of a whole model are called, for optimizers that are given them without names."""
        for name, parameter in module.named_parameters():
            first, dot, _ = name.partition(".")
            self._modules.put(parameter, first if dot else "")

    def met(self, optimizer: Any) -> _Met:
        """Know an optimizer among those of its class."""
        if (known := self._met.get(optimizer)) is not None:
            return known
        mine, others = _Met(), self._of_class.setdefault(type(optimizer).__name__, {})
        others[mine] = None
        self._met.put(optimizer, mine, lambda met: None if met.named else others.pop(met, None))
        return mine

    def of(self, optimizer: Any) -> str:
        """The name of an optimizer that begins to be recorded."""
        kind, mine = type(optimizer).__name__, self.met(optimizer)
        of_class = self._of_class.setdefault(kind, {})
        of_class.setdefault(mine, None)  # it may have become of another class
        known = list(of_class)
        names = [kind] if known == [mine] else []
        if not names and (prefix := self._prefix(optimizer)):
            names.append(f"{prefix}.{kind}")
        numbered = (f"{kind}.{number}" for number in count(known.index(mine)))
        name = next(name for name in chain(names, numbered) if name not in self._taken)
        self._taken[name] = None
        mine.named = True
        return name

    def _prefix(self, optimizer: Any) -> str:
        """The module that all parameters of an optimizer are in, where their names are known."""
        named = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
        firsts = {first if dot else "" for first, dot, _ in (name.partition(".") for name in named)}
        if not named:
            parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
            firsts = {self._modules.get(parameter) or "" for parameter in parameters}
        return firsts.pop() if len(firsts) == 1 else ""


def group_names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the groups of an optimizer are called: by their own `name`, where each that has one has another; else by number."""
    own = [group.get("name") for group in groups]
    return [
        name if isinstance(name, str) and name.strip() and own.count(name) == 1 else str(number)
        for number, name in enumerate(own)
    ]
