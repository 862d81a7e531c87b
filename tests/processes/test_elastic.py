"""Workers that a launcher starts again, by torchrun and by a quicker one: one run, that runs until the last attempt ends."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from tracelet_collector.status import read_offline

from tests.processes.test_torch import Ranks
from tests.support.clients import PRELUDE, Client, Script
from tests.support.commands import run, tracelet
from tests.support.processes import collector_pid, until
from tests.support.spine import Spine
from tracelet.core.metrics import RunEnd, RunStatus, Tags
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.transport import local
from tracelet.transport.wait import status

QUICK = ["--monitor-interval", "0.1", "--max-restarts", "2"]

# The first attempt ends by an exception, the second one by signal 9.
WITH_TRACELET = """
import os, signal, time
from tracelet.core import targets
targets.resolve = lambda *a, **k: ()
import tracelet
rank, restarts = (int(os.environ[name]) for name in ("RANK", "TORCHELASTIC_RESTART_COUNT"))
run = tracelet.start_logging(exp_name="elastic")
for step in range(5): run.log_metric("loss", restarts, 3 * restarts + step)
while not os.path.exists(f"go {restarts}"): time.sleep(0.01)
if rank == 0 and restarts == 0: raise ValueError("boom")
if rank == 0 and restarts == 1: os.kill(os.getpid(), signal.SIGKILL)
while restarts < 2: time.sleep(0.01)
"""
# It knows no tracelet, and its writer has another folder in each attempt.
UNMODIFIED = """
import os, sys
sys.modules["torch"] = None
from tensorboardX import SummaryWriter
restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
with SummaryWriter(f"runs/Nov28_09-48-4{restarts}_host") as writer:
    for step in range(5): writer.add_scalar("loss", restarts, 3 * restarts + step)
raise ValueError(f"boom {restarts}")
"""
LOSS = [(3 * restarts + step, float(restarts)) for restarts in range(3) for step in range(5)]


class Statuses:
    """Each status that the log had of a run, one after the other."""

    def __init__(self, home: Path, before: set[str]) -> None:
        self._home = home
        self._before = before
        self._over = threading.Event()
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Statuses:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for state in read_offline(self._home).runs:
                said = pb.RunStatus.Name(state.status).removeprefix("RUN_STATUS_").lower()
                if state.run_id not in self._before and self.seen[-1:] != [said]:
                    self.seen.append(said)


@pytest.fixture
def ranks(shared: Client, tmp_path: Path) -> Ranks:
    return Ranks(shared, tmp_path)


def test_torchrun(ranks: Ranks) -> None:
    """Two ranks, and a collector that is killed while a restart is pending."""
    words = ranks.words(WITH_TRACELET, *QUICK)
    environment = ranks.environment(TRACELET_RANKS="all")
    done = []
    train = threading.Thread(target=lambda: done.append(run(*words, cwd=ranks.folder, environment=environment)))
    with Statuses(ranks.client.home, ranks.before) as statuses:
        train.start()
        run_id = ranks.run_id()
        until(lambda: ranks.state(run_id).durable == 10, 60, "the first attempt's points")
        pid = collector_pid(ranks.client.home)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        (ranks.folder / "go 0").touch()
        until(lambda: ranks.state(run_id).durable == 20, 60, "the second attempt's points")
        (ranks.folder / "go 1").touch()
        (ranks.folder / "go 2").touch()
        train.join()
        assert done[0].returncode == 0, done[0].stderr
        assert ranks.points() == {"loss": LOSS, "rank1/loss": LOSS}
    assert statuses.seen == ["running", "finished"]
    records = list(ranks.client._records(run_id))
    said = [record.values for record in records if isinstance(record, Tags)]
    assert said == [{"tracelet.attempt": "2"}, {"tracelet.attempt": "3"}]
    ends = [(record.status, record.reason) for record in records if isinstance(record, RunEnd)]
    assert ends == [
        (RunStatus.RUNNING, "attempt 1 failed (ValueError: boom); a restart is pending"),
        (RunStatus.RUNNING, ""),
        (RunStatus.RUNNING, ""),
        (RunStatus.FINISHED, ""),
    ]


def test_torchrun_under_tracelet_run(shared_spine: Spine) -> None:
    """Until the restarts are used up: then the run has failed, by what ended the last attempt."""
    folder = shared_spine.folder
    (folder / "train.py").write_text(UNMODIFIED)
    words = ["run", "torchrun", "--nproc-per-node", "1", *QUICK, "train.py"]
    with Statuses(shared_spine.home, set(shared_spine.others)) as statuses:
        done = tracelet(*words, cwd=folder, environment={**shared_spine.environment, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 1
        shared_spine.settle()
    assert statuses.seen == ["running", "failed"]
    assert shared_spine.tracked() == ["FAILED"]
    assert sorted(shared_spine.stored("loss").elements()) == sorted(LOSS)
    client = Client(shared_spine.home, folder)
    end = client.records(shared_spine.run().name, RunEnd)[-1]
    assert (end.status, end.reason) == (RunStatus.FAILED, "rank 0: ValueError: boom 2")


# A launcher that restarts its only worker as torchrun does, and imports nothing for it.
LAUNCHER = f"""
import subprocess
def attempt(restarts, code="", before="", rank=0):
    said = dict(RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=2, TORCHELASTIC_MAX_RESTARTS=2)
    said["TORCHELASTIC_RESTART_COUNT"] = restarts
    variables = os.environ | {{name: str(value) for name, value in said.items()}}
    start = f"run = tracelet.start_logging(exp_name={{NAME!r}}); run.log_metric('loss', {{restarts}}, 1)"
    words = [sys.executable, "-c", "\\n".join([{PRELUDE!r}, before, start, code]), NAME]
    return subprocess.run(words, env=variables, stderr=subprocess.DEVNULL).returncode
def wait():
    tell(os.getpid())
    time.sleep(1000)
"""
KILL = "os.kill(os.getpid(), 9)"
FAIL = "raise ValueError('boom')"


def pending(client: Client, run_id: str) -> int:
    """Spools of a run that the collector has not read in yet."""
    return status(local.ensure(client.home, 60.0).address, run_id, 60.0).pending_spools


def launch(client: Client, name: str, text: str) -> Script:
    return client.start(f"NAME = {name!r}\n{LAUNCHER}\n{text}")


@pytest.mark.parametrize(
    ("code", "ends", "reason"),
    [
        (KILL, "killed", "the writer ended without saying so"),
        (FAIL, "failed", "ValueError: boom; it was not started again"),
    ],
    ids=["killed", "failed"],
)
def test_a_launcher_that_is_killed_while_a_restart_is_pending(
    shared: Client, code: str, ends: str, reason: str
) -> None:
    name = f"launcher killed, {ends}"
    script = launch(shared, name, f"attempt(0, {code!r})\nwait()")
    script.until_told()
    until(lambda: shared.points(name, "loss"), what="the attempt's point")
    state = shared.state(name)
    assert state is not None
    # The end is not only late: what is there is read in, and still waits.
    until(lambda: not pending(shared, state.run_id), what="everything is read in")
    assert shared.status_now(name) == "running"
    script.process.kill()
    assert shared.status(name) == ends
    assert shared.records(name, RunEnd)[-1].reason == reason
    assert shared.points(name, "loss") == [(1, 0.0)]


def test_two_attempts_at_once_and_a_clock_that_jumps_back(shared: Client) -> None:
    """The first worker is still there while the next one trains, an hour earlier by the clock; then it is killed."""
    name = "two attempts"
    first = "open('first', 'w')\nwhile not os.path.exists('second'): time.sleep(0.01)\nos.kill(os.getpid(), 9)"
    back = "at = time.time_ns() - 3600 * 10**9\ntime.time_ns = lambda: at"
    text = f"""
worker = threading.Thread(target=attempt, args=(0, {first!r}))
worker.start()
while not os.path.exists("first"): time.sleep(0.01)
attempt(1, "run.log_metric('loss', 1, 2)", {back!r})
open("second", "w")
worker.join()
"""
    assert launch(shared, name, text).finish().code == 0
    assert shared.status(name) == "finished"
    assert sorted(shared.points(name, "loss")) == [(1, 0.0), (1, 1.0), (2, 1.0)]


def test_a_rank_that_fails_is_why_the_run_has_failed(shared: Client) -> None:
    """It records nothing; the first rank is ended by a signal, as torchrun does. No restart is left."""
    name = "another rank"
    text = f"""
worker = threading.Thread(target=attempt, args=(2, "open('pid', 'w').write(str(os.getpid())); time.sleep(1000)"))
worker.start()
while not (os.path.exists("pid") and open("pid").read()): time.sleep(0.01)
attempt(2, {FAIL!r}, rank=1)
attempt(2, "raise ValueError('later')", rank=1)
os.kill(int(open("pid").read()), signal.SIGTERM)
worker.join()
"""
    assert launch(shared, name, text).finish().code == 0
    assert shared.status(name) == "failed"
    assert shared.records(name, RunEnd)[-1].reason == "rank 1: ValueError: boom"
    assert shared.points(name, "loss") == [(1, 2.0)]


def test_nested_runs_are_new_in_each_attempt(shared: Client) -> None:
    """Which of those before it is the same, an attempt that begins in the middle could not tell."""
    fold = "fold = tracelet.start_logging(exp_name='fold', nested=True); fold.log_metric('score', {}, 0)\n"
    text = f"attempt(0, {fold.format(0) + FAIL!r})\nattempt(1, {fold.format(1)!r})"
    assert launch(shared, "folds", text).finish().code == 0
    assert shared.status("folds") == "finished"
    outer = shared.state("folds")
    assert outer is not None
    folds = [run for run in read_offline(shared.home).runs if run.name == "fold"]
    assert len(folds) == 2
    until(lambda: not any(shared.spools(run.run_id) for run in folds), what="both ends")
    ends = [[end.status for end in shared._records(run.run_id) if isinstance(end, RunEnd)][-1] for run in folds]
    assert ends == [RunStatus.FAILED, RunStatus.FINISHED]
    assert not any(isinstance(record, Tags) for run in folds for record in shared._records(run.run_id))


def test_ranks_of_the_first_attempt_are_no_second_one(shared: Client) -> None:
    """With `TRACELET_RANKS=all`, when another rank is first to begin the run."""
    text = "os.environ['TRACELET_RANKS'] = 'all'\nattempt(0, rank=1)\nattempt(0)\nattempt(0)"
    assert launch(shared, "ranks", text).finish().code == 0
    assert shared.status("ranks") == "finished"
    assert [tags.values for tags in shared.records("ranks", Tags)] == [{"tracelet.attempt": "2"}]
    assert shared.points("ranks", "loss") == [(1, 0.0)] * 2
    assert shared.points("ranks", "rank1/loss") == [(1, 0.0)]


def test_what_a_worker_starts_is_not_started_again(shared: Client) -> None:
    """A program of a worker, with a run of its own, that fails while the launcher lives: nobody restarts that."""
    own = f"""
import subprocess
tracelet.stop_logging()
code = {PRELUDE!r} + "tracelet.start_logging(exp_name='its own', run_id='its own'); raise ValueError('boom')"
subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
"""
    script = launch(shared, "a worker", f"attempt(0, {own!r})\nwait()")
    script.until_told()
    assert shared.status("its own") == "failed"
    assert shared.status("a worker") == "finished"
    script.process.kill()
