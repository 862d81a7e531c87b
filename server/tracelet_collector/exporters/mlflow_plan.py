"""What a chunk's records come to in MLflow, without MLflow: keys, points, tags, params, and the state that remembers them.

The state of a run, as it is committed with the cursor:

    run        MLflow's id of the run
    link       where that is, for people
    names      metric name -> key
    fields     field and metric key (with a NUL between) -> key of the metric that carries a numeric field of metadata
    params     param name -> key
    tags       tag name -> key
    flags      key -> what its `tracelet.metric.<key>.…` tags say
    metadata   key -> {"fields": the metadata that is not numeric, "varies": names of fields that changed, "since": of the
               first point}
    rows       rows of metadata that no file has yet; rows_since is the time of the first, row_files counts the files
    about      a hash of what the run's plan said of it: parent, group, notes, tags
    parent     MLflow's id of the parent, when it was found
    images     the run has some
    tables     paths of those that MLflow's page is told of
    ended      it has ended, as far as is known
    labels     log_dir -> label
    dropped    points that were lost before they had a place in the log
    reason     the last end that was told had a reason
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tracelet.core.metrics import (
    INT64_MAX,
    INT64_MIN,
    Artifact,
    Gap,
    Media,
    MetaValue,
    Metric,
    MetricType,
    Params,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)
from tracelet_collector.exporters.artifact_paths import Owner
from tracelet_collector.exporters.base import Dead, Gone, Item, Memory, Run
from tracelet_collector.exporters.histograms import summary
from tracelet_collector.exporters.metadata import MetadataBook, fit, json_within
from tracelet_collector.exporters.mlflow_media import IMAGE_KINDS, PlannedFile
from tracelet_collector.exporters.names import KeyBook, memory_key, sanitise

__all__ = ["DBL_MAX", "MAX_KEY", "MAX_PARAM", "MAX_TAG", "Beside", "Plan", "PlannedParam", "PlannedPoint"]

MAX_KEY: Final = 250
MAX_TAG: Final = 5000  # 8000 in MLflow 3
MAX_PARAM: Final = 6000
# Where MLflow's own pages look for what a run was: our tag, theirs, and what it says; empty for the same.
_OWN_TAGS: Final[Mapping[str, Mapping[str, str]]] = {
    "git.branch": {"mlflow.source.git.branch": ""},
    "git.commit": {"mlflow.source.git.commit": ""},
    "git.repository": {"mlflow.source.git.repoURL": ""},
    "script": {"mlflow.source.name": "", "mlflow.source.type": "LOCAL"},
    "user.name": {"mlflow.user": ""},
}
DBL_MAX: Final = 1.7976931348623157e308

_METRIC_TAG: Final = "tracelet.metric."
_METRIC_LIMIT: Final = (
    200  # leaves room for the longest of `tracelet.metric.<key>.step_implied` and `<key>.meta/<field>`
)
_PARAM_LIMIT: Final = 220  # and for `tracelet.param.<key>.name`
_TAG_LIMIT: Final = 225
_MAX_TIME_MS: Final = 253_402_300_799_999  # the end of the year 9999


def _milliseconds(wall_time: float) -> int:
    """A wall time as MLflow takes it: whole milliseconds, of the years 1970 to 9999. What is not a number becomes 0."""
    if not 0 <= wall_time * 1000 <= _MAX_TIME_MS:
        return _MAX_TIME_MS if wall_time > 0 else 0
    return round(wall_time * 1000)


@dataclass(slots=True, eq=False)
class PlannedPoint:
    """A point on its way. `timestamp` (ms) is final only after `Plan.stamp`."""

    item: Item
    key: str
    value: float
    timestamp: int
    step: int
    rerouted: bool
    extras: Sequence[tuple[str, float]]  # numeric metadata: metrics beside it, at the same step and time


@dataclass(frozen=True, slots=True)
class Beside:
    """A number beside a histogram. It is no point: nobody counts it."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, slots=True)
class PlannedParam:
    """A value that a param was given."""

    key: str
    value: str


@dataclass(slots=True)
class Plan:
    """A chunk's records, translated.

    Attributes:
        state: the run's state after the chunk.
        points: in log order.
        beside: numbers of histograms.
        files: media and artifacts, in log order; their paths are final after `mlflow_media.place`.
        dead: points that no call is made for.
        tags: to be set; the last word for each.
        params: in log order.
        end: the last end that the chunk tells of.
    """

    state: dict[str, Any]
    points: list[PlannedPoint] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)
    files: list[PlannedFile] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    params: list[PlannedParam] = field(default_factory=list)
    end: RunEnd | None = None

    @classmethod
    def make(cls, items: Iterable[Item], state: Mapping[str, Any], run: Run) -> Plan:
        """Translate records.

        Args:
            items: in log order.
            state: the run's state, which stays untouched.
            run: whose they are.
        """
        plan = cls({key: _copied(value) for key, value in state.items()})
        books = _Books(plan.state, plan.tags)
        plan._tell_run(run, books)
        for item in items:
            record = item.record
            if isinstance(record, Metric):
                plan._add_point(item, record, books)
            elif isinstance(record, Media):
                plan._add_media(item, record, books, run)
            elif isinstance(record, Artifact):
                plan._add_artifact(item, record, books)
            elif isinstance(record, Params):
                for name, value in record.values.items():
                    plan._add_param(name, value, books)
            elif isinstance(record, Tags):
                plan._add_tags(record.values, books)
            elif isinstance(record, WriterSeen):
                plan._add_label(record)
            elif isinstance(record, Gap):
                plan.state["dropped"] = plan.state.get("dropped", 0) + record.dropped
                plan.tags["tracelet.dropped_points"] = str(plan.state["dropped"])
            elif isinstance(record, RunEnd):
                plan.end = record
                plan.state["ended"] = record.status is not RunStatus.RUNNING
                if record.reason or plan.state.get("reason"):  # an earlier end may have left one
                    plan.state["reason"] = bool(record.reason)
                    plan.tags["tracelet.end_reason"] = fit(record.reason, MAX_TAG)
        plan.files += [PlannedFile(None, content, path) for path, content in books.metadata.files()]
        return plan

    def _tell_run(self, run: Run, books: _Books) -> None:
        """What the run was begun with, or resumed with; later words of the script's come later."""
        said = [run.parent, run.group, run.notes, sorted(run.tags.items())]
        mark = hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
        if not any(said) or self.state.get("about") == mark:
            return
        self.state["about"] = mark
        if run.parent:
            self.tags["tracelet.parent"] = sanitise(run.parent, MAX_KEY)
        if run.group:
            self.tags["tracelet.group"] = fit(run.group, MAX_TAG)
        if run.notes:
            self.tags["mlflow.note.content"] = fit(run.notes, MAX_TAG)
        self._add_tags(run.tags, books)

    def _add_tags(self, values: Mapping[str, str], books: _Books) -> None:
        for name, text in values.items():
            # What begins like our own tags is the user's all the same, and must not stand for ours.
            wanted = f"user.{name}" if name.startswith("tracelet.") else name
            self.tags[books.tags.key(name, wanted)] = fit(text, MAX_TAG)
            for own, said in _OWN_TAGS.get(name, {}).items():
                if own not in self.state["tags"]:  # the user's own word for it
                    self.tags.setdefault(own, fit(said or text, MAX_TAG))

    def _add_media(self, item: Item, media: Media, books: _Books, run: Run) -> None:
        key = books.metrics.key(media.name)
        self._flag(key, _told_of(key, media.name, media.kind, media.step_implied))
        if media.metadata:
            books.metadata.tell(key, _point(media), media.metadata, media.metadata)
        timestamp = _milliseconds(media.wall_time)
        self.files.append(PlannedFile(item, media.content, key=key, timestamp=timestamp))
        if media.kind in IMAGE_KINDS and not self.state.get("images"):
            self.state["images"] = True
            self.tags["mlflow.loggedImages"] = "True"  # MLflow's page looks for images then
        if media.kind == MetricType.HISTOGRAM.value and INT64_MIN <= media.step <= INT64_MAX:
            self.beside += [
                Beside(books.fields.key(f"\0{name}\0{key}", f"{key}/{name}"), value, timestamp, media.step)
                for name, value in _summary(media, run).items()
            ]

    def _add_artifact(self, item: Item, artifact: Artifact, books: _Books) -> None:
        self.files.append(PlannedFile(item, artifact.content, owner=Owner.FILE))
        if artifact.metadata:
            books.metadata.add_row({"artifact": artifact.path, "wall_time": artifact.wall_time}, artifact.metadata)

    def stamp(self, memory: Memory) -> dict[int, int]:
        """Give every point a millisecond that no equal point has, in log order.

        MLflow keeps one of several points that agree in key, step, value and millisecond. A later one gets the first
        millisecond after the last one that an equal point was given.

        Args:
            memory: knows what equal points of earlier chunks were given.

        Returns:
            The entries to be added to `memory`.
        """
        run = self.state["run"]
        marks = {key: f"{run}\0{key}\0".encode() for key in {point.key for point in self.points}}
        identities = [_identity(marks[point.key], point.step, point.value) for point in self.points]
        last = memory.recall(list(dict.fromkeys(identities))) if identities else {}
        stamps: dict[int, int] = {}
        for point, identity in zip(self.points, identities, strict=True):
            before = stamps.get(identity)
            if before is None:
                before = last.get(identity, -1)
            if before >= point.timestamp:
                point.timestamp = before + 1
            stamps[identity] = point.timestamp
        return stamps

    def _add_point(self, item: Item, metric: Metric, books: _Books) -> None:
        if not INT64_MIN <= metric.step <= INT64_MAX:
            self.dead.append(Dead(item, f"the step {metric.step} is outside the 64-bit integers that MLflow stores"))
            return
        facts = metric.type, metric.type_inferred, metric.step_implied
        key, known = books.known.get(metric.name, ("", None))
        if known != facts:
            key = books.metrics.key(metric.name)
            books.known[metric.name] = key, facts
            self._flag(key, _told(metric, key))
        timestamp = _milliseconds(metric.wall_time)
        # Half a millisecond is rounding; more means that MLflow cannot hold this time.
        if retimed := not abs(timestamp - metric.wall_time * 1000) <= 1:
            self._flag(key, {"retimed": "some times are not of the years 1970 to 9999: stored as the nearest that is"})
        if infinite := math.isinf(metric.value):
            self._flag(key, {"infinite": "stored as ±1.7976931348623157e308"})
        extras = self._add_metadata(key, metric, books) if metric.metadata else ()
        self.points.append(
            PlannedPoint(item, key, metric.value, timestamp, metric.step, infinite or retimed, extras),
        )

    def _flag(self, key: str, told: Mapping[str, str]) -> None:
        flags: dict[str, dict[str, str]] = self.state.setdefault("flags", {})
        known = flags.get(key, {})
        # The absence of a flag needs no tag, unless the flag was set before.
        new = {suffix: value for suffix, value in told.items() if known.get(suffix, "false") != value}
        if new:
            flags[key] = {**known, **new}
            self.tags |= {f"{_METRIC_TAG}{key}.{suffix}": value for suffix, value in new.items()}

    def _add_metadata(self, key: str, metric: Metric, books: _Books) -> Sequence[tuple[str, float]]:
        """Numbers become metrics beside the point; everything else is said in a tag, and in rows when it varies.

        Returns:
            The metrics: key and value.
        """
        numbers, words = [], {}
        for name, value in metric.metadata.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                # A key has no NUL: this pair is no other pair.
                numbers.append((books.fields.key(f"{name}\0{key}", f"{key}.meta/{name}"), float(value)))
            else:
                words[name] = value
        if words:
            books.metadata.tell(key, _point(metric), metric.metadata, words)
        return numbers

    def _add_label(self, seen: WriterSeen) -> None:
        labels = self.state.setdefault("labels", {})
        labels[seen.log_dir] = seen.label
        self.tags["tracelet.labels"] = json_within(labels, MAX_TAG)

    def _add_param(self, name: str, value: MetaValue, books: _Books) -> None:
        key = books.params.key(name)
        if key != name:
            self.tags[f"tracelet.param.{key}.name"] = fit(name, MAX_TAG)
        self.params.append(PlannedParam(key, fit(str(value), MAX_PARAM)))


class _Books:
    """The key books of one run, over its state."""

    def __init__(self, state: dict[str, Any], tags: dict[str, str]) -> None:
        taken: set[str] = set()  # a field's metric must not fall on a metric of the user's
        self.metrics = KeyBook(state.setdefault("names", {}), _METRIC_LIMIT, taken)
        self.fields = KeyBook(state.setdefault("fields", {}), MAX_KEY, taken)
        self.params = KeyBook(state.setdefault("params", {}), _PARAM_LIMIT)
        self.tags = KeyBook(state.setdefault("tags", {}), _TAG_LIMIT)
        self.metadata = MetadataBook(state, tags, MAX_TAG)
        self.known: dict[str, tuple[str, tuple[str, bool, bool]]] = {}  # of this chunk: name to key and facts told


def _identity(mark: bytes, step: int, value: float) -> int:
    """A hash of what MLflow tells points apart by, except the time: its store knows neither -0.0 nor inf."""
    number = b"" if math.isnan(value) else struct.pack("<d", max(-DBL_MAX, min(DBL_MAX, value)) + 0.0)
    return memory_key(mark + struct.pack("<q", step) + number)


def _summary(media: Media, run: Run) -> Mapping[str, float]:
    try:
        return summary(run.read(media.content))
    except (Gone, OSError, ValueError):
        return {}  # the file is stored as it is, or becomes a dead letter


def _point(record: Metric | Media) -> dict[str, Any]:
    return {"name": record.name, "step": record.step, "wall_time": record.wall_time}


def _told_of(key: str, name: str, kind: str, step_implied: bool) -> dict[str, str]:
    """What the tags say of media."""
    told = {"step_implied": "true" if step_implied else "false", "type": fit(kind, MAX_TAG)}
    return told if key == name else {**told, "name": fit(name, MAX_TAG)}


def _told(metric: Metric, key: str) -> dict[str, str]:
    """What a metric's tags say of it."""
    told = {"step_implied": "true" if metric.step_implied else "false"}
    if key != metric.name:
        told["name"] = fit(metric.name, MAX_TAG)
    if metric.type != MetricType.SCALAR.value or not metric.type_inferred:
        told["type"] = fit(metric.type, MAX_TAG)
        told["type_inferred"] = "true" if metric.type_inferred else "false"
    return told


def _copied(value: Any) -> Any:
    """A copy of JSON-like state: containers anew, the rest shared."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, list) else value
