"""The losses of closureless loops: on what `backward()` was called; and what closures return to a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from tracelet.guard import swallow

__all__ = ["Closure", "Heard", "Losses", "leaves"]

_LARGEST: Final = 50_000  # nodes of a graph that are looked at


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


def leaves(loss: Any) -> set[int]:
    """The identities of the parameters that a loss was made of.

    By its graph: other threads may be writing to the gradients of optimizers of theirs, which must not be read then.
    """
    seen: set[Any] = set()
    found: set[int] = set()
    waiting = [loss.grad_fn]
    while waiting and len(seen) < _LARGEST:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            found.add(id(node.variable))
        else:
            waiting += [following for following, _ in node.next_functions]
    return found


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
