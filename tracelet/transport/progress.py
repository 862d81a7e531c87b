"""A bar on a terminal for whoever waits for delivery; elsewhere a line now and then, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

__all__ = ["Show", "progress"]

Show: TypeAlias = Callable[[int, int], None]
_LINE_EVERY: Final = 10.0


@contextmanager
def progress(lines: Callable[[str], None] | None = None, *, whole: bool = False) -> Iterator[Show]:
    """Show how far delivery is.

    Args:
        lines: takes a line now and then, where stderr is no terminal; None for nothing there.
        whole: the process does nothing else: what it writes by `sys.stdout` and `sys.stderr` meanwhile comes above the bar.

    Yields:
        To be called with the points that are accounted for, and all points.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield _nothing if lines is None else _Lines(lines)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("delivered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread of its own: an interpreter that is about to exit starts none.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=whole,
        redirect_stderr=whole,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)


def _nothing(done: int, total: int) -> None:
    return


class _Lines:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next = time.monotonic() + _LINE_EVERY
        self._said = -1, -1

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next and (done, total) != self._said:
            self._next = time.monotonic() + _LINE_EVERY
            self._said = done, total
            self._say(f"delivered {done:,} of {total:,} points")
