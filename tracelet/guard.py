"""The one guard between tracelet's faults and the user's code: say it once, never raise.

Nothing here takes a lock: user code may enter from a signal handler or a `__del__` while another call is under way. So lines
go to stderr by `os.write`, not through `logging` or `print`.
"""

from __future__ import annotations

import os
import signal
import traceback
from types import CodeType, TracebackType
from typing import Any

__all__ = ["Guard", "guard", "in_a_line", "is_users", "say", "swallow", "was_said"]

_said: dict[str, object] = {}


def say(line: str, key: str | None = None) -> None:
    """Write one line to stderr, once for each key (by default: for each line)."""
    mine = object()
    if _said.setdefault(key or line, mine) is not mine:
        return
    try:
        os.write(2, f"tracelet: {line}\n".encode(errors="replace"))
    except OSError:
        return  # stderr is closed: there is nobody to tell


def was_said(key: str) -> bool:
    """Whether a line of that key was written."""
    return key in _said


def swallow(what: str, error: BaseException) -> None:
    """Tell of an error of ours, once for each kind.

    Raises:
        BaseException: the error itself, when it is the user's after all: a signal handler of theirs that ran in the middle of
            our code raised it. Or when TRACELET_RAISE_INTERNAL is 1, as in our own tests.
    """
    if os.environ.get("TRACELET_RAISE_INTERNAL") == "1" or is_users(error):
        raise error
    if os.environ.get("TRACELET_DEBUG") == "1":
        say("".join(traceback.format_exception(error)), key=f"{what} {error!r}")
    say(f"{what} failed ({in_a_line(error)}); your script goes on without it", key=what)


def in_a_line(error: BaseException) -> str:
    """An error's kind and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Guard:
    """Context manager: an `Exception` inside is ours, and ends here."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or is_users(error):
            return False
        swallow(self._what, error)
        return True


def guard(what: str) -> Guard:
    """Guard a piece of tracelet that user code runs into.

    Args:
        what: what it is, as the line on stderr names it ("capturing add_scalar").
    """
    return Guard(what)


def is_users(error: BaseException) -> bool:
    """Whether a signal handler raised an error: then it passed through our code by chance, on its way to the user's."""
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    while hasattr(handler, "func"):  # functools.partial
        handler = handler.func
    if not callable(handler):
        return None
    code = getattr(handler, "__code__", None) or getattr(handler.__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
