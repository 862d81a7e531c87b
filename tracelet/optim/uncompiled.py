"""Keeps torch.compile out of what it cannot trace, without an import of its machinery, which takes seconds."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["uncompiled"]

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F) -> F:
    """A function that is called as it is, also by compiled code; what it compiles itself stays compiled.

    It is what `torch.compiler.disable` makes, as soon as something is compiled in the process.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def eager(*args: Any, **kwargs: Any) -> Any:
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is None or not hasattr(dynamo, "disable"):
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(dynamo.disable(function))
        return disabled[0](*args, **kwargs)

    eager._torchdynamo_disable = True  # type: ignore[attr-defined]
    return cast(F, eager)
