"""`tracelet runs`, what `status` says of trouble, and both of a collector that cannot be found; real collectors, real logs."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tracelet_collector.home import HomeLock, log_path
from tracelet_collector.log.base import Append, Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import ending, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.commands import tracelet
from tests.support.processes import lives
from tests.support.spools import SlotWriter
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport import local

NAMES = ["first", "second", "third"]


@pytest.fixture
def logged(home: Path) -> dict[str, str]:
    """Runs in the log of a home without a collector; ids by name. The first is delivered, the last one goes on."""
    log = SqliteLog(log_path(home))
    ids = {}
    for number, name in enumerate(NAMES):
        run = run_spec("mlflow")
        run.name, run.created = name, 1.7e9 + 60 * number
        stream = log.open_stream(run, writer_spec()).stream
        batches = [opening(11), ending(11)] if name != "third" else [opening(11)]
        log.append([Append(stream, batch.SerializeToString()) for batch in batches])
        ids[name] = run.run_id
        if name == "first":
            log.commit(run.run_id, "mlflow", Progress(2, delivered=10))
    log.close()
    return ids


def document(folder: Path, *words: str) -> dict[str, Any]:
    done = tracelet("runs", "--json", *words, cwd=folder)
    assert (done.stderr, done.returncode) == ("", 0)
    return dict(json.loads(done.stdout))


def test_a_home_without_runs(home: Path, tmp_path: Path) -> None:
    assert document(tmp_path) == {"runs": [], "known": 0}
    assert tracelet("runs", cwd=tmp_path).stdout == "no runs\n"
    assert local.find(home) is None  # asking starts nothing


def test_runs_without_a_collector(logged: dict[str, str], tmp_path: Path) -> None:
    told = document(tmp_path)
    assert told["known"] == 3
    assert [run["name"] for run in told["runs"]] == NAMES[::-1]
    assert told["runs"][2] == {
        "run_id": logged["first"],
        "name": "first",
        "project": "tests",
        "status": "finished",
        "created": 1.7e9,
        "ended": 1.8e9,
        "points": 10,
        "backends": {"mlflow": {"state": "ok", "lag_points": 0, "settled": True}},
        "retired": False,
    }
    third = told["runs"][0]
    assert (third["status"], third["ended"], third["backends"]["mlflow"]["lag_points"]) == ("running", None, 10)
    assert [run["name"] for run in document(tmp_path, "--limit", "1")["runs"]] == ["third"]
    assert len(document(tmp_path, "--limit", "0")["runs"]) == 3


def test_runs_for_people(logged: dict[str, str], home: Path, tmp_path: Path) -> None:
    SlotWriter(home, run_spec(), writer_spec()).die()
    shown = tracelet("runs", "--limit", "2", cwd=tmp_path, environment={"COLUMNS": "120"}).stdout
    lines = shown.splitlines()
    assert lines[0].split() == ["id", "run", "project", "status", "created", "points", "backends"]
    assert lines[1].split()[:4] == [logged["third"][:12], "third", "tests", "running"]
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(1.7e9 + 120))
    assert created in lines[1]
    assert "mlflow: 10 to go" in lines[1]
    assert "first" not in shown
    assert lines[3:] == ["and 1 older; --limit 0 shows all", "what 1 processes left is not read in yet"]
    first = tracelet("runs", cwd=tmp_path, environment={"COLUMNS": "120"}).stdout.splitlines()[3]
    assert first.endswith("mlflow: delivered")


def test_names_are_whole_in_a_pipe(home: Path, tmp_path: Path) -> None:
    log = SqliteLog(log_path(home))
    run = run_spec("mlflow")
    run.name = "a name that is wider than eighty columns " * 3 + "ends"
    log.open_stream(run, writer_spec())
    log.close()
    for command in ("runs", "status"):
        assert run.name in tracelet(command, cwd=tmp_path, environment={"COLUMNS": ""}).stdout


def test_runs_of_a_running_collector(logged: dict[str, str], home: Path, tmp_path: Path) -> None:
    program = "import sys; from tracelet_collector.__main__ import serve; from tests.support.collector import Nowhere; "
    program += "from pathlib import Path; sys.exit(serve(Path(sys.argv[3]), 60.0, None, Nowhere))"
    with CollectorProcess(home, program=["-c", program]):
        told = document(tmp_path)
        assert [run["backends"]["mlflow"]["state"] for run in told["runs"]] == ["paused"] * 3
        shown = tracelet("status", cwd=tmp_path).stdout
        assert shown.count("nowhere") == 1  # what holds up three runs is said once
        assert "first, second, third: mlflow is paused: nowhere" in shown


def test_an_error_of_many_runs_is_said_once() -> None:
    from tracelet.commands.status import _errors, _names

    state = wire.BackendState(kind="mlflow", state="paused", last_error="a page of text")
    reply = wire.StatusReply(runs=[wire.RunState(name=f"r{number}", backends=[state]) for number in range(5)])
    reply.runs.add(name="other").backends.add(kind="mlflow", state="retrying", last_error="it is down")
    found = _errors(reply)
    assert list(found) == [("mlflow", "paused", "a page of text"), ("mlflow", "retrying", "it is down")]
    assert _names(found["mlflow", "paused", "a page of text"]) == "r0, r1, r2 and 2 more runs"


def test_a_run_in_several_trackers_takes_a_line_for_each() -> None:
    from rich.console import Console

    from tracelet.commands.status import table

    reply = wire.StatusReply()
    run = reply.runs.add(run_id="0" * 32, name="digits", project="tutorial", received=9, durable=9)
    run.backends.add(kind="mlflow", state="ok", delivered=7, dead=2)
    for kind in ("wandb", "clearml"):
        run.backends.add(kind=kind, state="ok", delivered=9)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(reply))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[1][3:] == ["mlflow", "ok", "7", "0"]
    assert lines[2] == ["tutorial", "0" * 12, "2", "dead"]
    assert [line[0] for line in lines[3:]] == ["wandb", "clearml"]


@pytest.fixture
def hanging(home: Path) -> Iterator[CollectorProcess]:
    """A collector that does nothing any more, and whose announcement is spoiled."""
    with CollectorProcess(home) as collector:
        os.kill(collector.pid, signal.SIGSTOP)
        (home / "endpoint.json").write_text("{")
        try:
            yield collector
        finally:
            os.kill(collector.pid, signal.SIGCONT)


def test_a_collector_that_cannot_be_found(hanging: CollectorProcess, home: Path, tmp_path: Path) -> None:
    def said(*words: str) -> CompletedProcess[str]:
        return tracelet(*words, cwd=tmp_path, environment={"COLUMNS": "200"})

    with ThreadPoolExecutor() as pool:  # each waits for the collector as long as the others
        shown, told, done = pool.map(lambda words: said(*words), [["status"], ["status", "--json"], ["stop"]])
    assert shown.stdout.startswith(f"a collector (pid {hanging.pid}) serves {home}, but cannot be found")
    assert json.loads(told.stdout) == {"collector": None, "runs": []}
    assert (done.stdout, done.returncode) == ("", 1)
    assert f"a collector (pid {hanging.pid}) serves {home}, but cannot be found" in done.stderr
    assert f"kill {hanging.pid}" in done.stderr
    assert lives(hanging.pid)


def test_a_spoiled_announcement_is_no_obstacle(home: Path, tmp_path: Path) -> None:
    with CollectorProcess(home) as collector:
        (home / "endpoint.json").write_text("{")
        told = json.loads(tracelet("status", "--json", cwd=tmp_path).stdout)
        assert told["collector"]["pid"] == collector.pid
        (home / "endpoint.json").unlink()
        done = tracelet("stop", cwd=tmp_path)
        assert (done.stderr, done.returncode) == ("", 0)
        assert not lives(collector.pid)


def test_a_holder_that_does_not_say_who_it_is(home: Path, tmp_path: Path) -> None:
    """An older collector leaves its lock's file empty."""
    lock = HomeLock(home)
    try:
        (home / "collector.lock").write_text("")
        done = tracelet("stop", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"tracelet: a collector serves {home}, but cannot be found")
    finally:
        lock.release()
