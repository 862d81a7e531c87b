"""The losses of closureless loops: on what `backward()` was called; and what closures return to a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tracelet.guard import swallow

__all__ = ["Closure", "Heard", "Losses", "have_changed"]


class Heard(NamedTuple):
    """A loss.

    Attributes:
        value: a tensor of its own, without a graph; or a number.
        calls: of `backward()` since the last step, this one among them; 0 for a closure's.
        scale: what it is to be divided by, if anything.
    """

    value: Any
    calls: int = 0
    scale: Any = None


class Losses:
    """What `backward()` was called on in one thread, since the last step.

    With several optimizers a loss is also kept for each whose gradients the call has changed, until that one steps.
    """

    __slots__ = ("_last", "_of")

    def __init__(self) -> None:
        self._last: Heard | None = None
        self._of: dict[Any, tuple[Heard, bool]] = {}

    def heard(self, value: Any, scale: Any, changed: Sequence[Any]) -> None:
        """`backward()` returned.

        Args:
            value: the loss.
            scale: what it is to be divided by.
            changed: the optimizers whose gradients it changed.
        """
        before = self._last
        self._last = Heard(value, 1 if before is None else before.calls + 1, scale)
        for each in changed:
            loss, is_new = self._of.get(each, (None, False))
            self._of[each] = Heard(value, loss.calls + 1 if loss is not None and is_new else 1, scale), True

    def taken(self, stepped: Any) -> Heard | None:
        """The loss of a step that has ended. What other optimizers have not taken yet stays theirs."""
        loss, self._last = self._last, None
        if self._of:
            own, _ = self._of.pop(stepped, (None, False))
            self._of = {each: (heard, False) for each, (heard, _) in self._of.items()}
            loss = own or loss
        return loss


def have_changed(before: Sequence[tuple[Any, int]], now: Sequence[tuple[Any, int]]) -> bool:
    """Whether gradients, each with how often it was written to, are others than before."""
    if len(before) != len(now):
        return True
    return any(one is not other or count != more for (one, count), (other, more) in zip(before, now, strict=True))


class Closure:
    """A closure whose first result is overheard. In everything else it is the user's.

    Args:
        closure: the user's.
        hear: called with the first result.
    """

    def __init__(self, closure: Callable[..., Any], hear: Callable[[Any], None]) -> None:
        self.__wrapped__ = closure
        self._hear: Callable[[Any], None] | None = hear

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        result = self.__wrapped__(*args, **kwargs)
        if (hear := self._hear) is not None:
            self._hear = None
            try:
                hear(result)
            except Exception as error:
                swallow("reading a closure's loss", error)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)
