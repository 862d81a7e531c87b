"""Which label a SummaryWriter's metrics carry, and what each metric is called in the run.

A run may have several writers, and they may use the same tags. Their log dirs keep them apart:

- A label is the last component of a log dir that nobody generated.
- A second writer that is known before the first point is written gives labels to all of them; otherwise the first
  writer carries none, and later ones do.
- What was decided stays: for the run's other processes and when it is resumed too, by a `LabelStore`.
- A resumed run goes on with its writers: a log dir that differs from an earlier one only in what was generated
  (`version_1` behind `version_0`) is that writer's, with its label and its names.

Nothing here holds a lock of this process: a signal handler or a `__del__` may log in the middle of any line. Decisions
are made so that making them twice gives the same, and published by `dict.setdefault`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from tracelet.core.labelstore import Decisions, LabelStore
from tracelet.guard import say

__all__ = ["MEASURED", "LabelStore", "LabelTable", "WriterPrefix", "label_of", "normalise"]

WriterPrefix: TypeAlias = Literal["auto", "always", "never"]

# Whose names those are that tracelet measures by itself: no writer's, and nobody else's either.
MEASURED: Final = "tracelet://measured"

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# What nobody chose: SummaryWriter's own `Nov22_04-05-06_host` (its month follows the locale), Lightning's `version_3`,
# and digits, also as a date or a time writes them.
_GENERATED: Final = re.compile(r"[^\W\d_]+\.?\d{2}_\d{2}-\d{2}-\d{2}(_.*)?|version_\d+|\d+([-_:T]+\d+)*")


def normalise(log_dir: object) -> str:
    """A log dir as the writers of a run are told apart by: absolute, without `.` and `..`. URLs stay as they are."""
    path = str(log_dir)
    if not path:
        return ""
    return path.rstrip("/") if _SCHEME.match(path) else os.path.abspath(path)


def label_of(log_dir: str) -> str:
    """The last component of a log dir that nobody generated; the last one when all were."""
    components = [part for part in _SCHEME.sub("", log_dir).split("/") if part.strip()]
    for part in reversed(components):
        if not _GENERATED.fullmatch(part):
            return part
    return components[-1] if components else "writer"


class LabelTable:
    """The labels of one run's writers, and the names of its metrics.

    Args:
        policy: `auto` as above, `always` (a single writer has a label too) or `never`.
        store: where decisions are kept for the run's other processes; without one they are this process's alone.
        resumed: what the store has is of processes before this one, whose writers may go on.
    """

    def __init__(self, policy: WriterPrefix, store: LabelStore | None = None, resumed: bool = False) -> None:
        self._policy = policy
        self._store = store
        self._seen: dict[str, bool] = {}
        self._labels: dict[str, str] = {}
        self._taken: dict[str, str] = {}  # label -> log dir
        self._bare: dict[str, str] = {}  # the one key says which log dir carries no label, if any
        self._owners: dict[str, tuple[str, str]] = {}  # name -> log dir, tag
        self._contested: dict[str, tuple[str, str]] = {}  # the part of it that others must know
        self._earlier: dict[
            str, dict[str, str]
        ] = {}  # what is not generated of a log dir -> label -> the first log dir
        self._continued: dict[str, str] = {}  # an earlier log dir -> the one that goes on with it
        self._origins: dict[str, str] = {}  # the other way
        if store is not None:
            try:
                self._adopt(store.load())
            except (OSError, ValueError) as error:
                _not_kept(error)
        for log_dir, label in self._labels.items() if resumed else ():
            self._earlier.setdefault(_chosen(log_dir), {}).setdefault(label, log_dir)

    def seen(self, log_dir: str) -> None:
        """A SummaryWriter with this log dir exists."""
        if log_dir:
            self._seen.setdefault(normalise(log_dir), True)
            self._origin(normalise(log_dir))

    def writers(self) -> list[str]:
        """The log dirs of the SummaryWriters that exist."""
        return list(self._seen)

    def label(self, log_dir: str) -> str:
        """The label of a writer, decided when it is asked for first: at the writer's first point.

        Args:
            log_dir: the writer's; empty for what no writer wrote.

        Returns:
            The label, or an empty string.
        """
        if not log_dir or log_dir == MEASURED:
            return ""
        log_dir = normalise(log_dir)
        known = self._labels.get(log_dir)
        if known is None:
            self._seen.setdefault(log_dir, True)
            self._share(lambda: self._decide(log_dir))
            known = self._labels[log_dir]
        return known

    def name(self, log_dir: str, tag: str) -> str:
        """What the metric is called in the run: the tag behind the writer's label; `~hash4` when that is another's name.

        Args:
            log_dir: the writer's; empty for what no writer wrote.
            tag: the user's tag, verbatim.
        """
        log_dir = normalise(log_dir)
        label = self.label(log_dir)
        name = f"{label}/{tag}" if label else tag
        mine = (self._origin(log_dir), tag)
        owner = self._owners.setdefault(name, mine)
        if owner == mine:
            return name
        digest = hashlib.sha256(f"{mine[0]}\0{tag}".encode("utf-8", "surrogatepass")).hexdigest()
        for length in range(4, len(digest)):
            other = f"{name}~{digest[:length]}"
            if self._owners.setdefault(other, mine) == mine:
                break
        if self._contested.setdefault(name, owner) != owner or other not in self._contested:
            self._contested.setdefault(other, mine)
            self._share(lambda: None)
        return other

    def decisions(self) -> dict[str, str]:
        """Label of every log dir that has been decided; empty for the one that carries none."""
        return dict(self._labels)

    def _decide(self, log_dir: str) -> None:
        if log_dir in self._labels:
            return
        if (origin := self._origin(log_dir)) != log_dir:
            label = self._labels[origin]
        elif self._policy == "never" or (self._policy == "auto" and self._carries_none(log_dir)):
            label = ""
        else:
            label = self._claim(log_dir)
        self._labels.setdefault(log_dir, label)

    def _origin(self, log_dir: str) -> str:
        """The log dir of the writer that goes on in this one: the same, but in a run that is resumed."""
        if not self._earlier or not log_dir:
            return log_dir
        if (known := self._origins.get(log_dir)) is not None:
            return known
        earlier = self._earlier.get(_chosen(log_dir), {})
        # One that is written to again is itself; the others go on in the order of their making.
        may_be = (
            list(earlier.values()) if log_dir not in self._labels else [earlier.get(self._labels[log_dir], log_dir)]
        )
        found = next((each for each in may_be if self._continued.setdefault(each, log_dir) == log_dir), log_dir)
        return self._origins.setdefault(log_dir, found)

    def _carries_none(self, log_dir: str) -> bool:
        alone = not self._labels and len(self._seen) == 1
        return self._bare.setdefault("log_dir", log_dir if alone else "") == log_dir

    def _claim(self, log_dir: str) -> str:
        wanted = label_of(log_dir)
        for number in itertools.count(1):
            label = wanted if number == 1 else f"{wanted}_{number}"
            if self._taken.setdefault(label, log_dir) == log_dir:
                return label
        raise AssertionError("unreachable")

    def _share(self, decide: Callable[[], None]) -> None:
        """Decide with what the run's other processes decided in view, and let them know."""
        if self._store is not None:

            def change(saved: Decisions) -> Decisions:
                self._adopt(saved)
                decide()
                # What is in the file is what others go by: it stays, whatever this process had to decide without it.
                return Decisions({**self._labels, **saved.labels}, {**self._contested, **saved.names})

            try:
                self._store.update(change)
            except (OSError, ValueError) as error:
                _not_kept(error)
        decide()

    def _adopt(self, saved: Decisions) -> None:
        for log_dir, label in saved.labels.items():
            if self._labels.setdefault(log_dir, label) == label and label:
                self._taken.setdefault(label, log_dir)
        for name, owner in saved.names.items():
            self._owners.setdefault(name, owner)
            self._contested.setdefault(name, owner)


def _chosen(log_dir: str) -> str:
    """A log dir without what nobody chose of it."""
    return "/".join("*" if _GENERATED.fullmatch(part) else part for part in log_dir.split("/"))


def _not_kept(error: Exception) -> None:
    say(
        f"labels of writers are not shared with the run's other processes and not kept for resuming it ({error})",
        key="labels not kept",
    )
