"""For tests of code that logs: what it logged, without a collector, a tracker, a thread or a file that stays.

    import tracelet.testing

    def test_training():
        with tracelet.testing.capture() as cap:
            train(epochs=3)
        assert [point.step for point in cap.points("train_loss")] == [0, 1, 2]

As a fixture of pytest:

    @pytest.fixture
    def cap():
        with tracelet.testing.capture() as captured:
            yield captured

Everything runs as it would for real, up to the spool: SummaryWriters are intercepted, `start_logging` starts runs, labels and
processors are applied. Code that starts no run is captured too. The backends that it names need not be installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tracelet import exits, lifetime
from tracelet.core import active, captive, processes
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import Artifact, BlobRef, Media, Metric, Params, Record, RunStatus, Tags
from tracelet.core.options import Options
from tracelet.core.plan import RunPlan, new_run_id
from tracelet.guard import guard
from tracelet.spoolfile import SpoolDirectory, SpoolReader

__all__ = ["Captured", "capture"]

_T = TypeVar("_T")
_KEPT = ("TRACELET_DEBUG", "TRACELET_RAISE_INTERNAL")  # of the variables: what shows faults of ours


def capture() -> Captured:
    """Capture what is logged inside a `with` block, by all threads of this process, and by processes that it forks or spawns.

    The block has a run of its own, until the code inside starts one. Runs outside are not touched: they go on behind it.
    Inside, variables that begin with `TRACELET_` do not count; other programs that are started there record nothing. What was
    captured can be read inside the block and after it.
    """
    return Captured()


class Captured:
    """What was logged. Made by `capture`."""

    def __init__(self) -> None:
        self._captor: captive.Captor | None = None
        self._found: list[tuple[str, Record]] = []
        self._begun_with: dict[str, dict[str, str]] = {}
        self._undo: list[Callable[[], Any]] = []
        self._pid = 0

    @property
    def runs(self) -> list[Experiment]:
        """The runs that were started by `start_logging`, in order. Before those that a library begins comes the block's own."""
        return list(self._captor.runs) if self._captor is not None else []

    @property
    def names(self) -> list[str]:
        """Names of the metrics, each once, in the order of their first points."""
        return list(dict.fromkeys(point.name for point in self.points()))

    def points(self, name: str | None = None, run: Experiment | None = None) -> list[Metric]:
        """Points, in the order in which they were logged; those of other processes after them.

        Args:
            name: of the metric; by default of all.
            run: of that run alone.
        """
        return [point for point in self._all(Metric, run) if name in (None, point.name)]

    def media(self, name: str | None = None, run: Experiment | None = None) -> list[Media]:
        """Images, histograms, texts, …; `content` is the bytes."""
        return [media for media in self._all(Media, run) if name in (None, media.name)]

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Files by path, as they were logged last; `content` is the bytes."""
        return {artifact.path: artifact for artifact in self._all(Artifact)}

    @property
    def params(self) -> dict[str, Any]:
        """Parameters, as they were logged last."""
        return {name: value for params in self._all(Params) for name, value in params.values.items()}

    @property
    def tags(self) -> dict[str, str]:
        """Tags: those that runs were started with, and those that were set."""
        records = self._records()
        tags = {name: value for given in self._begun_with.values() for name, value in given.items()}
        return tags | {n: v for _, record in records if isinstance(record, Tags) for n, v in record.values.items()}

    @property
    def status(self) -> RunStatus:
        """How the newest run stands; one that was not stopped ends with the block."""
        runs = self.runs or ([self._captor.stand_in] if self._captor and self._captor.stand_in else [])
        return runs[-1].status if runs else RunStatus.RUNNING

    # -- the block

    def __enter__(self) -> Captured:
        if self._captor is not None:
            raise RuntimeError("this capture has begun before: each block needs a capture() of its own")
        home = Path(tempfile.mkdtemp(prefix="tracelet-capture-"))
        self._captor = captor = captive.Captor(home)
        self._pid = os.getpid()
        self._undo.append(lambda: shutil.rmtree(home, ignore_errors=True))
        try:
            self._isolate(captor)
        except BaseException:
            self._put_back()
            raise
        return self

    def _isolate(self, captor: captive.Captor) -> None:
        environment = {name: value for name, value in os.environ.items() if name.startswith("TRACELET_")}
        given = processes.set_aside()
        self._undo.append(lambda: processes.put_back(given))
        self._undo.append(lambda: _restore(environment))
        for name in environment.keys() - set(_KEPT):
            del os.environ[name]
        os.environ["TRACELET_DISABLED"] = "1"  # for other programs
        outside = active.running()
        before = active.set_aside()
        self._undo.append(lambda: _resume(outside))
        self._undo.append(lambda: active.put_back(before))
        self._undo.append(captive.begin(captor))
        plan = RunPlan(new_run_id(), "captured", "default", (), captor.home, carried=False)
        captor.stand_in = Experiment(plan)
        lifetime.activate(captor.stand_in, replace(Options.load(), disabled=False))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: the folder and the environment are its parent's affair
        try:
            ends = (RunStatus.FINISHED, "") if error is None else exits.of_exception(error)
            for run in reversed(active.running()):
                lifetime.stop(run, *ends)
            self._found = self._read()
        finally:
            self._put_back()

    def _put_back(self) -> None:
        while self._undo:
            self._undo.pop()()

    # -- reading

    def _all(self, kind: type[_T], run: Experiment | None = None) -> list[_T]:
        return [record for of, record in self._records() if isinstance(record, kind) and (run is None or of == run.id)]

    def _records(self) -> list[tuple[str, Record]]:
        return self._read() if self._undo and os.getpid() == self._pid else self._found

    def _read(self) -> list[tuple[str, Record]]:
        assert self._captor is not None
        for run in [self._captor.stand_in, *self._captor.runs]:
            if run is not None:
                run.process()
        spools = []
        for directory in SpoolDirectory.under(self._captor.home):
            try:
                spools.append((directory.info(), directory))
            except FileNotFoundError:
                continue  # another process is making it
        found: list[tuple[str, Record]] = []
        for info, directory in sorted(spools, key=lambda spool: spool[0].epoch):
            run_id = str(info.run["run_id"])
            self._begun_with[run_id] = dict(info.run.get("tags", {}))
            found += [(run_id, _whole(record, directory)) for record in _decode(directory, info.epoch)]
        return found


def _decode(directory: SpoolDirectory, epoch: int) -> Iterator[Record]:
    from tracelet.proto import codec  # with protobuf: not for whoever only imports this
    from tracelet.proto.v1 import records_pb2 as pb

    names: dict[int, pb.TagDef] = {}
    items = (item for some in SpoolReader(directory, epoch).read() for item in some)
    for batch in codec.encode(items):
        for _, record in codec.decode(batch, names):
            yield record


def _whole(record: Record, directory: SpoolDirectory) -> Record:
    if isinstance(record, Media | Artifact) and isinstance(record.content, BlobRef):
        return replace(record, content=(directory.blobs / record.content.sha256).read_bytes())
    return record


def _restore(environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("TRACELET_") and name not in environment]:
        del os.environ[name]
    os.environ.update(environment)


def _resume(runs: Iterable[Experiment]) -> None:
    """Intercept again for runs outside; the end of the last run inside took the patches off."""
    for run in runs:
        exits.install()
        for framework in run._frameworks.values():
            if framework.tracking:
                with guard(f"intercepting {framework.identifier}"):
                    framework.start_tracking()
