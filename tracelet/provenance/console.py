"""Keeps what Python code prints, as artifacts: `console/0001.log` and on.

The `write` of the stream objects is watched, not the objects replaced: whoever holds one (a logging handler, a progress bar) is
heard, and `isatty`, `fileno`, `encoding`, `buffer` and all else stay as they are. So what is not seen is what does not come by
`write`: bytes written to `buffer` or to the descriptor, by C code or by a child process.

A line is kept when it is whole; one that a progress bar writes again and again, as it was last. Colours and cursor movements
are left out, and what looks like a secret is replaced.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from tracelet.guard import Guard, say
from tracelet.transport.background import importing

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.provenance.printed import Lines

__all__ = ["Console"]

_EVERY: Final = 1.0
_CHUNK: Final = 2**20
_MOST_CHUNKS: Final = 100
_MANY: Final = 5_000  # pieces that are printed: they are looked at before the time has come
_MOST_WAITING: Final = 200_000  # what comes between two looks, at most
_KEEPING: Final = Guard("keeping what is printed")


class Console:
    """Keeps what is printed during a run.

    Args:
        run: whose artifacts it becomes.
    """

    def __init__(self, run: Experiment) -> None:
        self._run = run
        self._printed: deque[tuple[int, str]] = deque(maxlen=_MOST_WAITING)
        self._watches: list[_Watch] = []
        self._lines: dict[int, Lines] = {}
        self._chunk: list[str] = []
        self._size = 0
        self._number = 1
        self._told = ""
        self._due: SimpleQueue[None] = SimpleQueue()  # a signal handler may print
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to keep it, live; where there may be no more threads, all of it is kept at the end."""
        thread = threading.Thread(target=self._work, name="tracelet-console", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def watch(self) -> None:
        """Hear what is printed from now on."""
        for stream in dict.fromkeys((sys.stdout, sys.stderr)):
            if stream is not None and (watch := _watch(stream)) is not None:
                watch.listeners[id(self)] = self._hear
                self._watches.append(watch)

    def end(self, wait: float) -> None:
        """Keep the rest, and let go of the streams.

        Args:
            wait: seconds at most for what is under way.
        """
        for watch in self._watches:
            watch.listeners.pop(id(self), None)
            watch.let_go()
        self._end.set()
        self._due.put(None)
        if self._thread is not None:
            self._thread.join(wait)
            if self._thread.is_alive():
                return
        with _KEEPING:
            self._keep(last=True)

    def _hear(self, piece: tuple[int, str]) -> None:
        self._printed.append(piece)
        if len(self._printed) == _MANY:
            self._due.put(None)

    def _work(self) -> None:
        with _KEEPING:
            with importing():
                from tracelet.provenance.secrets import learn_surroundings
            learn_surroundings()
            while not self._end.is_set():
                with suppress(Empty):
                    self._due.get(timeout=_EVERY)
                self._keep(last=False)

    def _keep(self, last: bool) -> None:
        from tracelet.provenance.printed import Lines
        from tracelet.provenance.secrets import redacted_text

        if len(self._printed) == _MOST_WAITING:
            say("more is printed than can be kept: what came before is left out of the run's console", key="console")
        whole: list[str] = []
        while self._printed:
            stream, text = self._printed.popleft()
            whole += self._lines.setdefault(stream, Lines()).add(text)
        rest = [line for lines in self._lines.values() if (line := lines.rest())]
        if last:
            whole, rest = whole + rest, []
        for line in redacted_text("".join(f"{line}\n" for line in whole)).splitlines(keepends=True):
            size = len(line.encode(errors="replace"))
            if self._size and self._size + size > _CHUNK:
                self._record("".join(self._chunk))
                self._chunk, self._size, self._number = [], 0, self._number + 1
            self._chunk.append(line)
            self._size += size
        self._record("".join(self._chunk) + redacted_text("".join(f"{line}\n" for line in rest)))

    def _record(self, text: str) -> None:
        if not text or text == self._told:
            return
        if self._number > _MOST_CHUNKS:
            say(
                f"run {self._run.name}: more than {_MOST_CHUNKS} MiB were printed: the rest is not kept",
                key="console full",
            )
            return
        self._told = text
        content = text.encode(errors="replace")
        self._run.record_artifact(f"console/{self._number:04}.log", content, "text/plain")


class _Watch:
    """The watched `write` of one stream.

    Attributes:
        listeners: called with a number for the stream, and the text that was written.
    """

    def __init__(self, stream: Any) -> None:
        self.listeners: dict[int, Callable[[tuple[int, str]], None]] = {}
        self._stream = stream
        self._own = stream.__dict__.get("write")  # somebody may have put one there before
        original, listeners, number, pid = stream.write, self.listeners, id(stream), os.getpid()

        def write(text: Any, /, *more: Any) -> Any:
            written = original(text, *more)
            if listeners and type(text) is str and os.getpid() == pid:
                for listener in tuple(listeners.values()):
                    listener((number, text))
            return written

        self.write = write
        stream.write = write

    @property
    def on(self) -> bool:
        """It is still there, perhaps below others'."""
        return self._stream.__dict__.get("write") is self.write

    def let_go(self) -> None:
        """Put back what was there, if nobody listens and it is still ours; else it only passes on."""
        if self.listeners or not self.on:
            return
        if self._own is None:
            del self._stream.write
        else:
            self._stream.write = self._own
        _watches.pop(id(self._stream), None)


_watches: dict[int, _Watch] = {}


def _watch(stream: Any) -> _Watch | None:
    """The watch of a stream: the one that is there, or a new one."""
    known = _watches.get(id(stream))
    if known is not None and known._stream is stream and known.on:
        return known
    try:
        watch = _watches[id(stream)] = _Watch(stream)
    except (AttributeError, TypeError):  # of a kind that takes no attributes
        say(f"what is printed to {type(stream).__name__} cannot be kept", key=f"console {type(stream)}")
        return None
    return watch
