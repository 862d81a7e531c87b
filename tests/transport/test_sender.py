"""The sender comes back from everything, loses and doubles nothing, keeps to the credit, and never runs hot."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients import Client, but_for_waiting, client
from tests.support.collector import CollectorProcess
from tests.support.processes import collector_pid, until, wait_gone
from tests.support.stage import Scene, Stage
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import RunStatus
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.spoolfile.slots import SLOTS_PER_SEGMENT
from tracelet.transport import sender as sender_module

POINTS = 5_000


@contextmanager
def running(home: Path) -> Iterator[Experiment]:
    """A run with a sender, whose steps are 0, 1, 2, … Its sender is gone afterwards."""
    run = Experiment(RunPlan(uuid.uuid4().hex, "run", "default", (), home, flush_interval=0.01))
    run.begin()
    try:
        yield run
    finally:
        run.stop(RunStatus.FINISHED, "", 0.0)
        gone(run)


def gone(run: Experiment) -> None:
    thread = getattr(run._sender, "_thread", None)
    until(lambda: thread is None or not thread.is_alive(), 30, "the sender ends")


def log(run: Experiment, first: int = 0, count: int = POINTS) -> None:
    for step in range(first, first + count):
        run.log_metric("a", step, step)


INTERRUPTED = {
    "refused: storage": [Scene(refuse=wire.Goodbye.CODE_STORAGE)] * 3,
    "refused: draining": [Scene(refuse=wire.Goodbye.CODE_DRAINING)] * 2,
    "busy": [Scene(batches=1, goodbye=wire.Goodbye.CODE_BUSY)] * 2,
    "out of order": [Scene(batches=2, goodbye=wire.Goodbye.CODE_OUT_OF_ORDER)] * 2,
    "storage in the middle": [Scene(batches=2, goodbye=wire.Goodbye.CODE_STORAGE)] * 2,
    "a fault": [Scene(batches=1, goodbye=wire.Goodbye.CODE_UNSPECIFIED)] * 2,
    "broken off": [Scene(batches=1)] * 3,
    "broken off, acks lost": [Scene(batches=2, acks=False)] * 3,
}


@pytest.mark.parametrize("trouble", INTERRUPTED)
def test_it_comes_back_and_each_point_arrives_once(home: Path, capfd: pytest.CaptureFixture[str], trouble: str) -> None:
    with Stage(home, *INTERRUPTED[trouble], Scene()) as stage, running(home) as run:
        log(run)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert stage.steps == list(range(POINTS))
        assert stage.lost == 0
        assert len(stage.hellos) == len(INTERRUPTED[trouble]) + 1
        assert len({(hello.writer.writer_id, hello.writer.epoch) for hello in stage.hellos}) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("credit", [1, 7, 1500])
def test_it_keeps_to_the_credit(home: Path, credit: int) -> None:
    points = 300 if credit == 1 else POINTS
    with Stage(home, Scene(credit=credit)) as stage, running(home) as run:
        log(run, count=points)
        assert run.stop(RunStatus.FINISHED, "", 60.0).durable
        assert stage.steps == list(range(points))
        assert stage.most_under_way <= credit


def test_without_acks_it_sends_no_more_than_the_credit(home: Path) -> None:
    with Stage(home, Scene(credit=100, acks=False)) as stage, running(home) as run:
        log(run)
        until(lambda: stage.next_seq == 100)
        assert not run.stop(RunStatus.FINISHED, "", 0.3).durable
        gone(run)
        assert (stage.next_seq, stage.most_under_way) == (100, 100)


@pytest.mark.parametrize("code", [wire.Goodbye.CODE_STORAGE, wire.Goodbye.CODE_VERSION, wire.Goodbye.CODE_MALFORMED])
def test_it_does_not_hammer_at_a_collector_that_refuses(
    home: Path, capfd: pytest.CaptureFixture[str], code: wire.Goodbye.Code.ValueType
) -> None:
    with Stage(home, Scene(refuse=code)) as stage, running(home) as run:
        log(run, count=10)
        until(lambda: len(stage.hellos) >= 1)
        time.sleep(1.0)  # the time in which it is counted
        assert len(stage.hellos) <= (8 if code == wire.Goodbye.CODE_STORAGE else 1)
        assert not run.stop(RunStatus.FINISHED, "", 0.5).durable
    assert capfd.readouterr().err.count("\n") == (0 if code == wire.Goodbye.CODE_STORAGE else 1)


def test_a_final_refusal_is_not_waited_for(home: Path) -> None:
    with Stage(home, Scene(refuse=wire.Goodbye.CODE_VERSION)), running(home) as run:
        log(run, count=10)
        assert not run.stop(RunStatus.FINISHED, "", 3600.0).durable


@pytest.mark.parametrize("scene", [Scene(silent=True), Scene(acks=False)], ids=["no welcome", "no acks"])
def test_a_collector_that_says_nothing_is_waited_for_only_so_long(
    home: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    monkeypatch.setattr(sender_module, "_WELCOME_DEADLINE", 0.2)
    with Stage(home, scene) as stage, running(home) as run:
        log(run, count=10)
        until(lambda: len(stage.hellos) >= (2 if scene.silent else 1))
        assert not run.stop(RunStatus.FINISHED, "", 0.1).durable


def test_a_collector_whose_log_was_removed_hears_what_is_gone(home: Path) -> None:
    """Acked, released, and forgotten: the writer has it no more, and says so."""
    with Stage(home, Scene(), Scene(forget=True)) as stage, running(home) as run:
        log(run, count=1)
        spool = run._slot["recorder"].spool
        for step in range(1, SLOTS_PER_SEGMENT + 10):
            spool.put(1, step, float(step), 1.0)
        until(lambda: len(spool.directory.segments()) == 1 and run.progress()[0] == run.progress()[1], 60)
        position = spool.claimed
        stage.cut()
        until(lambda: len(stage.hellos) == 2, 30)
        log(run, position, 5)
        assert run.stop(RunStatus.FINISHED, "", 60.0).durable
        assert stage.lost == SLOTS_PER_SEGMENT
        assert stage.steps[-5:] == list(range(position, position + 5))
        assert stage.steps == sorted(set(stage.steps))


def test_trouble_is_told_once_and_forgotten_when_it_is_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sender_module, "_DEGRADED_AFTER", 0.2)
    refused = Scene(refuse=wire.Goodbye.CODE_STORAGE)
    with Stage(home, *[refused] * 6, Scene()) as stage, running(home) as run:
        log(run, count=10)
        sender = run._sender
        until(lambda: sender is not None and "not now" in getattr(sender, "last_error", ""))
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert len(stage.hellos) == 7
        assert getattr(sender, "last_error", None) == ""
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "no collector takes records now (not now); they are kept in" in said


def test_hello_says_who_comes(home: Path) -> None:
    with Stage(home) as stage, running(home) as run:
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        (hello,) = stage.hellos
    assert (hello.wire.major, hello.wire.minor) == (codec.WIRE_MAJOR, codec.WIRE_MINOR)
    assert (hello.run.run_id, hello.run.name, hello.writer.pid, hello.writer.owner) == (
        run.id,
        "run",
        os.getpid(),
        True,
    )


# -- with a real collector


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


LOGGING = """
run = tracelet.start_logging(exp_name=NAME)
for step in range(2000):
    run.log_metric("a", step, step)
    if step % 500 == 0: time.sleep(0.05)
tell(1)
while not os.path.exists(GO): time.sleep(0.01)
tracelet.stop_logging()
"""
ALL = [(step, float(step)) for step in range(2000)]


def test_a_stopped_collector_holds_nobody_up_and_adopts_when_it_goes_on(shared: Client, tmp_path: Path) -> None:
    """SIGSTOP: the script ends after its timeout, in one line, with its exit code. Then everything arrives, once."""
    go = tmp_path / "go"
    names = "NAME, GO = 'frozen', " + repr(str(go))
    script = shared.start(names + LOGGING + "sys.exit(7)", TRACELET_STOP_TIMEOUT="0.5")
    script.until_told()
    pid = until(lambda: collector_pid(shared.home), what="a collector")
    os.kill(pid, signal.SIGSTOP)
    try:
        go.touch()
        done = script.finish()
        assert done.code == 7
        assert done.err.count("\n") == 1
        assert "kept in" in done.err
    finally:
        os.kill(pid, signal.SIGCONT)
    assert shared.status("frozen") == "finished"  # it was stopped before sys.exit
    assert shared.points("frozen", "a") == ALL


def test_a_collector_that_is_killed_in_between(shared: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = shared.start(f"NAME, GO = 'killed', {str(go)!r}" + LOGGING)
    script.until_told()
    pid = until(lambda: collector_pid(shared.home), what="a collector")
    os.kill(pid, signal.SIGKILL)
    assert wait_gone(pid, 10)
    go.touch()
    assert (script.finish().code, but_for_waiting(script.err)) == (0, "")
    assert shared.points("killed", "a") == ALL
    assert shared.status("killed") == "finished"


def test_a_collector_that_comes_late(home: Path, tmp_path: Path) -> None:
    """None could start for a while; when one can, the running script's points come by themselves."""
    (home / "log").write_text("in the way")
    late = Client(home, tmp_path)
    go = tmp_path / "go"
    script = late.start(
        f"from tracelet.transport import sender; sender._START_DEADLINE = 0.5; NAME, GO = 'late', {str(go)!r}" + LOGGING
    )
    script.until_told()
    until(lambda: (home / "collector.err").exists() and (home / "collector.err").stat().st_size, 20)
    (home / "log").unlink()
    until(lambda: late.points("late", "a") == ALL, 30)
    go.touch()
    assert (script.finish().code, but_for_waiting(script.err)) == (0, "")
    assert late.status("late") == "finished"


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_home_that_is_deleted_under_a_running_script(home: Path, tmp_path: Path, comes_back: bool) -> None:
    """What is in the mapping still goes to a new collector; where none can be, what is lost is counted."""
    go, gone = tmp_path / "go", Client(home, tmp_path)
    script = gone.start(
        f"NAME, GO = 'deleted', {str(go)!r}" + LOGGING, TRACELET_STOP_TIMEOUT="20" if comes_back else "0.5"
    )
    script.until_told()
    until(lambda: gone.points("deleted", "a") == ALL, 30)
    pid = until(lambda: collector_pid(home))
    if comes_back:
        shutil.rmtree(home)
    else:
        home.rename(tmp_path / "away")
        home.write_text("in the way")
    assert wait_gone(pid, 15)
    go.touch()
    done = script.finish()
    assert done.code == 0
    if comes_back:
        assert but_for_waiting(done.err) == ""
        assert gone.status("deleted") == "finished"
        assert gone.points("deleted", "a") == ALL
    else:
        assert re.search(r"\d+ records of run deleted are lost", done.err)
        home.unlink()


OTHER_WIRE = (
    "-c",
    "import sys; from tracelet.proto import codec; codec.WIRE_MAJOR, codec.WIRE_MINOR = {}; "
    "from tracelet_collector.__main__ import main; sys.exit(main())",
)


def test_an_older_collector_makes_way_for_ours(home: Path, tmp_path: Path) -> None:
    here = Client(home, tmp_path)
    program = (OTHER_WIRE[0], OTHER_WIRE[1].format("0, 9"))
    with CollectorProcess(home, program=program) as old:
        done = here.run("run = tracelet.start_logging(exp_name='new')\nfor s in range(100): run.log_metric('a', s, s)")
        assert (done.code, but_for_waiting(done.err)) == (0, "")
        assert old.process.wait(60) == 0
    assert here.status("new") == "finished"
    assert here.points("new", "a") == [(s, float(s)) for s in range(100)]
    assert collector_pid(home) not in (None, old.pid)


def test_a_newer_collector_says_what_to_upgrade(tmp_path: Path) -> None:
    """It refuses, and stays. The points wait in the spool until their writer is gone, and are then adopted."""
    home = tmp_path / "h"
    here = Client(home, tmp_path)
    program = (OTHER_WIRE[0], OTHER_WIRE[1].format("2, 0"))
    with CollectorProcess(home, program=program) as new:
        done = here.run("run = tracelet.start_logging(exp_name='old')\nrun.log_metric('a', 1, 1)\ntime.sleep(0.5)")
        assert done.code == 0
        assert "upgrade the training process's side: pip install -U tracelet" in done.err
        assert done.err.count("\n") == 2  # that, and where the points are
        assert here.status("old") == "finished"
        assert here.points("old", "a") == [(1, 1.0)]
        assert new.process.poll() is None


def test_no_thread_of_ours_is_left() -> None:
    stays = "tracelet-reading"  # one for all runs, where one has read from a device
    until(lambda: {t.name for t in threading.enumerate() if t.name.startswith("tracelet-")} <= {stays})
