"""Scripts that use tracelet, as processes of their own, and what of them is in the collector's log. They go to no tracker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tracelet_collector.home import log_path
from tracelet_collector.log.schema import open_reader
from tracelet_collector.status import read_offline

from tests.support.processes import BUSY, stop_collector, until
from tracelet.core.metrics import Metric, Record
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import SpoolDirectory
from tracelet.transport import local

R = TypeVar("R")

_WAITING = re.compile(r"tracelet: no collector takes records now \(.+\); they are kept in \S+ and sent when one does\n")
# Before each script. `tell` hands something to the test; without targets no worker starts, which takes seconds.
PRELUDE = """
import json, os, signal, sys, threading, time
import tracelet
from tracelet.core import targets
targets.resolve = lambda *a, **k: ()
def tell(said):
    with open(os.environ["TOLD"] + ".new", "w") as file:
        json.dump(said, file)
    os.rename(os.environ["TOLD"] + ".new", os.environ["TOLD"])
"""
# Before a script whose runs are to stay undelivered: their workers end before they have imported the tracker's SDK.
NO_WORKER = """
import dataclasses
from tracelet.core import targets
found = targets.resolve
targets.resolve = lambda *a, **k: tuple(dataclasses.replace(each, interpreter="/bin/false") for each in found(*a, **k))
"""


@dataclass(frozen=True)
class Done:
    """How a script ended.

    Attributes:
        code: exit code.
        err: stderr.
        told: what it handed over by `tell`, if anything.
    """

    code: int
    err: str
    told: Any


def but_for_waiting(said: str) -> str:
    """What was said on stderr, without the one line that says that no collector takes records now, and that they are kept.

    For scripts that start a collector, and above all for those whose collector is killed: where the machine is busy, the next
    one may need longer than the sender's patience, and the line is right.
    """
    lines = said.splitlines(keepends=True)
    waiting = [line for line in lines if _WAITING.fullmatch(line)]
    assert len(waiting) <= 1, said
    return "".join(line for line in lines if line not in waiting)


class Script:
    """A running script.

    Args:
        home: TRACELET_HOME.
        folder: its working directory.
        text: the script, behind `PRELUDE`.
        environment: added to the test's own; None removes a variable.
        flags: of the interpreter.
    """

    def __init__(
        self, home: Path, folder: Path, text: str, environment: Mapping[str, str | None], flags: tuple[str, ...] = ()
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        path = self._folder / "script.py"
        path.write_text(PRELUDE + text)
        self._told = self._folder / "told.json"
        changes = {"TRACELET_HOME": str(home), "TOLD": str(self._told), "PYTHONFAULTHANDLER": "1", **environment}
        self._out, self._err = (self._folder / "stdout").open("wb"), (self._folder / "stderr").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(path)],
            cwd=folder,
            env={name: value for name, value in {**os.environ, **changes}.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )

    @property
    def err(self) -> str:
        """Its stderr so far."""
        return (self._folder / "stderr").read_text()

    @property
    def told(self) -> Any:
        """What it handed over last; None for nothing yet."""
        return json.loads(self._told.read_text()) if self._told.exists() else None

    def until_told(self, seconds: float = 30.0) -> Any:
        """Wait until it has handed something over."""
        until(lambda: self._told.exists() or self.process.poll() is not None, seconds, "the script tells")
        assert self._told.exists(), self.err
        return self.told

    def finish(self, seconds: float = 60.0) -> Done:
        """Wait for its end. Nothing may have come to stdout. One that does not end says where its threads are."""
        try:
            code = self.process.wait(seconds * BUSY)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(60)
            raise AssertionError(self.err) from None
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(60)
            self._out.close()
            self._err.close()
        assert (self._folder / "stdout").read_text() == ""
        return Done(code, self.err, self.told)


class Client:
    """A home, scripts that use it, and its collector's log.

    Attributes:
        home: TRACELET_HOME.
        folder: working directory of the scripts.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.folder = folder

    def start(self, text: str, *flags: str, **environment: str | None) -> Script:
        """Start a script."""
        return Script(self.home, self.folder, text, environment, flags)

    def run(self, text: str, *flags: str, seconds: float = 60.0, **environment: str | None) -> Done:
        """Run a script to its end."""
        return self.start(text, *flags, **environment).finish(seconds)

    def state(self, name: str) -> wire.RunState | None:
        """The newest run with a name, as the log has it."""
        found = [run for run in read_offline(self.home).runs if run.name == name]
        return found[-1] if found else None

    def until_ended(self, name: str, seconds: float = 30.0) -> wire.RunState:
        """Wait until a run has ended, and no spool of it is left."""

        def ended() -> wire.RunState | None:
            state = self.state(name)
            return state if state is not None and state.ended and not self.spools(state.run_id) else None

        state = until(ended, seconds, f"the end of {name}")
        assert state is not None
        return state

    def status(self, name: str) -> str:
        """How a run ended; waits for that."""
        return pb.RunStatus.Name(self.until_ended(name).status).removeprefix("RUN_STATUS_").lower()

    def status_now(self, name: str) -> str:
        """How a run stands."""
        state = self.state(name)
        return pb.RunStatus.Name(state.status).removeprefix("RUN_STATUS_").lower() if state is not None else ""

    def spools(self, run_id: str) -> list[SpoolDirectory]:
        """Spools of a run that are in the home."""
        return [spool for spool in SpoolDirectory.under(self.home) if spool.path.parent.name == run_id]

    def records(self, name: str, kind: type[R]) -> list[R]:
        """What the log has of the newest run with a name, of a kind, in the log's order."""
        state = self.state(name)
        return [record for record in self._records(state.run_id) if isinstance(record, kind)] if state else []

    def points(self, name: str, metric: str) -> list[tuple[int, float]]:
        """Steps and values of a metric."""
        return [(point.step, point.value) for point in self.records(name, Metric) if point.name == metric]

    def _records(self, run_id: str) -> Iterator[Record]:
        names: dict[int, dict[int, pb.TagDef]] = {}
        with closing(open_reader(log_path(self.home))) as db:
            rows = db.execute(
                "SELECT stream, payload FROM batches JOIN runs USING (run) WHERE run_id = ? ORDER BY lsn", (run_id,)
            )
            for stream, payload in rows.fetchall():
                for _, record in codec.decode(pb.Batch.FromString(payload), names.setdefault(stream, {})):
                    yield record


@contextmanager
def client() -> Iterator[Client]:
    """A home for the tests of a module; one collector serves them all.

    It is there from the start: a script waits a few seconds for one that it has to start, and says so when those are over,
    which is right on a machine that is busy, and not what these tests are about.
    """
    home, folder = Path(tempfile.mkdtemp(prefix="tlt-")), Path(tempfile.mkdtemp(prefix="tlt-"))
    local.ensure(home, 60.0, local.Starting(3600.0))
    try:
        yield Client(home, folder)
    finally:
        stop_collector(home)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
