"""Puts a framework's patches on and takes them off again, in a process of its own, and tells what it saw: `doctor --deep`."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

from tracelet.frameworks.base import Framework
from tracelet.frameworks.table import kind_of

__all__ = ["attempt"]


def attempt(identifier: str) -> dict[str, Any]:
    """Try a framework.

    Args:
        identifier: its key in the table.

    Returns:
        `patched`: the methods that were patched; `left`: those that still were at the end; `foreign`: those that somebody
        else had patched before, and who.
    """
    framework = kind_of(identifier)
    module = importlib.import_module(framework.module)
    modules = [module, *_further(framework)]
    before = _methods(modules)
    framework.install()
    during = _methods(modules)
    framework.uninstall()
    after = _methods(modules)
    patched = [method for method, value in during.items() if before.get(method) is not value]
    # Elsewhere, decorators of the library's own relations would be taken for strangers.
    here = _methods([module]).keys() & before.keys()
    foreign = {method: who for method in patched if method in here and (who := _stranger(before[method], module))}
    left = [method for method, value in after.items() if before.get(method) is not value]
    return {"patched": patched, "left": left, "foreign": foreign}


def _further(framework: type[Framework]) -> Iterator[ModuleType]:
    """The other modules in which a framework has places, but for those that are patched when somebody imports them."""
    names = {framework._places.module_of(place) for place in framework.places() if not place.later}
    for name in sorted(names - {framework.module}):
        with suppress(ImportError):
            yield importlib.import_module(name)


def _methods(modules: Iterable[ModuleType]) -> dict[str, Any]:
    """What the classes of modules have, by dotted name."""
    return {
        f"{name}.{attribute}": value
        for module in modules
        for name, owner in vars(module).items()
        if isinstance(owner, type)
        for attribute, value in vars(owner).items()
        if callable(value)
    }


def _stranger(method: Any, module: ModuleType) -> str:
    """The top module of whoever put a method there, when that is not the class's own."""
    if isinstance(method, staticmethod | classmethod):
        method = method.__func__
    if isinstance(method, types.FunctionType):
        # Where it was written, not what it calls itself: who wraps a method by hand takes the original's name.
        home = str(method.__globals__.get("__name__", ""))
    elif hasattr(method, "__wrapped__"):
        home = str(getattr(getattr(method, "_self_wrapper", None), "__module__", "") or type(method).__module__)
    else:
        return ""
    top = home.partition(".")[0]
    return "" if top in sys.stdlib_module_names or top == module.__name__.partition(".")[0] else top


if __name__ == "__main__":
    print(json.dumps(attempt(sys.argv[1])))  # noqa: T201
