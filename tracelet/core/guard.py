"""The one guard between tracelet's faults and the user's code: say it once, never raise.

Nothing here takes a lock: user code may enter from a signal handler or a `__del__` while another call is under way. So lines
go to stderr by `os.write`, not through `logging` or `print`.
"""

from __future__ import annotations

import os
import traceback
from types import TracebackType

__all__ = ["Guard", "guard", "say", "swallow"]

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


def swallow(what: str, error: BaseException) -> None:
    """Tell of an error of ours, once for each kind; raised instead when TRACELET_RAISE_INTERNAL is 1 (our own tests)."""
    if os.environ.get("TRACELET_RAISE_INTERNAL") == "1":
        raise error
    if os.environ.get("TRACELET_DEBUG") == "1":
        say("".join(traceback.format_exception(error)), key=f"{what} {error!r}")
    say(f"{what} failed ({type(error).__name__}: {error}); your script goes on, this is recorded no further", key=what)


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
        if isinstance(error, Exception):
            swallow(self._what, error)
            return True
        return False


def guard(what: str) -> Guard:
    """Guard a piece of tracelet that user code runs into.

    Args:
        what: what it is, as the line on stderr names it ("capturing add_scalar").
    """
    return Guard(what)
