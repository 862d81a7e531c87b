"""What a library was told, as parameters of a run: flat, short, without secrets, and each once."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from tracelet.frameworks.base import Framework

__all__ = ["described", "flat", "plain", "record_parameters"]

_LONGEST: Final = 500
_NEVER: Final = object()


def record_parameters(framework: Framework, given: Any, but: Collection[str] = ()) -> None:
    """Record parameters that were not recorded before, with `/` between the names of what is in one another.

    Args:
        framework: whose run it is.
        given: a mapping, a namespace or a dataclass; what is in it too.
        but: names that are left out.
    """
    from tracelet.secrets import (
        redacted_params,  # its forms take milliseconds to compile, which most runs do not need at once
    )

    said = redacted_params(dict(flat(given, "/")))
    new = {n: value for n, value in said.items() if n not in but and framework.told.get(n, _NEVER) != value}
    if new and framework.experiment is not None:
        framework.told.update(new)
        framework.experiment.log_params(new)


def plain(given: Any) -> Any:
    """What has names in it (a dataclass, a namespace) as a mapping; anything else as it is."""
    if isinstance(given, Mapping):
        return given
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    # A command line's namespace knows its names with dots, unless it is asked for its inside.
    return vars(given) if any(kind.__name__ == "Namespace" for kind in type(given).__mro__) else given


def flat(given: Any, separator: str, before: str = "") -> Iterator[tuple[str, Any]]:
    """What is in one another, one by one, under joined names.

    Args:
        given: a mapping, a namespace or a dataclass, also in lists.
        separator: between the names.
        before: what goes before all of them.
    """
    inside = plain(given)
    if isinstance(inside, list | tuple) and any(isinstance(plain(each), Mapping) for each in inside):
        inside = dict(enumerate(inside))
    if isinstance(inside, Mapping):
        for name, value in inside.items():
            yield from flat(value, separator, f"{before}{separator}{name}" if before else str(name))
    elif before:
        yield before, described(inside)


def described(value: Any) -> Any:
    """A value as a parameter: what is no plain value by its class, or its own words."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or (isinstance(value, list | tuple | set) and not value):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(described(each)) for each in value)[:_LONGEST]
    if hasattr(value, "item") and (value.numel() if hasattr(value, "numel") else getattr(value, "size", 0)) == 1:
        return value.item()
    named: Any = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    wordless = named.__str__ is object.__str__ and named.__repr__ is object.__repr__
    if named is value or wordless or callable(value) or hasattr(value, "state_dict"):
        return f"{named.__module__}.{named.__qualname__}"
    try:
        return str(value)[:_LONGEST]
    except Exception:  # the user's own __str__ fails
        return f"{named.__module__}.{named.__qualname__}"
