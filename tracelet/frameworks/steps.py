"""Which steps of optimizers are under way in a thread, and which of them count.

torch's hooks fire for every `step` that is entered: twice when a subclass calls `super().step()`, and for both when a wrapper
steps the optimizer inside it. A step counts once: for the outermost optimizer whose parameters it changes.

A step that raises never comes to its end. So an entry holds the identity of the frame that torch called the hook from, and is
believed only as long as that frame is below the one that runs.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from tracelet.frameworks.backwards import Losses

if TYPE_CHECKING:
    from tracelet.frameworks.gradients import Clip
    from tracelet.frameworks.scaling import Scaled

__all__ = ["Stepping", "enter", "here", "is_capturing", "leave", "parameters"]


class Stepping(Protocol):
    """What is kept of an optimizer that steps.

    Attributes:
        due: it wants to see the next step begin.
        inner: what hears of the end of a step that does not count.
    """

    due: bool
    inner: Stepping | None

    @property
    def optimizer(self) -> Callable[[], Any]:
        """Gives the optimizer; None when it is gone."""

    def begins(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A step begins. What is returned, if anything, are arguments in the place of the given ones."""

    def ended(self, optimizer: Any) -> None:
        """A step is over."""


class _Here(threading.local):
    """What a thread is at.

    Attributes:
        stack: steps under way, outermost first: the identity of the frame, and what hears of the step's end.
        since: since when the following was heard: `Hearing.since`.
        entered: steps that were entered within a GradScaler's.
        losses: what `backward()` was called on.
        clips: gradients that were clipped since the last step.
        scaler: the GradScaler in whose `step` the thread is.
        scaled: what a GradScaler gave out, each with what it was made of.
        norm_type: by the identity of a total norm, of which order it is; the last one.
    """

    def __init__(self) -> None:
        self.stack: list[tuple[int, Stepping | None]] = []
        self.entered = 0
        self.scaler: Any = None
        self.forget(None)

    def forget(self, since: object) -> None:
        """Forget what was heard before."""
        self.since = since
        self.losses = Losses()
        self.clips: list[Clip] = []
        self.scaled: list[Scaled] = []
        self.norm_type: tuple[Any, float] | None = None


here: Final = _Here()


def enter(stack: list[tuple[int, Stepping | None]], frame: FrameType, optimizer: Any, kept: Stepping) -> bool:
    """A step begins.

    Args:
        stack: of the thread.
        frame: from which torch called the hook.
        optimizer: whose step it is.
        kept: what is kept of it.

    Returns:
        Whether it counts: no step around it is of the same optimizer, or of one that has the same parameters.
    """
    counts = True
    if stack:
        _forget_failed(stack, frame)
        around = [each.optimizer() for _, each in stack if each is not None]
        counts = not any(_shares(outer, optimizer) for outer in around if outer is not None)
    stack.append((id(frame), kept if counts else kept.inner))
    return counts


def leave(stack: list[tuple[int, Stepping | None]], mine: int) -> Stepping | None:
    """A step ends; returns what hears of it.

    Args:
        stack: of the thread.
        mine: the identity of the frame from which torch called the hook.
    """
    for place in range(len(stack) - 1, -1, -1):
        if stack[place][0] == mine:
            kept = stack[place][1]
            del stack[place:]  # what is above failed, and somebody caught that
            return kept
    return None


def _forget_failed(stack: list[tuple[int, Stepping | None]], frame: FrameType) -> None:
    waiting = {identity for identity, _ in stack} - {id(frame)}  # one that is gone may have had this one's place
    found = set()
    outer = frame.f_back
    while outer is not None and waiting:
        if outer.f_code is frame.f_code and id(outer) in waiting:
            waiting.discard(id(outer))
            found.add(id(outer))
        outer = outer.f_back
    stack[:] = [entry for entry in stack if entry[0] in found]


def _shares(outer: Any, inner: Any) -> bool:
    if outer is inner or outer.param_groups is inner.param_groups:
        return True
    return not parameters(outer).isdisjoint(parameters(inner))


def parameters(optimizer: Any) -> set[int]:
    """The identities of an optimizer's parameters."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def is_capturing(tensor: Any) -> bool:
    """Whether a CUDA graph is being recorded where a tensor is: what is computed now would become part of it."""
    return bool(tensor.is_cuda and sys.modules["torch"].cuda.is_current_stream_capturing())
