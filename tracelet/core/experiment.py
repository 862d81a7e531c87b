"""One run, as the process that trains sees it.

An `Experiment` turns calls into records and leaves them in its spool; a sender carries them to the collector. It knows no
framework and no tracker.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, cast

from tracelet.core.guard import Guard
from tracelet.core.labels import LabelTable, WriterPrefix
from tracelet.core.labelstore import LabelStore
from tracelet.core.metrics import MetaValue, MetricType, RunStatus
from tracelet.core.recorder import Recorder
from tracelet.spoolfile import SpoolInfo
from tracelet.transport.sender import Sender
from tracelet.transport.spool import SpoolWriter

__all__ = ["BackendTarget", "Experiment", "RunPlan", "StopReport", "new_run_id"]

_BEGINNING = Guard("beginning the run")
_FORKING = Guard("leaving the parent's spool after a fork")
_RECORDING = Guard("recording a metric")
_PARAMETERS = Guard("recording parameters")
_TAGS = Guard("recording tags")
_SEEN = Guard("recording a writer")


def new_run_id() -> str:
    """A run id: 32 hex digits; sorts by time of creation."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:20]}"


@dataclass(frozen=True, slots=True)
class BackendTarget:
    """A tracker to deliver to: the fields of the wire's BackendSpec."""

    kind: str
    target: str
    interpreter: str
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is to be.

    Attributes:
        run_id: its id.
        name: the run's name; not unique.
        project: MLflow experiment, W&B project, ClearML project.
        backends: where it is delivered.
        home: tracelet's home.
        owner: this process began the run, and ends it. Others are writers of it.
        prefix: the policy of writer labels: auto, always or never.
        spool_cap: bytes that a spool may take; None for the default.
        flush_interval: seconds between two looks of the sender.
        collector_idle: seconds after which a collector that is started here exits when it has nothing to do.
        stop_timeout: seconds that stopping waits for everything to be durable.
    """

    run_id: str
    name: str
    project: str
    backends: tuple[BackendTarget, ...]
    home: Path
    owner: bool = True
    prefix: WriterPrefix = "auto"
    spool_cap: int | None = None
    flush_interval: float = 0.1
    collector_idle: float = 60.0
    stop_timeout: float = 5.0
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a stop went: `durable` is whether everything is in the collector's log; if not, `kept_in` has the rest."""

    durable: bool
    kept_in: Path | None


class Experiment:
    """A run that records.

    Made by `tracelet.start_logging`. All `log_*` methods return at once, never raise for want of room, a collector or a
    tracker, and are safe in threads, signal handlers and forked children.

    Attributes:
        id: the run's id.
        name: the run's name.
        project: the run's project.
        on_leave: what the end of `with` calls, with the exception that leaves the block.
    """

    def __init__(self, plan: RunPlan, *, enabled: bool = True) -> None:
        self.plan = plan
        self.id = plan.run_id
        self.name = plan.name
        self.project = plan.project
        self.on_leave: Callable[[Experiment, BaseException | None], None] | None = None
        self._frameworks: dict[str, Any] = {}
        self._enabled = enabled
        self._stopped = False
        self._owner = plan.owner
        self._forked = False
        self._writer_id = uuid.uuid4().hex
        self._counters: dict[tuple[str, str], count[int]] = {}
        self._labels = LabelTable(plan.prefix, LabelStore(plan.home, plan.run_id) if enabled else None)
        self._told_labels: dict[str, None] = {}
        self._slot: dict[str, Recorder] = {}
        self._recorder: Recorder | None = None
        self._sender: Sender | None = None
        _after_fork.add(self)

    @property
    def active(self) -> bool:
        """It records: it is neither stopped nor disabled."""
        return self._enabled and not self._stopped

    @property
    def begun(self) -> bool:
        """This process has a stream of the run."""
        return self._recorder is not None

    @property
    def is_owner(self) -> bool:
        """This process began the run, and ends it."""
        return self._owner

    # -- what users call

    def log_metric(self, name: str, value: SupportsFloat, iteration: SupportsIndex | None = None) -> None:
        """Record a point.

        Args:
            name: the metric's name.
            value: a number: int, float, numpy scalar, or a tensor or array of one element.
            iteration: the step; 0 is step 0. Without one, points are counted per name, and flagged.
        """
        if self._stopped or not self._enabled:
            return
        with _RECORDING:
            step = None if iteration is None else as_step(iteration)
            (self._recorder or self._begin()).scalar("", str(name), as_float(value), step, None)

    def log_enhanced(
        self,
        name: str,
        value: SupportsFloat,
        metric_type: MetricType | str,
        iteration: SupportsIndex | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a point with its type and metadata.

        Args:
            name: the metric's name.
            value: a number.
            metric_type: a `MetricType`, its string, or a word of your own.
            iteration: the step.
            metadata: what belongs to the point: numbers, strings, booleans; anything else as its `str`.
        """
        if self._stopped or not self._enabled:
            return
        with _RECORDING:
            step = None if iteration is None else as_step(iteration)
            kind, meta = MetricType.word(metric_type), as_meta(metadata or {})
            (self._recorder or self._begin()).enhanced(str(name), as_float(value), kind, step, time.time(), meta)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters: constants of the run. One that changes later is kept as a tag where a tracker refuses it."""
        if self._stopped or not self._enabled:
            return
        with _PARAMETERS:
            (self._recorder or self._begin()).params(as_meta(params))

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str]) -> None:
        """Set tags: a mapping, or words (which get the value "true")."""
        if self._stopped or not self._enabled:
            return
        with _TAGS:
            pairs = tags.items() if isinstance(tags, Mapping) else ((tag, "true") for tag in tags)
            (self._recorder or self._begin()).tags({str(key): str(value) for key, value in pairs})

    # -- what frameworks call

    def record(self, tag: str, value: float, step: int | None, wall_time: float | None, log_dir: str = "") -> None:
        """Record an intercepted scalar.

        Args:
            tag: the user's tag.
            value: float64.
            step: the user's step; None when the call named none.
            wall_time: the user's, in seconds; None for now.
            log_dir: directory of the SummaryWriter; empty when there is none.
        """
        if self._stopped or not self._enabled:
            return
        (self._recorder or self._begin()).scalar(log_dir, tag, value, step, wall_time)

    def writer_seen(self, log_dir: str) -> None:
        """A SummaryWriter exists: it was constructed, or it wrote for the first time."""
        if self._stopped or not self._enabled:
            return
        with _SEEN:
            self._labels.seen(log_dir)

    # -- life

    def revise(self, plan: RunPlan) -> None:
        """Change the plan, as long as nothing is recorded."""
        if not self.begun:
            self.plan, self.name, self.project = plan, plan.name, plan.project

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.on_leave is not None:
            self.on_leave(self, error)

    def begin(self) -> None:
        """Open the stream now; without this, the first record does. Where it cannot be, the run is not recorded."""
        with _BEGINNING:
            self._begin()

    def stop(self, status: RunStatus, reason: str, deadline: float) -> StopReport:
        """Record the end (in the process that began the run) and wait until everything is durable.

        Args:
            status: how the run ended.
            reason: why, in words.
            deadline: seconds to wait.

        Returns:
            How it went. Whatever is not durable in time stays in the spool, and the next collector adopts it.
        """
        recorder, sender = self._recorder, self._sender
        if recorder is not None and self._owner and not self._stopped:
            recorder.end(status, reason)
        self._stopped = True
        if recorder is None:
            return StopReport(True, None)
        if sender is None:
            recorder.spool.close(remove=False)
            return StopReport(False, recorder.spool.directory.path)
        durable = sender.finish(deadline)
        recorder.spool.close(remove=durable)
        return StopReport(durable, None if durable else recorder.spool.directory.path)

    def progress(self) -> tuple[int, int]:
        """Positions recorded by this process, and how many of them are durable in the collector's log."""
        recorder, sender = self._recorder, self._sender
        return (recorder.spool.claimed if recorder else 0, sender.durable if sender else 0)

    def _begin(self) -> Recorder:
        try:
            return self._open()
        except OSError:
            self._enabled = False  # told once, by the guard that this passes
            raise

    def _open(self) -> Recorder:
        plan = self.plan
        # A fork's child has no sender: gRPC does not survive a fork. The collector reads its spool along.
        sends = not self._forked
        info = SpoolInfo(
            run={
                "run_id": plan.run_id,
                "name": self.name,
                "project": self.project,
                "created": plan.created,
                "backends": [
                    {"kind": b.kind, "target": b.target, "interpreter": b.interpreter, "credentials": b.credentials}
                    for b in plan.backends
                ],
            },
            writer={
                "writer_id": self._writer_id,
                "epoch": time.time_ns(),
                "owner": self._owner,
                "host": socket.gethostname(),
                "pid": os.getpid(),
            },
            sends=sends,
        )
        mine = Recorder(SpoolWriter(plan.home, info, plan.spool_cap), self._name_of, self._counters)
        winner = self._slot.setdefault("recorder", mine)
        if winner is not mine:
            mine.spool.close(remove=True)
            return winner
        if sends:
            self._sender = Sender(mine.spool, plan.home, plan.flush_interval, plan.collector_idle)
            self._sender.start()
        self._recorder = mine
        return mine

    def _name_of(self, log_dir: str, tag: str) -> str:
        name = self._labels.name(log_dir, tag)
        if log_dir and log_dir not in self._told_labels and (recorder := self._slot.get("recorder")) is not None:
            self._told_labels[log_dir] = None
            recorder.writer_seen(log_dir, self._labels.label(log_dir))
        return name

    def _leave_parent(self) -> None:
        recorder = self._recorder
        # First of all: nothing that the child does may reach the parent's mapping.
        self._slot, self._recorder, self._sender, self._told_labels = {}, None, None, {}
        self._forked = True
        self._owner = False
        if recorder is not None:
            recorder.spool.abandon_after_fork()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_find, (self.plan,))

    def __deepcopy__(self, memo: dict[int, Any]) -> Experiment:
        return self

    def __repr__(self) -> str:
        return f"<Experiment {self.name!r} id={self.id} project={self.project!r}>"


def as_float(value: Any) -> float:
    """The float64 of a number, a numpy scalar, or a tensor or array of one element.

    Raises:
        TypeError: it is none of these.
        ValueError: it has not exactly one element.
    """
    kind = type(value)
    if kind is float:
        return cast(float, value)
    if kind is int or kind is bool:
        return float(value)
    if hasattr(value, "item") and not isinstance(value, float):
        value = value.item()
    if isinstance(value, str | bytes):
        raise TypeError(f"a metric's value must be a number, not {type(value).__name__} {value!r:.40}")
    return float(value)


def as_step(step: Any) -> int:
    """The integer of a step: int, numpy integer, one-element tensor, or a whole float."""
    if type(step) is int:
        return step
    if hasattr(step, "item"):
        step = step.item()
    return int(step)


def as_meta(values: Mapping[str, Any]) -> dict[str, MetaValue]:
    """Metadata and parameters as they are stored: numbers, booleans and strings; anything else as its `str`."""
    meta: dict[str, MetaValue] = {}
    for key, value in values.items():
        if hasattr(value, "item") and getattr(value, "size", 2) == 1:
            value = value.item()
        meta[str(key)] = value if isinstance(value, str | bool | int | float) else str(value)
    return meta


def _find(plan: RunPlan) -> Experiment:
    """Unpickling: the run of this process with that id, else a stand-in that records nothing."""
    for run in list(_after_fork):
        if run.id == plan.run_id:
            return run
    return Experiment(plan, enabled=False)


_after_fork: weakref.WeakSet[Experiment] = weakref.WeakSet()


def _forget_parents_streams() -> None:
    for run in list(_after_fork):
        with _FORKING:
            run._leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_streams)
