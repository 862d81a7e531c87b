"""One value, one point: what a library hands to several loggers, and what their SummaryWriters write of it.

Lightning gives the same numbers to each of a Trainer's loggers, one after the other, and a logger may end in a SummaryWriter,
which is captured too; Transformers does so with callbacks, Accelerate with trackers. A scope is open around that, in its
context. While it is, a SummaryWriter's point counts only if no other writer has written it in this scope; and whoever opened
the scope records what no SummaryWriter has.

What a script hands to loggers by itself (`for logger in self.loggers: logger.log_metrics(…)`) has a scope per call. There, the
same name, step and value given to another logger than before is the same value: see `Recent`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple

__all__ = ["Recent", "Scope", "enter", "here", "leave"]

_NOBODY: Final = 0  # the id of no object


class Scope:
    """What happens to some numbers on their way through loggers.

    Args:
        recent: what was given to loggers one by one; None where one call gives it to all of them.

    Attributes:
        logger: the one that has the numbers now.
        prefix: what it puts before their names.
        wrote: a SummaryWriter has written since that began.
        given: what the first logger got.
        step: likewise.
        covered: names of what SummaryWriters wrote, and of what was given to a logger whose SummaryWriter wrote.
        bare_prefix: the prefix of the first logger without a SummaryWriter.
    """

    __slots__ = ("_written", "bare_prefix", "covered", "given", "logger", "prefix", "recent", "step", "wrote")

    def __init__(self, recent: Recent | None = None) -> None:
        self.recent = recent
        self.logger: Any = None
        self.prefix = ""
        self.wrote = False
        self.given: Mapping[str, Any] | None = None
        self.step: int | None = None
        self.covered: set[str] = set()
        self.bare_prefix: str | None = None
        self._written: dict[tuple[str, int | None, float | None], int] = {}

    def begin(self, logger: Any, prefix: str) -> None:
        """A logger gets the numbers."""
        self.logger, self.prefix, self.wrote = logger, prefix, False

    def end(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """It has had them."""
        if self.given is None:
            self.given, self.step = metrics, step
        if self.wrote:
            self.covered.update(metrics)
        elif self.bare_prefix is None:
            self.bare_prefix = self.prefix
        self.logger = None

    def takes(self, writer: Any, tag: str, value: float, step: int | None) -> bool:
        """Whether a SummaryWriter's point is to be recorded: nobody has written that value before."""
        self.wrote = True
        name = tag.removeprefix(self.prefix)
        if self.recent is not None:
            return self.recent.takes(self.logger, name, value, step)
        self.covered.add(name)
        return self._written.setdefault(_key(name, value, step), id(writer)) == id(writer)

    def wrote_it(self, name: str, value: float, step: int | None) -> bool:
        """Whether a SummaryWriter has written that very value, or it is recorded otherwise."""
        return _key(name, value, step) in self._written

    def recorded(self, name: str, value: float, step: int | None) -> None:
        """A value is recorded: a SummaryWriter's is the same."""
        self._written[_key(name, value, step)] = _NOBODY


class _Given(NamedTuple):
    step: int | None
    value: float
    loggers: frozenset[int]


class Recent:
    """The last value of each name that a script gave to loggers by itself."""

    def __init__(self) -> None:
        self._given: dict[str, _Given] = {}

    def takes(self, logger: Any, name: str, value: float, step: int | None) -> bool:
        """Whether a value is new, and not the one that another logger was given just before."""
        before = self._given.get(name)
        if (
            before is not None
            and before.step == step
            and _same(before.value, value)
            and id(logger) not in before.loggers
        ):
            self._given[name] = before._replace(loggers=before.loggers | {id(logger)})
            return False
        self._given[name] = _Given(step, value, frozenset((id(logger),)))
        return True


def _key(name: str, value: float, step: int | None) -> tuple[str, int | None, float | None]:
    return name, step, None if math.isnan(value) else value  # NaN is not equal to itself


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


_scope: Final[ContextVar[Scope | None]] = ContextVar("tracelet_scope", default=None)
here = _scope.get


def enter(scope: Scope) -> Token[Scope | None]:
    """Open a scope in this context."""
    return _scope.set(scope)


def leave(token: Token[Scope | None]) -> None:
    """Close the scope that `enter` opened."""
    _scope.reset(token)
