"""What a tracker must say of itself, so that one suite can try every exporter.

An adapter is a file `tests/contract/<kind>.py` with `VARIANTS`: names of test parameters, each with a function that makes a
`Tracker` in an empty folder. It uses the real SDK, and reads what the tracker really has. The promises are the suite's and
the same for all; what is data here is how a tracker shows a thing, never whether the thing may be missing or be there twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tracelet_collector.exporters.base import Exporter, Run

from tracelet.core.metrics import INT64_MAX, INT64_MIN, Metric, RunStatus

__all__ = ["Arrived", "Shown", "Tracker"]


class Arrived(NamedTuple):
    """A point as the tracker has it."""

    key: str
    value: float
    step: int
    wall_time: float | None = None


class Shown(NamedTuple):
    """How a point with a harmless name must appear in a tracker.

    Attributes:
        key: what it is called there.
        value: what is stored of its value.
        rerouted: it is counted as stored in another form.
    """

    key: str
    value: float
    rerouted: bool = False


def _as_it_is(metric: Metric) -> Shown:
    return Shown(metric.name, metric.value)


def _same_key(key: str, nth: int) -> str:
    return key


@dataclass
class Tracker:
    """A real tracker that nothing was delivered to yet.

    Attributes:
        make: a new exporter, as a new worker process has it.
        run: a run that the tracker has not seen. Its `blobs` is a folder of the test's.
        arrived: all points, of all runs, with `wall_time` where `time_precision` is a number; no `.meta/` fields. Numbers
            that stand beside a histogram may be among them.
        runs: the status of each run, in the tracker's words.
        files: the content of all media of `exact_kinds` and of all artifacts, once for each, sorted.
        shown: how a point with a harmless name must appear.
        again: the key of the nth point of one key and step (n from 1), where that is not the key itself.
        again_is_rerouted: a point that `again` gives another key is counted as stored in another form.
        steps: the first and the last step that it can hold; others are dead letters.
        time_precision: seconds by which a stored time may differ from the point's; None when it keeps none.
        time_is_kept: whether it can hold a time that is none; if not, such a point is counted as rerouted.
        words: what it calls a status.
        exact_kinds: kinds of media whose content it keeps byte by byte; None for all.
        media: of the other kinds, how many of each it has.
        shown_by: what `media` counts a kind as; the kind itself by default.
        replaces: an artifact takes the place of an earlier one of its path; if not, both are there.
        params: the last value of each param, as text.
        tags: the last value of each tag of the user's.
        close: ends what the adapter started.
    """

    make: Callable[[], Exporter]
    run: Run
    arrived: Callable[[], list[Arrived]]
    runs: Callable[[], list[str]]
    files: Callable[[], list[bytes]]
    params: Callable[[], Mapping[str, str]]
    tags: Callable[[], Mapping[str, str]]
    words: Mapping[RunStatus, str]
    shown: Callable[[Metric], Shown] = _as_it_is
    again: Callable[[str, int], str] = _same_key
    again_is_rerouted: bool = False
    steps: tuple[int, int] = (INT64_MIN, INT64_MAX)
    time_precision: float | None = None
    time_is_kept: Callable[[float], bool] = field(default=lambda wall_time: True)
    exact_kinds: frozenset[str] | None = None
    media: Callable[[], Counter[str]] = Counter
    shown_by: Callable[[str], str] = field(default=lambda kind: kind)
    replaces: bool = True
    close: Callable[[], None] = field(default=lambda: None)
