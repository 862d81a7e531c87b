"""Frameworks of others: classes that installed packages name as entry points of the group `tracelet.frameworks`.

They are looked for once in a process, without `importlib.metadata`: importing that and reading every package's metadata takes
longer than all of `start_logging`. What it would find is found: the folders of `sys.path` are listed, of each `*.dist-info` and
`*.egg-info` there `entry_points.txt` is read, and of two packages of one name the first on the path counts. Only zip files are
not looked into.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import redirect_stdout
from typing import Final, NamedTuple

from tracelet.frameworks.base import Framework
from tracelet.guard import in_a_line, say, swallow

__all__ = ["GROUP", "Plugin", "found", "kinds", "load", "loaded", "modules", "scan"]

GROUP: Final = "tracelet.frameworks"
_DECLARED: Final = ("module", "package", "since", "before")

_found: dict[str, Plugin] | None = None
_kinds: dict[str, type[Framework]] = {}


class Plugin(NamedTuple):
    """An entry point.

    Attributes:
        name: its name: the framework's identifier.
        value: "module:class".
        distribution: the package that has it.
    """

    name: str
    value: str
    distribution: str


def kinds(known: Collection[str]) -> dict[str, type[Framework]]:
    """The frameworks of others by their identifiers. One that cannot be had costs one line on stderr, and no more.

    Args:
        known: identifiers that are taken.
    """
    there = {}
    for name, plugin in found(known).items():
        try:
            there[name] = load(plugin)
        except (Exception, SystemExit) as error:  # the training does not depend on being recorded
            swallow(f"loading {name}, a framework of {plugin.distribution},", error)
    return there


def modules(known: Collection[str]) -> list[str]:
    """The modules that they listen to, without a word of those that cannot be had: the process that records says it."""
    listened = []
    with redirect_stdout(sys.stderr):
        for plugin in found(known, quiet=True).values():
            try:
                listened.append(load(plugin).module)
            except (Exception, SystemExit):  # noqa: S112
                continue
    return listened


def found(known: Collection[str], *, quiet: bool = False) -> dict[str, Plugin]:
    """The entry points by name, without those whose name is taken.

    Args:
        known: identifiers that are taken.
        quiet: say nothing of those that are left out.
    """
    global _found
    if _found is None or quiet:
        points, wrong = _unique(*scan(sys.path), known)
        if quiet:
            return points
        _found = points
        for line in wrong:
            say(line)
    return _found


def load(plugin: Plugin) -> type[Framework]:
    """The class that an entry point names.

    Raises:
        Exception: its module cannot be imported, or has no such framework.
    """
    if (kind := _kinds.get(plugin.name)) is not None:
        return kind
    module, _, names = plugin.value.partition(":")
    thing: object = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        thing = getattr(thing, name)
    if not isinstance(thing, type) or not issubclass(thing, Framework):
        raise TypeError(f"{plugin.value} is no subclass of tracelet.frameworks.Framework")
    if getattr(thing, "identifier", None) != plugin.name:
        raise TypeError(f"{plugin.value} must have identifier = {plugin.name!r}, as its entry point is called")
    if lacking := [name for name in _DECLARED if not hasattr(thing, name)]:
        raise TypeError(f"{plugin.value} lacks {', '.join(lacking)}")
    for name, bound in (("since", thing.since), ("before", thing.before)):
        if not isinstance(bound, tuple) or not bound or not all(type(number) is int for number in bound):
            raise TypeError(f"{plugin.value} must have {name} as a tuple of whole numbers, as (1, 4), not {bound!r}")
    return _kinds.setdefault(plugin.name, thing)


def loaded() -> list[type[Framework]]:
    """Those that were loaded in this process."""
    return list(_kinds.values())


def scan(path: Iterable[str]) -> tuple[list[Plugin], list[str]]:
    """All entry points of the group, in the order of a path, and lines about what cannot be read.

    Args:
        path: folders, as in `sys.path`.
    """
    met = set()
    points: list[Plugin] = []
    wrong: list[str] = []
    for folder in path:
        try:
            names = os.listdir(folder or ".")
        except (OSError, TypeError, ValueError):
            continue  # a zip file, or nothing at all
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                distribution = name.rpartition(".")[0].partition("-")[0]
            elif name == "EGG-INFO" and folder.endswith(".egg"):
                distribution = os.path.basename(folder).partition("-")[0]
            else:
                continue
            distribution = re.sub(r"[-_.]+", "-", distribution).lower()
            if distribution in met:
                continue
            met.add(distribution)
            content = _content(os.path.join(folder, name, "entry_points.txt"))
            if GROUP.encode() in content:
                try:
                    points += [Plugin(*point, distribution) for point in _points(content)]
                except Exception as error:
                    wrong.append(
                        f"the frameworks of {distribution} are left out: its entry points make no sense: {in_a_line(error)}"
                    )
    return points, wrong


def _content(file: str) -> bytes:
    # Hundreds of these: without the layers of `open`.
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return b""  # most packages have none
    try:
        content = b""
        while more := os.read(handle, 1 << 16):
            content += more
        return content
    except OSError:
        return b""
    finally:
        os.close(handle)


def _points(content: bytes) -> list[tuple[str, str]]:
    """The names and values of the group in an `entry_points.txt`; extras behind a value do not count.

    Raises:
        Exception: it is none.
    """
    import configparser

    parser = configparser.ConfigParser(delimiters=("=",), strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # names keep their case
    parser.read_string(content.decode())
    if not parser.has_section(GROUP):
        return []
    return [(name, re.sub(r"\[.*|\s", "", value)) for name, value in parser.items(GROUP)]


def _unique(points: Iterable[Plugin], wrong: list[str], known: Collection[str]) -> tuple[dict[str, Plugin], list[str]]:
    """The points whose names are good and free, and lines about the others too."""
    unique: dict[str, Plugin] = {}
    for point in points:
        which = f"the framework {point.name} of {point.distribution} is left out"
        if not point.name.isidentifier():
            wrong.append(f"{which}: its name must be a Python identifier")
        elif point.name in known:
            wrong.append(f"{which}: tracelet has one of that name")
        elif (other := unique.setdefault(point.name, point)) is not point:
            wrong.append(f"{which}: {other.distribution} has one of that name")
    return unique, wrong
