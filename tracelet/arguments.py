"""The arguments of a call as parameters of a run: short, flat, and without secrets."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from types import SimpleNamespace
from typing import Any, Final

from tracelet.core.metrics import MetaValue
from tracelet.guard import say
from tracelet.provenance.secrets import learn_surroundings, redacted_params

__all__ = ["parameters"]

_DEEPEST: Final = 6  # of what comes apart
_MOST: Final = 200  # parameters of one call
_LONGEST: Final = 500  # characters of a text
_MOST_ITEMS: Final = 50  # of a sequence that is written out
_PLAIN: Final = (str, int, float, bool, type(None), os.PathLike)
_OF_THE_OBJECT: Final = ("self", "cls")


def parameters(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any], name: str
) -> dict[str, MetaValue]:
    """The arguments of a call, by name, with the defaults of those that are not given.

    Mappings, dataclasses and namespaces come apart (`config/lr`). Of what is large there is a word: `Net` for a model,
    `Tensor (3, 4) float32` for a tensor, `list of 1000` for a list. What `self` and `cls` are is left out.

    Args:
        signature: of the function.
        args: of the call.
        kwargs: of the call.
        name: of the function, for what is said.

    Returns:
        No more than 200; what has a secret's name has `REDACTED` for a value. Nothing, for a call that does not fit.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return {}  # the call says that better
    bound.apply_defaults()
    given: dict[str, Any] = {}
    for at, (argument, value) in enumerate(bound.arguments.items()):
        kind = signature.parameters[argument].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given.update(value)
        elif (kind is not inspect.Parameter.VAR_POSITIONAL or value) and not (at == 0 and argument in _OF_THE_OBJECT):
            given[argument] = value
    found: dict[str, MetaValue] = {}
    for parameter, value in _flat(given, "", _DEEPEST):
        if len(found) == _MOST:
            say(f"{name} has more arguments than {_MOST}: the rest is not recorded", key=f"arguments of {name}")
            break
        found[parameter] = value
    learn_surroundings()
    return redacted_params(found)


def _flat(given: Mapping[Any, Any], prefix: str, levels: int) -> Iterator[tuple[str, MetaValue]]:
    for name, value in given.items():
        parts = _parts(value) if levels else None
        if parts:
            yield from _flat(parts, f"{prefix}{name}/", levels - 1)
        else:
            yield f"{prefix}{name}", _word_or_type(value)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """What comes apart, by name."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, SimpleNamespace) or type(value).__name__ == "Namespace":  # argparse's, and jsonargparse's
        return dict(vars(value))
    return None


def _word_or_type(value: Any) -> MetaValue:
    try:
        return _word(value)
    except Exception:  # an object may raise at whatever it is asked
        return type(value).__name__


def _word(value: Any) -> MetaValue:
    """One value, as a parameter has it."""
    if isinstance(value, enum.Enum):
        return str(value.name)
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, _PLAIN):
        return _cut(os.fspath(value) if isinstance(value, os.PathLike) else str(value))
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _of_array(value)
    if isinstance(value, Sequence | Set):
        return _of_items(value)
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, type) or inspect.isroutine(value):
        return _cut(f"{value.__module__}.{value.__qualname__}")
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in ("device", "dtype"):
        return str(value)
    return kind.__name__


def _of_array(value: Any) -> MetaValue:
    kind = type(value)
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray":  # a scalar
        number = value.item()
        if isinstance(number, str | bool | int | float):
            return number
    return f"{kind.__name__} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _of_items(value: Any) -> str:
    kind, length = type(value), len(value)
    if isinstance(value, bytes | bytearray | memoryview) or length > _MOST_ITEMS or kind.__module__ != "builtins":
        return f"{kind.__name__} of {length}"
    items = sorted(value, key=repr) if isinstance(value, Set) else value
    if any(not isinstance(item, _PLAIN) for item in items if not _is_short(item)):
        return f"{kind.__name__} of {length}"
    return _cut(repr(list(items)) if isinstance(value, list | Set) else repr(value))


def _is_short(value: Any) -> bool:
    """A sequence of plain values in a sequence."""
    return (
        type(value) in (list, tuple) and len(value) <= _MOST_ITEMS and all(isinstance(item, _PLAIN) for item in value)
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
