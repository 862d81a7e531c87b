r"""What a chunk's records come to in ClearML, without ClearML: events, files, changes, and the state that remembers them.

The state of a run, as it is committed with the cursor, beside what `clearml_online` and `clearml_offline` have in it:

    names      metric name (with `\0` and more: what is beside it) -> title and series
    again      title and series, joined -> the largest number of a value of one iteration
    facts      metric name -> what the configuration object `tracelet.metrics` says of it
    metadata, rows, rows_since, row_files: see `metadata`
    tags       name of a tag of the user's -> the word that stands for it
    about      a hash of what the run's plan said of it: parent, group, notes, tags
    run        what the configuration object `tracelet.run` says
    parent     ClearML's id of the parent, when it was found
    ended      it has ended, as far as is known
    link       where it is, for people
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    MetricType,
    Params,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)
from tracelet_collector.exporters.base import Dead, Item, Memory, Run
from tracelet_collector.exporters.clearml_events import SCALAR, Changes, Event, Job
from tracelet_collector.exporters.clearml_media import MediaDesk
from tracelet_collector.exporters.clearml_names import NOT_FINITE, SeriesBook, param_place, tag_word
from tracelet_collector.exporters.metadata import MetadataBook, fit, json_within
from tracelet_collector.exporters.names import memory_key

__all__ = ["FLT_MAX", "Plan", "milliseconds"]

FLT_MAX: Final = 3.4028234663852886e38  # ClearML's index holds 32 bits, and refuses what is beyond
_MAX_TIME_MS: Final = 253_402_300_799_999  # the end of the year 9999
_MAX_CONFIGURATION: Final = 500_000
_MAX_WORD: Final = 5000
_TYPES: Final[Mapping[type, str]] = {bool: "bool", int: "int", float: "float", str: "str"}


def milliseconds(wall_time: float) -> tuple[int, bool]:
    """A wall time in whole milliseconds of the years 1970 to 9999, and whether it is another one."""
    scaled = wall_time * 1000
    kept = round(scaled) if 0 <= scaled <= _MAX_TIME_MS else _MAX_TIME_MS if scaled > 0 else 0
    return kept, not abs(kept - scaled) <= 1


@dataclass(slots=True)
class Plan:
    """A chunk's records, translated.

    Attributes:
        state: the run's state after the chunk.
        scalars: in log order.
        jobs: media and artifacts, in log order.
        dead: points that no call is made for.
        changes: of the task.
        end: the last end that the chunk tells of.
        stamps: entries to be added to the run's memory.
    """

    state: dict[str, Any]
    scalars: list[Event] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    end: RunEnd | None = None
    stamps: dict[int, int] = field(default_factory=dict)

    @classmethod
    def make(cls, items: Sequence[Item], state: Mapping[str, Any], run: Run, memory: Memory) -> Plan:
        """Translate records.

        Args:
            items: in log order.
            state: the run's state, which stays untouched.
            run: whose they are.
            memory: knows how many values one series and iteration had.
        """
        plan = cls(_copied(state))
        desk = _Desk(plan, run, memory, items)
        plan._tell_run(run)
        for item in items:
            record = item.record
            if isinstance(record, Metric):
                desk.add_point(item, record)
            elif isinstance(record, Media):
                desk.add_media(item, record)
            elif isinstance(record, Artifact):
                desk.add_artifact(item, record)
            elif isinstance(record, Params):
                for name, value in record.values.items():
                    plan.changes.params[param_place(name)] = str(value), _TYPES.get(type(value), "str")
            elif isinstance(record, Tags):
                plan._add_tags(record.values)
            elif isinstance(record, WriterSeen):
                plan.state.setdefault("run", {}).setdefault("labels", {})[record.log_dir] = record.label
            elif isinstance(record, Gap):
                told = plan.state.setdefault("run", {})
                told["dropped_points"] = told.get("dropped_points", 0) + record.dropped
            elif isinstance(record, RunEnd):
                plan._add_end(record)
        desk.close()
        for name, words in (("tracelet.run", "run"), ("tracelet.metrics", "facts")):
            if plan.state.get(words) != state.get(words):
                plan.changes.configuration[name] = json_within(plan.state[words], _MAX_CONFIGURATION)
        return plan

    def _tell_run(self, run: Run) -> None:
        """What the run was begun with, or resumed with; later words of the script's come later."""
        said = [run.parent, run.group, run.notes, sorted(run.tags.items())]
        mark = hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
        if not any(said) or self.state.get("about") == mark:
            return
        self.state["about"] = mark
        if run.parent:
            self.changes.params["tracelet", "parent"] = run.parent, "str"
        if run.group:
            self._add_tags({"\0group": run.group})
        if run.notes:
            self.changes.comment = run.notes
        self._add_tags(run.tags)

    def _add_tags(self, values: Mapping[str, str]) -> None:
        known = self.state.setdefault("tags", {})
        for name, value in values.items():
            if name in FACTS:
                self.changes.params["tracelet", name] = value, "str"
                continue
            word = tag_word(name.removeprefix("\0"), value)
            if known.get(name, word) != word:
                self.changes.dropped_tags.append(known[name])
            known[name] = word
            self.changes.tags.append(word)
        kept = set(known.values())
        self.changes.tags = [tag for tag in dict.fromkeys(self.changes.tags) if tag in kept]
        self.changes.dropped_tags = [tag for tag in self.changes.dropped_tags if tag not in kept]

    def _add_end(self, end: RunEnd) -> None:
        self.end = end
        self.state["ended"] = end.status is not RunStatus.RUNNING


class _Desk:
    """Where the points of one chunk are worked on."""

    def __init__(self, plan: Plan, run: Run, memory: Memory, items: Iterable[Item]) -> None:
        self._plan = plan
        self._facts: dict[str, dict[str, Any]] = plan.state.setdefault("facts", {})
        self._book = SeriesBook(plan.state)
        self._told: dict[str, str] = {}
        self._metadata = MetadataBook(plan.state, self._told, _MAX_WORD)
        self._media = MediaDesk(run, memory, self._book, items)
        self._known: dict[str, tuple[str, bool, bool]] = {}  # of this chunk
        numbers = [
            _identity(label, item.record.step)
            for item in items
            if isinstance(item.record, Metric) and INT64_MIN <= item.record.step <= INT64_MAX
            for label, _, _, _ in _numbers(item.record)
        ]
        self._counted = dict(memory.recall(list(dict.fromkeys(numbers)))) if numbers else {}

    def add_point(self, item: Item, metric: Metric) -> None:
        if not INT64_MIN <= metric.step <= INT64_MAX:
            error = f"the step {metric.step} is outside the 64-bit integers that ClearML stores"
            self._plan.dead.append(Dead(item, error))
            return
        name = metric.name
        facts = metric.type, metric.type_inferred, metric.step_implied
        if self._known.get(name) != facts:
            self._known[name] = facts
            self._tell(name, _facts(metric))
        time, retimed = milliseconds(metric.wall_time)
        if retimed:
            self._tell(name, {"retimed": "some times are not of the years 1970 to 9999: stored as the nearest that is"})
        system = metric.type == MetricType.SYSTEM.value
        for at, (label, wanted, value, other) in enumerate(_numbers(metric)):
            title, series = self._book.place(label, wanted, system)
            numbered = self._book.numbered(title, series, number := self._count(label, metric.step))
            if at == 0:
                if other:
                    self._tell(name, {other: _OTHER_FORMS[other]})
                if (title, series) != _expected(name):
                    self._tell(name, {"series": f"{title} / {series}"} if not other else {})
                event = Event(item, SCALAR, title, numbered, metric.step, time, {"value": value})
                event.rerouted = bool(other) or retimed or number > 1
            else:
                event = Event(None, SCALAR, title, numbered, metric.step, time, {"value": value})
            self._plan.scalars.append(event)
        self._tell_metadata(metric, words_only=True)

    def add_media(self, item: Item, media: Media) -> None:
        told = {"type": fit(media.kind, _MAX_WORD)}
        self._tell(media.name, told | ({"step_implied": True} if media.step_implied else {}))
        self._tell_metadata(media, words_only=False)
        time, retimed = milliseconds(media.wall_time)
        self._media.add(item, media, time, retimed)

    def add_artifact(self, item: Item, artifact: Artifact) -> None:
        if artifact.metadata:
            self._metadata.add_row({"artifact": artifact.path, "wall_time": artifact.wall_time}, artifact.metadata)
        self._media.add_artifact(item, artifact, milliseconds(artifact.wall_time)[0])

    def close(self) -> None:
        """At the end of the chunk."""
        for path, content in self._metadata.files():
            self._media.add_rows(path, content)
        self._plan.jobs += self._media.jobs
        self._plan.dead += self._media.dead
        self._plan.stamps |= self._media.stamps
        for key in self._told:
            name = key.removeprefix("tracelet.metric.").removesuffix(".metadata")
            if entry := self._plan.state.get("metadata", {}).get(name):
                varies = {"varies": list(entry["varies"])} if entry["varies"] else {}
                self._tell(name, {"metadata": dict(entry["fields"]), **varies})

    def _count(self, label: str, step: int) -> int:
        """The how many-th value of this label and step it is."""
        identity = _identity(label, step)
        number = self._counted.get(identity, 0) + 1
        self._counted[identity] = self._plan.stamps[identity] = number
        return number

    def _tell(self, name: str, facts: Mapping[str, Any]) -> None:
        known = self._facts.get(name, {})
        # The absence of a flag need not be said, unless the flag was set before.
        new = {word: fact for word, fact in facts.items() if known.get(word, False) != fact}
        if new:
            self._facts[name] = {**known, **new}

    def _tell_metadata(self, record: Metric | Media, words_only: bool) -> None:
        words = {name: value for name, value in record.metadata.items() if not (words_only and _is_number(value))}
        if words:
            point = {"name": record.name, "step": record.step, "wall_time": record.wall_time}
            self._metadata.tell(record.name, point, record.metadata, words)


_OTHER_FORMS: Final[Mapping[str, str]] = {
    "nonfinite": f"in the series of the same name with {NOT_FINITE}: 0 is NaN, 1 is +inf, -1 is -inf",
    "beyond_float32": f"stored as ±{FLT_MAX!r}, the most that ClearML's index holds",
}


def _numbers(metric: Metric) -> Iterator[tuple[str, str, float, str]]:
    """The numbers of a point: its own, then its metadata's.

    Returns:
        For each: what the series is remembered under, what it should be called, the value to be stored, and the other form that
        it is in, or nothing.
    """
    yield _stored(metric.name, metric.name, metric.value)
    for field_name, value in metric.metadata.items():
        if _is_number(value):
            label = f"{metric.name}\0meta\0{field_name}"
            yield _stored(label, f"{metric.name}.meta/{field_name}", _as_float(value))


def _stored(label: str, wanted: str, value: float) -> tuple[str, str, float, str]:
    if abs(value) <= FLT_MAX:
        return label, wanted, value, ""
    if math.isfinite(value):
        return label, wanted, math.copysign(FLT_MAX, value), "beyond_float32"
    code = 0.0 if math.isnan(value) else math.copysign(1.0, value)
    return f"{label}\0nonfinite", wanted + NOT_FINITE, code, "nonfinite"


def _is_number(value: MetaValue) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _identity(label: str, step: int) -> int:
    raw = label.encode("utf-8", "surrogatepass") + struct.pack("<q", step)
    return memory_key(raw, b"scalar")


def _expected(name: str) -> tuple[str, str]:
    title, slash, series = name.partition("/")
    return (title, series) if slash else (name, name)


def _facts(metric: Metric) -> dict[str, Any]:
    """What is said of a metric."""
    told: dict[str, Any] = {"step_implied": metric.step_implied}
    if metric.type != MetricType.SCALAR.value or not metric.type_inferred:
        told |= {"type": fit(metric.type, _MAX_WORD), "type_inferred": metric.type_inferred}
    return told


def _copied(value: Any) -> Any:
    """A copy of JSON-like state: containers anew, the rest shared."""
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, list) else value
