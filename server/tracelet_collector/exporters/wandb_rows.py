"""What a chunk's records come to in W&B, without W&B: rows of its history, keys, config, and the state that remembers them.

A row is what one `run.log()` takes. Rows are made by what the log says alone, so that they are the same whenever they are made:
a row holds consecutive points of one step out of one batch of the log, each key once, within a second. Media have rows of
their own.

The state of a run, as it is committed with the cursor:

    rows       rows so far, media and all
    link       where the run is, for people
    names      metric name -> key
    fields     field and metric key (with a NUL between) -> key of a numeric field of metadata
    params     param name -> key
    tags       tag name -> value
    metrics    key -> what the config says of it
    left_out   there are metrics that the config has no room for
    labels     log_dir -> label
    dropped    points that were lost before they had a place in the log
    end, reason    how it has ended, as far as is known
    about      the config has what the run's plan said of it
    closed     W&B has all of it
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tracelet.core.metrics import (
    FACTS,
    INT64_MAX,
    INT64_MIN,
    Artifact,
    Gap,
    Media,
    MetaValue,
    Metric,
    Params,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)
from tracelet_collector.exporters.base import Dead, Item, Run
from tracelet_collector.exporters.names import KeyBook, marked

__all__ = ["CONFIG", "STEP", "Plan", "Position", "Row", "run_tags"]

Position = tuple[int, int]  # a record's place in the log

STEP: Final = "global_step"
CONFIG: Final = "_tracelet"
_TIME: Final = "_timestamp"
_MAX_VALUES: Final = 500  # of one row: W&B skips a row of more than some 10 MB without an error
_MAX_SECONDS: Final = 1.0
_MAX_KEY: Final = 1000
_MAX_METRICS: Final = 1000  # the config is sent whole when it changes
_MAX_TAG: Final = 64
_MAX_TEXT: Final = 10_000
_LAST_TIME: Final = 253_402_300_799.0  # the end of the year 9999


class WandbKeys(KeyBook):
    """Keys that W&B takes: any text but an empty one, or one that begins with `_`, which W&B has for itself.

    Control characters become `_`. See `KeyBook`.
    """

    def __init__(self, decided: dict[str, str], taken: set[str], stripped: str = "") -> None:
        super().__init__(decided, _MAX_KEY, taken)
        self._stripped = stripped

    def _sanitised(self, wanted: str) -> str:
        return _clean(wanted, self._stripped)


@dataclass(slots=True, eq=False)
class Row:
    """A row of the history.

    Attributes:
        step, wall_time: of its first point.
        values: key to value, with the place of the point that it is of.
        media: what the row is of, when it is not of numbers.
    """

    step: int
    wall_time: float
    values: dict[str, tuple[Position, MetaValue]] = field(default_factory=dict)
    media: Item | None = None
    key: str = ""

    def after(self, position: Position | None) -> dict[str, Any]:
        """The row as W&B takes it: what comes behind a place of the log."""
        values = {key: value for key, (at, value) in self.values.items() if position is None or at > position}
        return {**values, STEP: self.step, _TIME: self.wall_time} if values else {}

    def frame(self, value: Any) -> dict[str, Any]:
        """A row of media, which are `value`."""
        return {name: said for name, (_, said) in self.values.items()} | {
            self.key: value, STEP: self.step, _TIME: self.wall_time
        }  # fmt: skip


@dataclass(slots=True)
class Plan:
    """A chunk's records, translated.

    Attributes:
        state: the run's state after the chunk, without its rows.
        rows: in log order.
        artifacts: in log order.
        dead: points that nothing is made of.
        config: what is to be set in the run's config.
        delivered, rerouted: points of the rows of numbers.
        retagged: the tags have changed.
        last: the place of the last record.
    """

    state: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    artifacts: list[Item] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    delivered: int = 0
    rerouted: int = 0
    retagged: bool = False
    last: Position = (0, 0)
    _lsn: int = -1
    _retold: bool = False

    @classmethod
    def make(cls, items: Iterable[Item], state: Mapping[str, Any], run: Run) -> Plan:
        """Translate records.

        Args:
            items: in log order.
            state: the run's state, which stays untouched.
            run: whose they are.
        """
        plan = cls({name: _copied(value) for name, value in state.items()})
        books = _Books(plan.state)
        if not plan.state.get("about"):
            plan._tell_run(run)
        for item in items:
            record = item.record
            plan.last = (item.lsn, item.seq)
            if isinstance(record, Metric):
                plan._add_point(item, record, books)
            elif isinstance(record, Media):
                key = books.metrics.key(record.name)
                plan._tell(key, record.name, record.kind, False, record.step_implied, books)
                row = Row(max(INT64_MIN, min(INT64_MAX, record.step)), _time(record.wall_time), media=item, key=key)
                row.values |= {name: (plan.last, value) for name, value in books.beside(key, record.metadata)}
                plan.rows.append(row)
            elif isinstance(record, Artifact):
                plan.artifacts.append(item)
            else:
                plan._add_word(record, books)
        if plan._retold:
            plan.config[CONFIG] = _told(plan.state)
        return plan

    def _tell_run(self, run: Run) -> None:
        self.state["about"] = {"run_id": run.run_id} | ({"parent": run.parent} if run.parent else {})
        self.state["tags"] = {**run.tags, **self.state.get("tags", {})}
        self._retold = True

    def _add_word(self, record: Any, books: _Books) -> None:
        if isinstance(record, Params):
            self.config |= {books.params.key(name): _sayable(value) for name, value in record.values.items()}
        elif isinstance(record, Tags):
            before = self.state.get("tags", {})
            self.state["tags"] = before | record.values
            if self.state["tags"] != before:
                self.retagged = self._retold = True
        elif isinstance(record, WriterSeen):
            self.state.setdefault("labels", {})[record.log_dir] = record.label
            self._retold = True
        elif isinstance(record, Gap):
            self.state["dropped"] = self.state.get("dropped", 0) + record.dropped
            self._retold = True
        elif isinstance(record, RunEnd):
            self.state.pop("end", None)
            if record.status is not RunStatus.RUNNING:
                self.state["end"] = record.status.value
            if record.reason or self.state.get("reason"):
                self.state["reason"] = record.reason
                self._retold = True

    def _add_point(self, item: Item, metric: Metric, books: _Books) -> None:
        if not INT64_MIN <= metric.step <= INT64_MAX:
            self.dead.append(Dead(item, f"the step {metric.step} is outside the 64-bit integers that W&B stores"))
            return
        key = books.metrics.key(metric.name)
        self._tell(key, metric.name, metric.type, metric.type_inferred, metric.step_implied, books)
        wall_time = _time(metric.wall_time)
        position = (item.lsn, item.seq)
        row = self._row(item.lsn, metric.step, wall_time, key)
        row.values[key] = position, metric.value
        if metric.metadata:
            row.values |= {name: (position, value) for name, value in books.beside(key, metric.metadata)}
        if abs(wall_time - metric.wall_time) <= 0.001:
            self.delivered += 1
        else:  # not of a year that a date can be of
            self.rerouted += 1

    def _row(self, lsn: int, step: int, wall_time: float, key: str) -> Row:
        """The row that a point belongs to: the last one, or a new one."""
        row = self.rows[-1] if self.rows else None
        joins = (
            row is not None
            and row.media is None
            and self._lsn == lsn
            and row.step == step
            and key not in row.values
            and len(row.values) < _MAX_VALUES
            and abs(row.wall_time - wall_time) <= _MAX_SECONDS
        )
        if row is None or not joins:
            self._lsn = lsn
            row = Row(step, wall_time)
            self.rows.append(row)
        return row

    def _tell(self, key: str, name: str, kind: str, inferred: bool, step_implied: bool, books: _Books) -> None:
        """Keep what the config says of a metric."""
        facts = kind, inferred, step_implied
        if books.told.get(key) == facts:
            return
        books.told[key] = facts
        told: dict[str, Any] = {"type": kind}
        told |= {"name": name} if name != key else {}
        told |= {"type_inferred": True} if inferred else {}
        told |= {"step_implied": True} if step_implied else {}
        metrics: dict[str, Any] = self.state.setdefault("metrics", {})
        if key in metrics or len(metrics) < _MAX_METRICS:
            self._retold = self._retold or metrics.get(key) != told
            metrics[key] = told
        elif not self.state.get("left_out"):
            self.state["left_out"] = self._retold = True


class _Books:
    """The key books of one run, over its state."""

    def __init__(self, state: dict[str, Any]) -> None:
        taken = {STEP}
        self.metrics = WandbKeys(state.setdefault("names", {}), taken)
        self.fields = WandbKeys(state.setdefault("fields", {}), taken)
        self.params = WandbKeys(state.setdefault("params", {}), set(), stripped="-")  # as wandb does
        self.told: dict[str, tuple[str, bool, bool]] = {}  # of this chunk

    def beside(self, key: str, metadata: Mapping[str, MetaValue]) -> Iterable[tuple[str, MetaValue]]:
        """Metadata as values of the point's row."""
        for name, value in metadata.items():
            # A key has no NUL: this pair is no other pair.
            yield self.fields.key(f"{name}\0{key}", f"{key}.meta/{name}"), _sayable(value)


def run_tags(tags: Mapping[str, str]) -> tuple[str, ...]:
    """A run's tags as W&B has them: words, of at most 64 characters: `name:value`, or the name of one that is only set."""
    named = {name: value for name, value in tags.items() if name not in FACTS}  # the config has those
    words = [name if value in ("", "true") else f"{name}:{value}" for name, value in named.items()]
    return tuple(
        dict.fromkeys(word if len(word) <= _MAX_TAG else marked(word, word, 8, _MAX_TAG) for word in words if word)
    )


def _told(state: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = dict(state["about"])
    for name, value in (
        ("metrics", state.get("metrics")),
        ("metrics_left_out", state.get("left_out")),
        ("tags", state.get("tags")),
        ("labels", state.get("labels")),
        ("dropped_points", state.get("dropped")),
        ("end_reason", state.get("reason")),
    ):
        if value:
            told[name] = _copied(value)
    return told


def _time(wall_time: float) -> float:
    """A wall time that is a date: of the years 1970 to 9999, 0 when it is not a number."""
    if math.isnan(wall_time):
        return 0.0
    return max(0.0, min(_LAST_TIME, wall_time))


def _clean(name: str, stripped: str) -> str:
    clean = "".join("_" if ord(letter) < 32 or ord(letter) == 127 else letter for letter in name)
    clean = clean.encode(errors="replace").decode().strip(stripped or None) if stripped else clean
    if not clean.strip():
        clean = "blank"
    if clean.startswith("_"):
        clean = f"user/{clean}"
    return clean if len(clean) <= _MAX_KEY else marked(clean, name, 8, _MAX_KEY)


def _sayable(value: MetaValue) -> MetaValue:
    """A value of metadata or of a param: JSON has no NaN, and W&B no integer of more than 64 bits."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        return str(value)
    return value if not isinstance(value, str) or len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 1] + "…"


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, list) else value
