"""When losses and clippings are listened to: before a step that is recorded, and while new optimizers turn up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tracelet.frameworks.ordinary import Listener

__all__ = ["Hearing"]

_PATIENCE: Final = 8  # steps after the last new optimizer: others may be about to step for the first time
_LONGEST: Final = 100  # steps of all optimizers for which one that is due is waited for: it may never step again


class Hearing:
    """Whether a run wants to know of losses and clippings.

    Args:
        recorded: the run's optimizers that have stepped, by name.
        changed: called when that changes.

    Attributes:
        open: it does.
        since: another object each time that it begins to.
        steps: of all optimizers that ended while it did.
    """

    def __init__(self, recorded: Mapping[str, Listener], changed: Callable[[Hearing], Any]) -> None:
        self._recorded = recorded
        self._changed = changed
        self._patience = _PATIENCE
        self._over = False
        self.steps = 0
        self.open = True
        self.since = object()

    def begin(self) -> None:
        """A step is to be recorded."""
        if not self.open and not self._over:
            self.since = object()
            self.open = True
            self._changed(self)

    def met(self) -> None:
        """There is an optimizer that had not stepped before."""
        self._patience = _PATIENCE
        self.begin()

    def ended(self) -> None:
        """A step is over."""
        self._patience -= 1
        self.steps += 1
        if self._patience <= 0 and not self.is_due():
            self.open = False
            self._changed(self)

    def end(self) -> None:
        """The run ends: a step that is under way does not open it again."""
        self._over = True
        self.open = False
        self._changed(self)

    def is_due(self) -> bool:
        """Whether the next step may be recorded, as far as it is waited for."""
        if not self._recorded:
            return True
        for listener in list(self._recorded.values()):
            if listener.due and self.steps - listener.awaited < _LONGEST and listener.optimizer() is not None:
                return True
        return False
