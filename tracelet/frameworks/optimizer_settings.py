"""What an optimizer is and was set to, as parameters of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tracelet.frameworks.tensors import is_scalar, on_host

__all__ = ["settings"]

# Not set by anybody: the parameters, and what schedulers keep there.
_NO_SETTINGS: Final = ("params", "param_names", "name", "initial_lr", "swa_lr")


def settings(optimizer: Any, prefix: str) -> dict[str, Any]:
    """Class, dimensions, defaults, and what each of several groups has of its own.

    Args:
        optimizer: the optimizer.
        prefix: of the names.
    """
    kind, groups = type(optimizer), optimizer.param_groups
    said: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    sizes = [_size(group) for group in groups]
    said |= _sized("dimensions", None if None in sizes else sum(size or 0 for size in sizes))
    said |= dict(optimizer.defaults)
    for number, group in enumerate(groups if len(groups) > 1 else ()):
        said |= _sized(f"group.{number}/dimensions", sizes[number])
        for name, value in group.items():
            if name not in _NO_SETTINGS and not _same(value, optimizer.defaults.get(name, value)):
                said[f"group.{number}/{name}"] = value
    readable = {name: _readable(value) for name, value in said.items()}
    return {f"{prefix}/{name}": value for name, value in readable.items() if value is not _UNREADABLE}


_UNREADABLE: Final = object()


def _readable(value: Any) -> Any:
    if not hasattr(value, "data_ptr"):
        return value
    if value.is_cpu and is_scalar(value):
        number = on_host(value)
        return _UNREADABLE if number is None else number
    return str(tuple(value.shape)) if value.is_cpu else _UNREADABLE  # nobody waits for a device here


def _sized(name: str, size: int | None) -> dict[str, int]:
    return {} if size is None else {name: size}


def _size(group: Mapping[str, Any]) -> int | None:
    try:
        return sum(int(parameter.numel()) for parameter in group["params"])
    except (RuntimeError, ValueError):  # some have no shape before the first batch
        return None


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if hasattr(one, "data_ptr") or hasattr(other, "data_ptr"):
        # Comparing would wait for a device.
        if not (is_scalar(one) and is_scalar(other) and one.is_cpu and other.is_cpu):
            return False
        one, other = on_host(one), on_host(other)
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):  # arrays of the user's have no one answer
        return False
