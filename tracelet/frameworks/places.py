"""Where a library's calls are seen: a table of methods and functions, and how each is wrapped.

A place that a version does not have costs one line on stderr, and the rest is recorded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

from tracelet.guard import say, swallow
from tracelet.patching import MethodPatch, Switch, Wrapper

__all__ = ["Place", "Places"]


class Place(NamedTuple):
    """A method of a class, or a function of a module.

    Attributes:
        module: its full name; or the part behind the framework's module, with a dot in front. Empty for that module itself.
        owner: the class in it; empty for the module itself.
        name: of the method or function.
        build: makes the wrapper, as `tracelet.patching.after` does.
        newer: the oldest versions do not have it: nobody misses it there.
        later: the module may be imported later, or never: it is patched when it is.
    """

    module: str
    owner: str
    name: str
    build: Callable[[Switch], Wrapper]
    newer: bool = False
    later: bool = False


class Places:
    """The patches of one library in this process.

    Args:
        module: the framework's.
        package: the library's name, as lines on stderr have it.
    """

    def __init__(self, module: str, package: str) -> None:
        self._module = module
        self._package = package
        self._patches: dict[tuple[Any, str], MethodPatch] = {}
        self._awaited: dict[str, list[Place]] = {}
        self._wanted = False

    def patch(self, places: Iterable[Place]) -> None:
        """Patch what there is; what is patched already stays so."""
        self._wanted = True
        at_once: list[Place] = []
        later: dict[str, list[Place]] = {}
        for place in places:
            module = self.module_of(place)
            if place.later and sys.modules.get(module) is None:
                later.setdefault(module, []).append(place)
            else:
                at_once.append(place)
        self._patch_now(at_once)
        for module, awaited in later.items():
            if module not in self._awaited:
                import wrapt

                wrapt.register_post_import_hook(self._imported, module)
            self._awaited[module] = awaited

    def patch_method(self, owner: type | ModuleType, name: str, build: Callable[[Switch], Wrapper]) -> None:
        """Patch one method; when it is patched, do nothing.

        Raises:
            KeyError: there is no such method.
        """
        self._patches.setdefault((owner, name), MethodPatch(owner, name, build)).install()

    def unpatch(self) -> None:
        """Take the patches off; when they are not on, do nothing."""
        self._wanted = False
        for key, patch in list(self._patches.items()):
            patch.uninstall()
            if patch.gone:
                del self._patches[key]  # it would keep the script's class alive

    def module_of(self, place: Place) -> str:
        """The full name of a place's module."""
        return self._module + place.module if place.module[:1] in ("", ".") else place.module

    def _patch_now(self, places: Iterable[Place]) -> None:
        missed, met = [], 0
        for place in places:
            try:
                owner: Any = importlib.import_module(self.module_of(place))
                for name in filter(None, place.owner.split(".")):
                    owner = getattr(owner, name)
                self.patch_method(owner, place.name, place.build)
                met += 1
            except (AttributeError, ImportError, KeyError):
                if not place.newer:
                    missed.append(place)
        if len(missed) > 1 and not met:
            say(f"the {self._package} that was imported has nothing of what is listened to: it is not recorded")
            return
        for place in missed:
            where = ".".join(part for part in (self.module_of(place), place.owner, place.name) if part)
            say(f"there is no {where} in this version of {self._package}: what is seen there is not recorded")

    def _imported(self, module: ModuleType) -> None:
        if self._wanted:
            try:
                self._patch_now(self._awaited[module.__name__])
            except Exception as error:  # it must not break the user's import
                swallow(f"intercepting {module.__name__}", error)
