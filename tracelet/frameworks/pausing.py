"""Patches that are there only while somebody listens, because even passing a call on would cost more than it may."""

from __future__ import annotations

from tracelet.frameworks.patching import MethodPatch

__all__ = ["PausablePatch"]


class PausablePatch(MethodPatch):
    """A patch that can be taken out of the way for a while, without a lock: what calls and what pauses may be one thread.

    Where another tool has wrapped on top of it, it stays, and passes calls on.
    """

    def pause(self) -> None:
        """Put the original in its place, as long as it is the one that is there."""
        self._switch.on = False
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
