"""One run, as the process that trains sees it.

An `Experiment` turns calls into records and leaves them in its spool; a sender carries them to the collector. It knows no
framework and no tracker.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from tracelet.core import attempts, identity
from tracelet.core.artifacts import ArtifactLog
from tracelet.core.labels import MEASURED, LabelTable
from tracelet.core.labelstore import LabelStore
from tracelet.core.links import Link, Links
from tracelet.core.logbook import Logbook
from tracelet.core.media import MediaLog
from tracelet.core.metrics import MetaValue, MetricType, RunStatus
from tracelet.core.occasions import Occasions
from tracelet.core.plan import BackendTarget, RunPlan, StopReport, new_run_id
from tracelet.core.processes import Birth, birth, grpc_is_lost, known, pickled_above, remember
from tracelet.core.processing import Processing, Processor
from tracelet.core.recorder import Recorder
from tracelet.guard import Guard, say
from tracelet.spoolfile import SpoolInfo
from tracelet.transport.keeper import Keeper
from tracelet.transport.sender import Sender
from tracelet.transport.spool import SpoolWriter

__all__ = ["BackendTarget", "Experiment", "RunPlan", "StopReport", "new_run_id"]

_BEGINNING = Guard("beginning the run")
_SEEN = Guard("recording a writer")


class Experiment(Logbook, MediaLog, ArtifactLog):
    """A run that records.

    Made by `tracelet.start_logging`. All `log_*` methods return at once, never raise for want of room, a collector or a
    tracker, and are safe in threads, signal handlers and forked children.

    Attributes:
        id: the run's id.
        name: the run's name.
        project: the run's project.
        on_leave: what the end of `with` calls, with the exception that leaves the block.
        began_during: what tells the exception that was being handled when it began; see `tracelet.exits`.
        occasions: when more may be told about it.
        goes_on: it was stopped, and its launcher is about to start it again.
    """

    def __init__(self, plan: RunPlan, *, enabled: bool = True) -> None:
        self.plan = plan
        self.id = plan.run_id
        self.name = plan.name
        self.project = plan.project
        self.on_leave: Callable[[Experiment, BaseException | None], None] | None = None
        self.began_during = 0
        self.occasions = Occasions(self)
        self._frameworks: dict[str, Any] = {}
        self._enabled = enabled
        self._stopped = False
        self._ended = False
        self._owner = plan.owner
        self._forked = False  # a writer in a child: it has a spool and nothing else, and the collector reads that along
        self._attempt, self.goes_on = 1, False
        self._again: attempts.Restarts | None = None
        self._stray = False  # a copy that came from elsewhere and records nothing
        self._writer_id = os.urandom(16).hex()
        self._counters: dict[tuple[str, str], count[int]] = {}
        store = LabelStore(plan.home, plan.run_id) if enabled else None
        self._labels = LabelTable(plan.prefix, store, plan.resumed)
        self._told_labels: dict[str, None] = {}
        self._links = Links()
        self._status = RunStatus.RUNNING
        self._processors: list[Processor] = []
        self._processing: Processing | None = None
        self._slot: dict[str, Recorder] = {}
        self._recorder: Recorder | None = None
        self._sender: Sender | Keeper | None = None
        remember(self)

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

    @property
    def attempt(self) -> int:
        """Which attempt of the run this is: 1 for who begins it, one more for each who goes on with it."""
        return self._attempt

    @property
    def status(self) -> RunStatus:
        """How the run stands, as far as this process is concerned: running until it is stopped, then how it ended."""
        return self._status

    @property
    def url(self) -> str | None:
        """The run's page; None as long as no tracker has said it, and for a store without pages. Never waits.

        In several trackers, that of the first one, as `backend` names them, that has said it.
        """
        return next((link.url for link in self.links().values() if link.url), None)

    def links(self, wait: float = 0.0) -> dict[str, Link]:
        """Where the run is in its trackers.

        They know when they have got something of it, seconds after the run has begun.

        Args:
            wait: seconds to wait until all of them have said it.

        Returns:
            By kind of tracker ("mlflow"), a `Link` with `target`, `run`, and `url` or the `command` that serves its pages. Only
            what is known.
        """
        if not self._enabled or not self.begun:
            return {}
        plan = self.plan
        return dict(self._links.wait(plan, float(wait)) if wait > 0 else self._links.known(plan))

    def _tell_not_recorded(self) -> None:
        if self._stray:
            say(
                f"run {self.name} ({self.id}) came here by a pickle of another process: what is logged to it is not "
                "recorded; start_logging starts a run of this process"
            )
        elif self._stopped and self._enabled:
            say(f"run {self.name} ({self.id}) is stopped: what is logged to it now is not recorded")

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

    def record_measured(
        self, name: str, value: float, kind: MetricType, step: int, metadata: Mapping[str, MetaValue]
    ) -> None:
        """Record a point that tracelet measured by itself. Its name is kept apart from those that the user's code writes."""
        if self._stopped or not self._enabled:
            return
        (self._recorder or self._begin()).enhanced(name, value, kind.value, step, time.time(), metadata, MEASURED)

    def writer_seen(self, log_dir: str) -> None:
        """A SummaryWriter exists: it was constructed, or it wrote for the first time."""
        if self._stopped or not self._enabled:
            return
        with _SEEN:
            self._labels.seen(log_dir)

    # -- what happens to points on their way out

    def add_processor(self, processor: Processor) -> None:
        """Have a function see every scalar point that is logged from now on, before it is sent.

        It gets a `Metric` and returns it, or another one in its place, or several, or None to drop the point; `tracelet.smooth`
        makes such functions. Several see a point one after the other. They run on tracelet's own thread, over the points of
        this process in the order in which they were logged, and what they add is not processed again. One that raises costs one
        line on stderr, and the point goes as it is.

        Points of a process that is killed before they were processed, and those of forked children, arrive as they were logged.

        Args:
            processor: the function.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(processor):
            raise TypeError(f"a processor is a function of a Metric, not {processor!r:.80}")
        self._processors.append(processor)
        if self._recorder is not None:
            self._process(self._recorder, [processor])

    def _process(self, recorder: Recorder, processors: list[Processor]) -> None:
        """Put processors between the stream and its sender."""
        if self._forked or (self.plan.carried and not recorder.spool.info.sends):
            say(
                "processors do not run in this process, which has no sender of its own: its points go as they are logged"
            )
            return
        processing = self._processing or Processing(recorder)
        for processor in processors:
            processing.add(processor)
        self._processing = processing
        if isinstance(self._sender, Sender):
            self._sender.stage = processing.ready

    def process(self) -> None:
        """Run the processors now over what is recorded: for runs that nobody carries."""
        if self._processing is not None:
            self._processing.catch_up(self.plan.stop_timeout)

    # -- life

    def revise(self, plan: RunPlan) -> None:
        """Change the plan, as long as nothing is recorded."""
        if self.begun:
            return
        if (plan.prefix, plan.run_id) != (self.plan.prefix, self.id):
            seen = self._labels.writers()
            self._labels = LabelTable(plan.prefix, LabelStore(plan.home, plan.run_id), plan.resumed)
            for log_dir in seen:
                self._labels.seen(log_dir)
        self.plan, self.id, self.name, self.project = plan, plan.run_id, plan.name, plan.project

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.on_leave is not None:
            self.on_leave(self, error)

    def begin(self) -> None:
        """Open the stream now; without this, the first record does. Where it cannot be, the run is not recorded."""
        with _BEGINNING:
            self._begin()

    def leave(self) -> None:
        """Another stream of this process goes on with the run: record no end."""
        self._ended = True

    def stop(self, status: RunStatus, reason: str, deadline: float) -> StopReport:
        """`end`, then `finish`."""
        self.end(status, reason)
        return self.finish(deadline)

    def end(self, status: RunStatus, reason: str) -> None:
        """Record nothing more but the end (that in the process that began the run), and have all of it sent at once.

        Args:
            status: how the run ended.
            reason: why, in words.
        """
        if not self._stopped:
            self.occasions.ending()
            self._finish_artifacts()
            self._stopped, self._status = True, status
            if status is RunStatus.FAILED and not self._owner:
                attempts.leave_reason(self.plan, reason)
        if (recorder := self._recorder) is None:
            return
        if self._processing is not None:
            self._processing.finish(self.plan.stop_timeout)
        if self._owner and not self._ended:
            self.goes_on = attempts.say_end(self.plan, recorder, self._again, self._attempt, status, reason)
            self._ended = True
        recorder.spool.seal()
        if self._sender is not None:
            self._sender.hurry()

    def finish(self, deadline: float) -> StopReport:
        """After `end`: wait until everything is durable.

        Args:
            deadline: seconds to wait.

        Returns:
            How it went. Whatever is not durable in time stays in the spool, and the next collector adopts it.
        """
        recorder, sender = self._recorder, self._sender
        if recorder is None:
            return StopReport(True)
        spool = recorder.spool
        if not self.plan.carried:
            spool.close(remove=False)
            return StopReport(True)
        durable = sender.finish(deadline) if sender is not None else False
        lost = spool.close(remove=durable, durable=sender.durable if sender is not None else 0)
        return StopReport(durable, None if durable else spool.directory.path, lost)

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
        # gRPC does not survive a fork: there the collector reads the spool along.
        sends = self.plan.carried and not self._forked and not grpc_is_lost()
        mine = Recorder(self._new_spool(sends), self._name_of, self._counters)
        winner = self._slot.setdefault("recorder", mine)
        if winner is not mine:
            mine.spool.close(remove=True)
            return winner
        if not self._forked and (self._owner or self.plan.resumed):
            self._attempt = attempts.begin(self.plan, mine)
        self._recorder = mine
        if self.plan.carried and not self._forked:
            self._carry(mine.spool)
        if self._processors:
            self._process(mine, list(self._processors))
        try:
            identity.claim(self.plan)
        except OSError as error:
            say(f"run {self.name} ({self.id}) cannot be found again by its id: {error}")
        self.occasions.begun()
        return mine

    def _carry(self, spool: SpoolWriter) -> None:
        plan = self.plan
        carrier: type[Sender] | type[Keeper] = Sender if spool.info.sends else Keeper
        # Known before it starts: an exception out of a signal handler must not leave a thread that nobody can stop.
        self._sender = carrier(spool, plan.home, plan.flush_interval, plan.starting)
        try:
            self._sender.start()
        except RuntimeError as error:  # too many threads, or the interpreter is about to exit
            say(f"{error}: records are kept in {spool.directory.path}, and taken from there when the run is stopped")
            # Needs no thread for that.
            self._sender = Keeper(spool, plan.home, plan.flush_interval, plan.starting)

    def _new_spool(self, sends: bool) -> SpoolWriter:
        plan = self.plan
        run = plan.run_spec()
        writer = {"writer_id": self._writer_id, "owner": self._owner, "host": socket.gethostname(), "pid": os.getpid()}
        self._again = attempts.restarts() if self._owner else None
        if self._again is not None:
            writer["restarts"] = self._again.said()
        # By the clock, but never the same twice: it may stand still (a test's) or jump back.
        for epoch in count(max(time.time_ns(), 1)):
            try:
                return SpoolWriter(plan.home, SpoolInfo(run, {**writer, "epoch": epoch}, sends), plan.spool_cap)
            except FileExistsError:
                continue
        raise AssertionError("unreachable")

    def _name_of(self, log_dir: str, tag: str) -> str:
        name = self._labels.name(log_dir, tag)
        unheard = log_dir not in self._told_labels and log_dir not in ("", MEASURED)
        if unheard and (recorder := self._slot.get("recorder")) is not None:
            self._told_labels[log_dir] = None
            recorder.writer_seen(log_dir, self._labels.label(log_dir))
        return f"{self.plan.rank_label}/{name}" if self.plan.rank_label else name

    def _leave_parent(self) -> None:
        recorder = self._recorder
        # First of all: nothing that the child does may reach the parent's mapping.
        self._slot, self._recorder, self._sender, self._told_labels = {}, None, None, {}
        self._processing = None
        self._forked = True
        self._owner = False
        self.occasions.forget()
        if recorder is not None:
            recorder.spool.abandon_after_fork()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_find, (self.plan, self.active, birth()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Experiment:
        return self

    def __repr__(self) -> str:
        return f"<Experiment {self.name!r} id={self.id} project={self.project!r}>"


def _find(plan: RunPlan, active: bool, pickler: Birth) -> Experiment:
    """Unpickling: this process's run with that id; else a writer of it, below its process; else a stand-in."""
    if (run := known(plan.run_id)) is not None:
        return run
    if not active:
        return Experiment(plan, enabled=False)
    joins = pickled_above(pickler)
    copy = Experiment(replace(plan, owner=False, resumed=False), enabled=joins)
    copy._forked, copy._stray = True, not joins
    return copy
