"""Puts a framework's patches on and takes them off again, in a process of its own, and tells what it saw: `doctor --deep`."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Mapping
from types import ModuleType
from typing import Any

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
    before = _methods(module)
    framework.install()
    elsewhere = {f"{owner.__name__.rpartition('.')[2]}.{name}": (owner, name) for owner, name in framework.patched()}
    during = {**_methods(module), **_own(elsewhere)}
    here = set(before)
    before = {**{name: getattr(during[name], "__wrapped__", None) for name in elsewhere}, **before}
    framework.uninstall()
    after = {**_methods(module), **_own(elsewhere)}
    patched = [method for method, value in during.items() if before.get(method) is not value]
    # Elsewhere, decorators of the library's own relations would be taken for strangers.
    foreign = {method: who for method in patched if method in here and (who := _stranger(before[method], module))}
    left = [method for method, value in after.items() if before.get(method) is not value]
    return {"patched": patched, "left": left, "foreign": foreign}


def _own(places: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    return {method: vars(owner).get(name) for method, (owner, name) in places.items()}


def _methods(module: ModuleType) -> dict[str, Any]:
    """What the classes of a module have, by dotted name."""
    return {
        f"{name}.{attribute}": value
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
