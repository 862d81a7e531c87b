"""`tracelet status`, `wait`, `stop` and `collector`, against a real collector and a real MLflow store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import NO_WORKER
from tests.support.commands import TRACELET, run, tracelet
from tests.support.processes import collector_pid, lives, until
from tests.support.spine import Spine
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

RUN_KEYS = ["run_id", "name", "project", "status", "retired", "labels", "points", "backends"]
BACKEND_KEYS = [
    *("target", "state", "delivered", "collapsed", "rerouted", "dead"),
    *("lag_points", "lag_seconds", "catch_up_seconds", "last_error", "worker_pid"),
]
LOG = """
import os, sys, tracelet
run = tracelet.start_logging(exp_name=sys.argv[1], project="p")
for step in range(5):
    run.log_metric("loss", step / 3, step)
"""


def log(spine: Spine, name: str, after: str = "", before: str = "") -> None:
    """A script that records 5 points."""
    done = run(sys.executable, "-c", before + LOG + after, name, cwd=spine.folder, environment=spine.environment)
    assert done.stdout == "", done.stdout


def document(spine: Spine) -> dict[str, Any]:
    done = tracelet("status", "--json", cwd=spine.folder)
    assert (done.stderr, done.returncode) == ("", 0)
    return dict(json.loads(done.stdout))


def test_status_of_nothing(spine: Spine) -> None:
    assert document(spine) == {"collector": None, "runs": []}
    done = tracelet("status", cwd=spine.folder)
    assert done.stdout == f"no collector runs for {spine.home}; this is what its log has\nno runs\n"


def test_status_with_and_without_a_collector(spine: Spine) -> None:
    log(spine, "first")
    assert tracelet("wait", "first", "--timeout", "60", cwd=spine.folder).returncode == 0
    running = document(spine)
    assert list(running) == ["collector", "runs"]
    collector = running["collector"]
    assert list(collector) == ["pid", "version", "address", "home"]
    assert (collector["pid"], collector["home"]) == (collector_pid(spine.home), str(spine.home))
    (told,) = running["runs"]
    assert list(told) == RUN_KEYS
    assert (told["name"], told["project"], told["status"], told["labels"]) == ("first", "p", "finished", {})
    assert told["points"] == {"received": 5, "durable": 5, "dropped": 0}
    assert list(told["backends"]) == ["mlflow"]
    backend = told["backends"]["mlflow"]
    assert list(backend) == BACKEND_KEYS
    assert (backend["target"], backend["delivered"], backend["lag_points"]) == (f"sqlite:///{spine.database}", 5, 0)
    shown = tracelet("status", cwd=spine.folder).stdout
    for words in ("first", "finished", "mlflow", f"sqlite:///{spine.database}"):
        assert words in shown

    assert tracelet("stop", cwd=spine.folder).returncode == 0
    assert not lives(collector["pid"])
    stopped = document(spine)
    assert stopped["collector"] is None
    offline = stopped["runs"][0]["backends"]["mlflow"]
    assert stopped["runs"][0]["points"] == told["points"]
    assert {**offline, "worker_pid": 0} == {**backend, "worker_pid": 0}


def test_status_of_a_damaged_log(spine: Spine) -> None:
    (spine.home / "log").mkdir()
    (spine.home / "log" / "tracelet.db").write_bytes(b"this is no database" * 1000)
    done = tracelet("status", cwd=spine.folder)
    assert (done.stdout, done.returncode) == ("", 1)
    assert "could not be read" in done.stderr
    assert done.stderr.count("\n") == 1


def test_labels_and_other_columns_are_told() -> None:
    from tracelet.commands.status import as_document, table

    counts = {"delivered": 1, "collapsed": 1, "rerouted": 1, "dead": 1, "lag_points": 2}
    backend = wire.BackendState(kind="mlflow", lag_seconds=1.5, **counts)
    reply = wire.StatusReply(
        runs=[
            wire.RunState(
                run_id="r" * 32,
                name="a [bold]name[/bold]",
                status=pb.RUN_STATUS_KILLED,
                labels={"runs/b": "b", "runs/a": "a"},
                received=7,
                durable=6,
                dropped=2,
                backends=[backend],
            ),
            wire.RunState(run_id="s" * 32, name="bare", status=pb.RUN_STATUS_RUNNING),
        ]
    )
    first, second = as_document(reply)["runs"]
    assert (first["labels"], first["status"]) == ({"runs/a": "a", "runs/b": "b"}, "killed")
    assert first["points"] == {"received": 7, "durable": 6, "dropped": 2}
    assert (second["status"], second["backends"]) == ("running", {})
    from rich.console import Console

    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(reply))
    text = console.export_text()
    for words in (
        "a [bold]name[/bold]",
        "2 dropped",
        "1 not durable",
        "1 collapsed",
        "1 rerouted",
        "1 dead",
        "1.5 s",
        "bare",
    ):
        assert words in text


def test_wait_finds_a_run_by_id_start_and_name(spine: Spine) -> None:
    for name in ("one", "two", "two"):
        log(spine, name, before=NO_WORKER)
    runs = document(spine)["runs"]
    (one,) = (told["run_id"] for told in runs if told["name"] == "one")
    starts = [one[:length] for length in range(4, 33)]
    alone = [start for start in starts if sum(told["run_id"].startswith(start) for told in runs) == 1]
    for word, names in ((one, ["one"]), (alone[0], ["one"]), ("one", ["one"]), ("two", ["two", "two"])):
        done = tracelet("wait", word, "--timeout", "0", cwd=spine.folder)
        assert done.returncode == 1  # it is there, and nowhere delivered
        lacking = [line for line in done.stderr.splitlines() if "lacks" in line]
        assert [line.split()[1] for line in lacking] == names
    for unknown in ("nobody", one[:3], "0" * 32, *starts[: -len(alone)][-1:]):
        done = tracelet("wait", unknown, cwd=spine.folder)
        assert (done.stdout, done.returncode) == ("", 2)
        assert f"{unknown!r} is neither a run's id or name" in done.stderr


def test_wait_starts_a_collector_for_what_was_killed(spine: Spine) -> None:
    after = (
        "import json, os, signal, pathlib\n"
        "pid = None\n"
        "while pid is None:\n"
        "    try: pid = json.loads(pathlib.Path(os.environ['TRACELET_HOME'], 'endpoint.json').read_text())['pid']\n"
        "    except OSError: pass\n"
        "os.kill(pid, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    log(spine, "killed", after)
    until(lambda: collector_pid(spine.home) is None)
    done = tracelet("wait", "killed", "--timeout", "60", cwd=spine.folder)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert spine.stored("loss") == {(step, step / 3): 1 for step in range(5)}
    assert spine.tracked() == ["KILLED"]
    assert document(spine)["runs"][0]["status"] == "killed"


def test_wait_says_what_is_missing_when_the_time_is_over(spine: Spine) -> None:
    log(spine, "stuck", before=NO_WORKER)
    done = tracelet("wait", "--timeout", "0", cwd=spine.folder)
    assert (done.stdout, done.returncode) == ("", 1)
    assert "tracelet: stuck (" in done.stderr
    assert "mlflow lacks 5 of 5 points" in done.stderr


def test_wait_counts_a_living_run_as_what_it_has_sent(spine: Spine) -> None:
    script = LOG + "import time\nwhile True: time.sleep(0.01); step += 1; run.log_metric('loss', step, step)\n"
    variables = os.environ | spine.environment
    with subprocess.Popen([sys.executable, "-c", script, "living"], cwd=spine.folder, env=variables) as process:
        try:
            until(lambda: any(run.durable for run in spine.status().runs), 30)
            done = tracelet("wait", "living", "--timeout", "90", cwd=spine.folder, seconds=100)
            assert (done.stderr, done.returncode) == ("", 0)
            assert process.poll() is None
            assert document(spine)["runs"][0]["status"] == "running"
        finally:
            process.kill()


def test_wait_goes_on_at_a_paused_backend_but_says_so(spine: Spine) -> None:
    from tracelet.transport.watch import Watch

    watch = Watch(spine.home)
    watch.missing = []
    paused = wire.BackendState(kind="mlflow", state="paused", last_error="mlflow db upgrade", lag_points=5)
    state = wire.RunState(run_id="r" * 32, name="try", status=pb.RUN_STATUS_FINISHED, durable=5, backends=[paused])
    watch.take_in(wire.StatusReply(runs=[state], pending_spools=1))
    assert watch.troubles == ["try (rrrrrrrrrrrr): mlflow is paused: mlflow db upgrade"]
    assert watch.missing == [
        "what 1 ended process left is not read in",
        "try (rrrrrrrrrrrr): mlflow lacks 5 of 5 points; it is paused: mlflow db upgrade",
    ]


def test_wait_says_what_does_not_move(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tracelet.commands import wait
    from tracelet.transport.watch import Watch

    class Stuck(Watch):
        def look(self, patience: float) -> None:
            self.missing = [f"run {number} lacks 5 of 5 points" for number in range(9)]

    monkeypatch.setattr(wait, "_STUCK_AFTER", 0.2)
    wait.deliver(spine.home, Stuck(spine.home), 0.6)
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [f"tracelet: run {number} lacks 5 of 5 points. Waiting goes on." for number in range(3)]
    assert said[3] == "tracelet: run 0 lacks 5 of 5 points"  # the time is over
    assert len(said) == 3 + 9 + 1


def test_wait_shows_progress_on_a_terminal(spine: Spine) -> None:
    log(spine, "try", before=NO_WORKER)
    typist = (
        "import os, pty, sys\n"
        "pid, terminal = pty.fork()\n"
        f"if pid == 0: os.execv({TRACELET!r}, ['tracelet', 'wait', '--timeout', '0.5'])\n"
        "seen = b''\n"
        "try:\n"
        "    while chunk := os.read(terminal, 1024): seen += chunk\n"
        "except OSError: pass\n"
        "sys.stdout.write(seen.decode())\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = run(sys.executable, "-c", typist, cwd=spine.folder, environment={"TERM": "xterm"})
    assert done.returncode == 1
    assert "0/5" in done.stdout


def test_stop_when_nothing_runs(spine: Spine) -> None:
    done = tracelet("stop", cwd=spine.folder)
    assert (done.stdout, done.stderr, done.returncode) == (f"no collector runs for {spine.home}\n", "", 0)


def test_stop_keeps_what_is_not_delivered(spine: Spine) -> None:
    log(spine, "stuck", before=NO_WORKER)
    pid = collector_pid(spine.home)
    assert pid is not None
    done = tracelet("stop", "--timeout", "0.5", cwd=spine.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"the collector (pid {pid}) has stopped")
    assert "is kept" in done.stdout
    assert not lives(pid)
    (told,) = document(spine)["runs"]
    assert told["backends"]["mlflow"]["lag_points"] == 5


def test_collector_in_the_foreground(spine: Spine, tmp_path: Path) -> None:
    home = tmp_path / "other home"
    (tmp_path / "tracelet_collector").mkdir()  # a folder here must not stand for the module
    words = [TRACELET, "collector", "--home", "other home", "--idle", "60"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        assert until(lambda: collector_pid(home), 30) == process.pid
        second = tracelet("collector", cwd=tmp_path, environment={"TRACELET_HOME": str(home)})
        assert second.returncode == 0  # another one serves
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not (home / "endpoint.json").exists()


@pytest.mark.parametrize("words", [["status"], ["wait"], ["stop"], ["collector"]])
def test_a_home_that_cannot_be_used(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    done = tracelet(*words, cwd=tmp_path, environment={"TRACELET_HOME": "file/home"})
    assert (done.stdout, done.returncode) == ("", 2)
    assert "cannot use" in done.stderr
