"""Patches that are there only while somebody listens, because even passing a call on would cost more than it may."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tracelet.frameworks import tracing
from tracelet.patching import MethodPatch, Switch, Wrapper

__all__ = ["PausablePatch"]


class PausablePatch(MethodPatch):
    """A patch that can be taken out of the way for a while, without a lock: what calls and what pauses may be one thread.

    Where another tool has wrapped on top of it, it stays, and passes calls on. It is a plain function, which torch.compile
    traces through as if it were not there.

    Args:
        owner: as a `MethodPatch` has it.
        name: likewise.
        build: likewise.
        listening: whether somebody listens; of many patches.

    Attributes:
        leaves: `pause` and `resume` take it out of the way: worth it for what is called in every step. Others pass calls on
            as long as nobody listens.
    """

    leaves: bool = False

    def __init__(
        self, owner: type | ModuleType, name: str, build: Callable[[Switch], Wrapper], listening: Switch
    ) -> None:
        super().__init__(owner, name, build)
        self._listening = listening

    def pause(self) -> None:
        """Put the original in its place, as long as it is the one that is there."""
        if self._wrapper is not None and self._owner.__dict__.get(self._name) is self._wrapper:
            setattr(self._owner, self._name, self._original)

    def resume(self) -> None:
        """Put it back; where another tool has patched in the meantime, on top of that."""
        present = self._owner.__dict__.get(self._name)
        if self._wrapper is None or (present is not self._original and present is not self._wrapper):
            self.install()
            return
        self._switch.on = True
        if present is not self._wrapper:
            setattr(self._owner, self._name, self._wrapper)

    def _wrap(self, present: Any) -> Any:
        listening = self._listening
        wrapper = self._build(self._switch)
        if isinstance(self._owner, type):

            @functools.wraps(present)
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                if tracing.is_tracing() or not listening.on:
                    return present(self, *args, **kwargs)
                return wrapper(functools.partial(present, self), self, args, kwargs)

            return method

        @functools.wraps(present)
        def function(*args: Any, **kwargs: Any) -> Any:
            if tracing.is_tracing() or not listening.on:
                return present(*args, **kwargs)
            return wrapper(present, None, args, kwargs)

        return function
