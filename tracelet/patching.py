"""Wraps methods of other people's classes in place, and takes the wrapping off again; functions of modules likewise.

On the class, never by replacing a class: so names that were imported earlier and objects that were made earlier are reached. (A
function is reached only by those who look it up in its module: choose one that the library itself calls.) A method is wrapped
once, however often installing is asked for. Another tool may wrap on top of us: then taking ours off would take theirs off too,
so ours stays, switched off, and is switched on again by the next install.
"""

from __future__ import annotations

import os
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tracelet.guard import say, swallow

__all__ = ["MethodPatch", "Switch", "Wrapper", "after"]

Wrapper: TypeAlias = Callable[[Callable[..., Any], Any, tuple[Any, ...], Mapping[str, Any]], Any]

# Held while patches go on or come off, never while a wrapped method runs. Reentrant: a signal handler may import a library
# whose patches are waiting for that.
_changing = threading.RLock()


def _fresh_lock() -> None:
    global _changing
    _changing = threading.RLock()


os.register_at_fork(after_in_child=_fresh_lock)  # a thread that is not there any more may hold the parent's


class Switch:
    """Whether a wrapper does anything but pass calls on."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = True


class MethodPatch:
    """One method of a foreign class, or one function of a foreign module.

    Args:
        owner: the class, or module, whose own attribute it is.
        name: the method.
        build: makes the wrapper around a switch; while that is off, the wrapper must only pass the call on.
    """

    def __init__(self, owner: type | types.ModuleType, name: str, build: Callable[[Switch], Wrapper]) -> None:
        self._owner = owner
        self._name = name
        self._build = build
        self._original: Any = None
        self._wrapper: Any = None
        self._switch = Switch()

    def install(self) -> None:
        """Wrap the method, or switch the wrapper on that is still there.

        Raises:
            KeyError: the class has no such method of its own, the module no such function.
        """
        with _changing:
            present = self._owner.__dict__[self._name]
            if self._wrapper is not None and _holds(present, self._wrapper):
                self._switch.on = True
                return
            self._switch.on = False  # a wrapper that is out of sight must not record a second time
            self._switch = Switch()
            self._original = present
            self._wrapper = self._wrap(present)
            setattr(self._owner, self._name, self._wrapper)

    def _wrap(self, present: Any) -> Any:
        from wrapt import FunctionWrapper

        if isinstance(FunctionWrapper.__init__, types.FunctionType):
            say("wrapt runs without its C extension: each intercepted call takes about 7 times as long")
        return FunctionWrapper(present, self._build(self._switch))

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return self._wrapper is None

    def uninstall(self) -> None:
        """Put the original back if nobody wrapped on top, else switch off."""
        with _changing:
            if self._wrapper is None:
                return
            self._switch.on = False
            if _is(self._owner.__dict__.get(self._name), self._wrapper):
                setattr(self._owner, self._name, self._original)
                self._original = self._wrapper = None


def _is(present: Any, wrapper: Any) -> bool:
    # Reading a wrapper from its class gives a bound copy of it, and tools that take their own patch off put that back.
    return present is wrapper or getattr(present, "_self_parent", None) is wrapper


def _holds(present: Any, wrapper: Any) -> bool:
    """Whether calls still come through the wrapper: it is there itself, or under what other tools put on top."""
    waiting, met = [present], 0
    while waiting and met < 100:
        each = waiting.pop()
        met += 1
        if _is(each, wrapper):
            return True
        if (inner := getattr(each, "__wrapped__", None)) is not None:
            waiting.append(inner)
        if isinstance(each, types.FunctionType):
            # A patch by hand keeps what it replaced in a closure or a global. (A wrapt wrapper of a function is one here.)
            kept = [_content(cell) for cell in each.__closure__ or ()]
            kept += [each.__globals__.get(name) for name in each.__code__.co_names]
            waiting += [function for function in kept if isinstance(function, types.FunctionType)]
    return False


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not assigned yet


def after(what: str, hook: Callable[..., None]) -> Callable[[Switch], Wrapper]:
    """A wrapper that calls `hook(instance, *args, **kwargs)` once the original has returned.

    Args:
        what: the call, as the line on stderr names it when the hook fails.
        hook: must not change its arguments.
    """

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            result = wrapped(*args, **kwargs)
            if switch.on:
                try:
                    hook(instance, *args, **kwargs)
                except Exception as error:
                    swallow(what, error)
            return result

        return wrapper

    return build
