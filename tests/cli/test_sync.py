"""`tracelet sync`: what was left is delivered; spools of other homes are taken in, once, and deleted only when durable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tracelet_collector.home import HomeLock, log_path
from tracelet_collector.log.schema import open_reader
from tracelet_collector.status import read_offline

from tests.support.batches import run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.commands import TRACELET, run, tracelet
from tests.support.processes import collector_pid, lives, until, wait_gone
from tests.support.spine import Spine
from tests.support.spools import SlotWriter
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb


def written(home: Path, spec: wire.RunSpec, points: int = 10, end: bool = True, **how: object) -> SlotWriter:
    """A spool of a writer that died."""
    spool = SlotWriter(home, spec, writer_spec(**how))  # type: ignore[arg-type]
    spool.define()
    spool.points(points)
    if end:
        spool.end()
    spool.die()
    return spool


def stored(home: Path) -> dict[str, list[int]]:
    """Steps of all points in a log, by run, as often as they are there."""
    found: dict[str, list[int]] = {}
    names: dict[int, dict[int, pb.TagDef]] = {}
    with closing(open_reader(log_path(home))) as db:
        rows = db.execute("SELECT run_id, stream, payload FROM batches JOIN runs USING (run) ORDER BY lsn").fetchall()
    for run_id, stream, payload in rows:
        for _, record in codec.decode(pb.Batch.FromString(payload), names.setdefault(stream, {})):
            if hasattr(record, "step"):
                found.setdefault(run_id, []).append(record.step)
    return found


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another home."""
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


def test_what_was_killed_is_delivered(spine: Spine) -> None:
    script = (
        "import json, os, signal, pathlib, tracelet\n"
        "run = tracelet.start_logging(exp_name='killed', project='p')\n"
        "for step in range(5): run.log_metric('loss', step / 3, step)\n"
        "pid = None\n"
        "while pid is None:\n"
        "    try: pid = json.loads(pathlib.Path(os.environ['TRACELET_HOME'], 'endpoint.json').read_text())['pid']\n"
        "    except OSError: pass\n"
        "os.kill(pid, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run(sys.executable, "-c", script, cwd=spine.folder, environment=spine.environment)
    until(lambda: collector_pid(spine.home) is None)
    done = tracelet("sync", cwd=spine.folder)
    assert (done.stdout.splitlines()[-1], done.stderr, done.returncode) == ("everything is delivered: 5 points", "", 0)
    assert spine.stored("loss") == {(step, step / 3): 1 for step in range(5)}
    assert tracelet("sync", cwd=spine.folder).returncode == 0
    assert spine.stored("loss") == {(step, step / 3): 1 for step in range(5)}


@pytest.mark.parametrize("what", ["home", "spool", "run", "writer"])
def test_another_home_or_any_part_of_its_spools(home: Path, other: Path, tmp_path: Path, what: str) -> None:
    spec = run_spec()
    spool = written(other, spec)
    (spool.path / "blobs").mkdir()
    (spool.path / "blobs" / ("a" * 64)).write_bytes(b"content")
    given = {"home": other, "spool": other / "spool", "run": spool.path.parent, "writer": spool.path}[what]
    done = tracelet("sync", given, cwd=tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines()[0] == f"took in 1 spools of {given}"
    (state,) = read_offline(home).runs
    assert (state.run_id, state.durable, state.status) == (spec.run_id, 10, pb.RUN_STATUS_FINISHED)
    assert not spool.path.exists()
    assert not list((home / "spool").glob("*/*"))
    assert not (home / "spool-incoming").exists()


def test_many_writers_of_runs_and_forked_children(home: Path, other: Path, tmp_path: Path) -> None:
    first, second = run_spec(), run_spec()
    written(other, first, points=100)
    written(other, first, points=50, owner=False, writer_id="rank-1", end=False)
    written(other, second, points=20, end=False)
    done = tracelet("sync", other, cwd=tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines()[0] == f"took in 3 spools of {other}"
    counts = {run_id: len(steps) for run_id, steps in stored(home).items()}
    assert counts == {first.run_id: 150, second.run_id: 20}
    states = {state.run_id: state.status for state in read_offline(home).runs}
    assert states == {first.run_id: pb.RUN_STATUS_FINISHED, second.run_id: pb.RUN_STATUS_KILLED}


def test_twice_is_once(home: Path, other: Path, tmp_path: Path) -> None:
    spec = run_spec()
    written(other, spec)
    for words in ("took in 1 spools of {}", "took in 0 spools of {}; 1 were here already"):
        done = tracelet("sync", other, "--keep", cwd=tmp_path)
        assert (done.stderr, done.returncode) == ("", 0)
        assert done.stdout.splitlines()[0] == words.format(other)
    assert len(stored(home)[spec.run_id]) == 10
    copy = tmp_path / "copy"
    shutil.copytree(other, copy)
    assert tracelet("sync", copy, cwd=tmp_path).returncode == 0
    assert not list(copy.glob("spool/*"))
    assert len(stored(home)[spec.run_id]) == 10


@pytest.fixture
def read_only(other: Path) -> Iterator[Path]:
    """The other home, mounted so that nobody can write to it, once it is filled."""

    def mount(*words: str) -> None:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here, so a copy that cannot be written to is not tested: {done.stderr.strip()}")

    mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(other))
    try:
        written(other, run_spec())
        shutil.rmtree(other / "none", ignore_errors=True)
        mount("-o", "remount,ro", str(other))
        yield other
    finally:
        subprocess.run(["umount", "-l", str(other)], check=True)


def test_a_copy_that_cannot_be_written_to(home: Path, read_only: Path, tmp_path: Path) -> None:
    before = sorted(read_only.rglob("*"))
    for taken in ("took in 1 spools", "took in 0 spools"):
        done = tracelet("sync", read_only, cwd=tmp_path)
        assert (done.stderr, done.returncode) == ("", 0)
        assert done.stdout.startswith(taken)
    assert [len(steps) for steps in stored(home).values()] == [10]
    assert sorted(read_only.rglob("*")) == before


def test_a_living_writer_is_left_alone(home: Path, other: Path, tmp_path: Path) -> None:
    spool = SlotWriter(other, run_spec(), writer_spec())
    spool.define()
    spool.points(5)
    done = tracelet("sync", other, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"tracelet: {spool.path} stays: its writer lives: it delivers by itself\n"
    spool.die()
    assert tracelet("sync", other, cwd=tmp_path).returncode == 0


def test_a_home_that_a_collector_serves_is_left_alone(home: Path, other: Path, tmp_path: Path) -> None:
    lock = HomeLock(other)
    try:
        for folder in (other, other / "spool"):
            (other / "spool").mkdir(exist_ok=True)
            done = tracelet("sync", folder, cwd=tmp_path)
            assert (done.stdout, done.returncode) == ("", 2)
            assert f"a collector (pid {os.getpid()}) serves {other}" in done.stderr
    finally:
        lock.release()


def test_folders_that_make_no_sense(home: Path, tmp_path: Path) -> None:
    assert tracelet("sync", tmp_path / "missing", cwd=tmp_path).returncode == 2
    assert "this home's own" in tracelet("sync", home, cwd=tmp_path).stderr
    done = tracelet("sync", tmp_path, cwd=tmp_path)
    said = done.stdout.splitlines()
    assert (said[0], said[-1], done.returncode) == (f"no spools in {tmp_path}", "everything is delivered: 0 points", 0)


def test_a_spool_without_its_beginning_stays(home: Path, other: Path, tmp_path: Path) -> None:
    """The rest is in the other home's log: taken in here, it would count as lost."""
    spool = written(other, run_spec())
    (first,) = spool.path.glob("*.seg")
    first.rename(first.with_name(first.name.replace("00000000", "00000003")))
    (other / "log").mkdir()
    (other / "log" / "tracelet.db").write_bytes(b"")
    done = tracelet("sync", other, cwd=tmp_path)
    assert done.returncode == 1
    assert "its beginning is in the log" in done.stderr
    assert f"TRACELET_HOME={other} tracelet sync" in done.stderr
    assert spool.path.exists()


ODD_NAMES = b'{"format": 1, "run": {"run_id": "../../x"}, "writer": {"writer_id": "w", "epoch": 1}, "sends": true}'


@pytest.mark.parametrize("raw", [b"{", ODD_NAMES])
def test_a_spool_that_cannot_be_read_stays(home: Path, other: Path, tmp_path: Path, raw: bytes) -> None:
    spool, good = written(other, run_spec()), written(other, run_spec())
    (spool.path / "spool.json").write_bytes(raw)
    done = tracelet("sync", other, cwd=tmp_path)
    assert done.returncode == 1
    assert f"{spool.path} stays" in done.stderr
    assert (spool.path.exists(), good.path.exists()) == (True, False)


def test_a_damaged_spool_stays_in_both_places(home: Path, other: Path, tmp_path: Path) -> None:
    spool = written(other, run_spec())
    said = json.loads((spool.path / "spool.json").read_text())
    said["run"]["backends"] = [{"kind": {"not": "a word"}}]
    (spool.path / "spool.json").write_text(json.dumps(said))
    done = tracelet("sync", other, cwd=tmp_path)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert spool.path.exists()
    assert len(list((home / "spool-damaged").iterdir())) == 1


def test_credentials_and_interpreter_come_along(home: Path, other: Path, tmp_path: Path) -> None:
    spec = run_spec("mlflow")
    spec.backends[0].interpreter = "/cluster/env/bin/python"
    spec.backends[0].credentials = "abc"
    spec.backends[0].target = "http://127.0.0.1:9"
    written(other, spec)
    (other / "credentials").mkdir()
    (other / "credentials" / "abc.json").write_text('{"env": {}}')

    def told() -> bool:
        done = tracelet("sync", other, "--timeout", "1", cwd=tmp_path)
        assert done.returncode == 1  # nobody listens there
        assert f"it is kept in {home}" in done.stderr
        return "mlflow lacks 10 of 10 points" in done.stderr

    until(told, 30)  # the first time may be over before the spool is taken in
    assert (home / "credentials" / "abc.json").stat().st_mode & 0o777 == 0o600
    with closing(open_reader(log_path(home))) as db:
        (raw,) = db.execute("SELECT spec FROM runs").fetchone()
    interpreter = wire.RunSpec.FromString(raw).backends[0].interpreter
    assert Path(interpreter).samefile(sys.executable)


def test_a_full_disk_leaves_all_where_it_was(small_disk: Path, other: Path, tmp_path: Path) -> None:
    spools = [written(other, run_spec()) for _ in range(3)]  # 4 MiB each; the disk has 8
    done = tracelet(
        "sync", other, "--timeout", "1", cwd=tmp_path, environment={"TRACELET_HOME": str(small_disk / "home")}
    )
    try:
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert all(spool.path.exists() for spool in spools)
        assert not (small_disk / "home" / "spool-incoming").exists()
    finally:
        if (pid := collector_pid(small_disk / "home")) is not None:
            os.kill(pid, signal.SIGTERM)
            wait_gone(pid, 15)


def test_the_collector_is_killed_in_the_middle(home: Path, other: Path, tmp_path: Path) -> None:
    """Nothing is deleted in the other home before it is durable here, and a second try brings the rest, once."""
    spec = run_spec()
    spool = written(other, spec, points=120_000)
    with CollectorProcess(home) as collector:
        os.kill(collector.pid, signal.SIGSTOP)
        done = tracelet("sync", other, "--timeout", "1", cwd=tmp_path)
        assert done.returncode == 1
        assert "waits in" in done.stderr
        assert spool.path.exists()
        collector.kill()
    assert tracelet("sync", other, cwd=tmp_path).returncode == 0
    assert not spool.path.exists()
    first = 120_000 - len(stored(home)[spec.run_id])
    assert first == 0
    assert len(set(stored(home)[spec.run_id])) == 120_000


def test_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracelet.transport import progress as shown

    said: list[str] = []
    monkeypatch.setattr(shown, "_LINE_EVERY", 0.0)
    with shown.progress(said.append) as show:
        for done in (0, 0, 1200, 5000):
            show(done, 5000)
    assert said == [f"delivered {done} of 5,000 points" for done in ("0", "1,200", "5,000")]
    with shown.progress() as show:
        show(1, 2)


def test_a_bar_on_a_terminal(home: Path, other: Path, tmp_path: Path) -> None:
    spec = run_spec("mlflow")
    spec.backends[0].target = "http://127.0.0.1:9"
    spec.backends[0].interpreter = "/bin/false"  # no worker imports MLflow for it
    written(other, spec, points=7)
    typist = (
        "import os, pty, sys\n"
        "pid, terminal = pty.fork()\n"
        f"if pid == 0: os.execv({TRACELET!r}, ['tracelet', 'sync', {str(other)!r}, '--timeout', '1'])\n"
        "seen = b''\n"
        "try:\n"
        "    while chunk := os.read(terminal, 1024): seen += chunk\n"
        "except OSError: pass\n"
        "sys.stdout.write(seen.decode())\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )

    def shown() -> bool:
        done = run(sys.executable, "-c", typist, cwd=tmp_path, environment={"TERM": "xterm"})
        assert done.returncode == 1
        return "0/7" in done.stdout

    until(shown, 30)  # the first time may be over before the spool is taken in
    assert lives(collector_pid(home) or 0)
