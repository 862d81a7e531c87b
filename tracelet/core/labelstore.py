"""Keeps a run's writer labels in a small file that its processes share and a resumed run finds again.

    <home>/runs/<run_id>/labels.json    {"format": 1, "labels": {log_dir: label}, "names": {name: [log_dir, tag]}}
    <home>/runs/<run_id>/labels.lock    flock'ed while somebody changes the file, which is replaced whole

It is read when a run starts and changed when a new log dir appears or two writers' names meet: never for a point.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Decisions", "LabelStore"]

_FORMAT: Final = 1
_PATIENCE: Final = 1.0  # seconds; others hold the lock for a millisecond


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided in a run.

    Attributes:
        labels: label of each log dir; empty for the one that carries none.
        names: log dir and tag behind each name that two of them wanted, and behind the name that the later one got.
    """

    labels: dict[str, str] = field(default_factory=dict)
    names: dict[str, tuple[str, str]] = field(default_factory=dict)


class LabelStore:
    """The file of one run.

    Args:
        home: tracelet's home; the run's folder in it is made when there is something to keep.
        run_id: the run.
    """

    def __init__(self, home: Path, run_id: str) -> None:
        self._directory = home / "runs" / run_id
        self._file = self._directory / "labels.json"
        self._within: dict[tuple[int, int], None] = {}  # process and thread that are in `update`

    def load(self) -> Decisions:
        """What is in the file; nothing when there is none.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or of another format.
        """
        try:
            raw = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return Decisions()
        except ValueError as error:
            raise ValueError(f"{self._file} is damaged: {error}") from error
        try:
            if raw["format"] != _FORMAT:
                raise ValueError(f"{self._file} has format {raw['format']}; this tracelet reads {_FORMAT}")
            labels = {str(log_dir): str(label) for log_dir, label in raw["labels"].items()}
            names = {str(name): (str(log_dir), str(tag)) for name, (log_dir, tag) in raw["names"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._file} is damaged: {error!r}") from error
        return Decisions(labels, names)

    def update(self, change: Callable[[Decisions], Decisions]) -> None:
        """Change the file, alone among the run's processes.

        A call out of `change` itself (a signal handler that logs to a new log dir) returns at once: the outer call
        comes round again to keep what was decided meanwhile.

        Args:
            change: what was decided -> what is decided now; called again until it changes nothing.

        Raises:
            OSError: the folder cannot be written, or another process did not let go of the lock.
            ValueError: the file is damaged, or of another format; it is left alone.
        """
        me = (os.getpid(), threading.get_ident())
        if me in self._within:
            return
        self._within[me] = None
        try:
            with self._locked():
                saved = self.load()
                while (now := change(saved)) != saved:
                    self._write(now)
                    saved = now
        finally:
            self._within.pop(me, None)

    def _write(self, decisions: Decisions) -> None:
        draft = self._file.with_suffix(".json.new")
        said = {"format": _FORMAT, "labels": decisions.labels, "names": decisions.names}
        draft.write_text(json.dumps(said, indent=1))
        draft.replace(self._file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._directory / "labels.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"{self._directory} stayed locked for {_PATIENCE:.0f} s") from error
                    time.sleep(0.002)
            try:
                yield
            finally:
                # By name, not by closing: a child that was forked meanwhile holds the same lock.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)
