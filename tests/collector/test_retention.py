"""Retention by real collectors: what is old or too much goes, whatever is killed; the settings reach them."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from tracelet_collector.blobs import blob_path
from tracelet_collector.home import blobs_path, log_path
from tracelet_collector.log.base import DeadLetter, Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import TAG, batch, ending, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.commands import run as run_command
from tests.support.commands import tracelet
from tests.support.delivering import Desk, Writer
from tests.support.delivering import run_spec as to_mlflow
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import collector_pid, until
from tests.support.uploading import content, digest, upload_all
from tracelet.core.metrics import Media, Metric, RunEnd, RunStatus
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

T0 = 1_700_000_000.0
AT_ONCE = "0.000001"  # days
NOWHERE = """
import sys
from pathlib import Path
from tests.support.collector import Nowhere
from tracelet_collector.__main__ import serve
from tracelet_collector import retention
retention._EVERY = 0.2
sys.exit(serve(Path(sys.argv[sys.argv.index("--home") + 1]), 3600.0, None, Nowhere, limits=({days}, {most})))
"""

Serve = Callable[..., CollectorProcess]


def nowhere(days: str = "0", most: int = 0) -> dict[str, list[str]]:
    """A collector that delivers to nobody, and looks five times a second for what may go."""
    return {"program": ["-c", NOWHERE.format(days=days, most=most)]}


def fill(home: Path, *names: str, count: int = 100, undelivered: str = "") -> None:
    """Runs that have ended, one after the other, each with content of its own and some that all share."""
    desk = Desk(home)
    for name in names:
        writer = Writer(desk.log, to_mlflow(name, "t"))
        blobs = [desk.blob(hashlib.shake_256(word.encode()).digest(20_000), "image/png") for word in (name, "shared")]
        media = [Media("img", "image", blob, "image/png", 1, T0) for blob in blobs]
        points = [Metric("loss", step / 7, step, T0) for step in range(count)]
        writer.write([*points, *media, RunEnd(RunStatus.FINISHED, "", T0)], cut=50)
        if name != undelivered:
            chunk = desk.log.read(name, "mlflow", 10**6, 10**9)
            assert chunk is not None
            letter = DeadLetter(name, "mlflow", chunk.until - 1, 7, "loss", "no", '{"step": 6}')
            desk.log.commit(name, "mlflow", Progress(chunk.until, chunk.points - 1, dead=[letter]))
    desk.log.close()


def retired(collector: CollectorProcess) -> dict[str, bool]:
    """By run; the account of each is right."""
    reply = collector.status()
    for run in reply.runs:
        for b in run.backends:
            assert run.durable == b.delivered + b.collapsed + b.rerouted + b.dead + b.lag_points
    return {run.run_id: run.retired for run in reply.runs}


def purged(home: Path) -> bool:
    with closing(sqlite3.connect(f"file:{log_path(home)}?mode=ro", uri=True)) as db:
        return not db.execute("SELECT 1 FROM runs WHERE retired_lsn > purged_lsn").fetchone()


def names_missing_content(home: Path) -> list[str]:
    """Content that a batch names and that is not there."""
    with closing(sqlite3.connect(f"file:{log_path(home)}?mode=ro", uri=True)) as db:
        batches = [pb.Batch.FromString(payload) for (payload,) in db.execute("SELECT payload FROM batches")]
    return [name for made in batches for name, _ in codec.blobs(made) if not blob_path(blobs_path(home), name).exists()]


def files(home: Path) -> int:
    return sum(path.is_file() for path in blobs_path(home).rglob("*"))


def test_what_is_old_goes_and_the_rest_stays(home: Path, serve: Serve, tmp_path: Path) -> None:
    fill(home, "old", "behind", undelivered="behind")
    log = SqliteLog(log_path(home))
    stream = log.open_stream(run_spec("mlflow", run_id="running"), writer_spec()).stream
    assert stream
    log.close()
    collector = serve(**nowhere(AT_ONCE))
    until(lambda: retired(collector) == {"old": True, "behind": False, "running": False}, 20.0)
    until(lambda: purged(home))
    assert collector.kept("old") == []
    assert names_missing_content(home) == []
    assert files(home) == 2  # shared, and what the other one has
    shown = tracelet("runs", cwd=tmp_path).stdout.splitlines()
    assert "finished (retired)" in next(line for line in shown if line.startswith("old"))
    assert tracelet("status", cwd=tmp_path).stdout.count("retired") == 1
    listed = tracelet("dead-letters", "list", "old", cwd=tmp_path).stdout
    assert "no (retired)" in listed
    refused = tracelet("dead-letters", "redrive", "1", cwd=tmp_path)
    assert (refused.returncode, "its run is retired" in refused.stderr) == (2, True)
    refused = tracelet("dead-letters", "redrive", "--all", cwd=tmp_path)
    assert (refused.returncode, "1 dead letter cannot be" in refused.stderr) == (2, True)
    refused = tracelet("replay", "old", "--to", f"mlflow=sqlite:///{tmp_path}/x.db", cwd=tmp_path)
    assert (refused.returncode, "is retired" in refused.stderr) == (2, True)


def test_the_oldest_go_when_there_is_too_much(home: Path, serve: Serve) -> None:
    fill(home, "first", "second", "third", count=5000)
    log = SqliteLog(log_path(home))
    size = log.size()
    log.close()
    collector = serve(**nowhere(most=size - 1))
    until(lambda: retired(collector)["first"], 20.0)
    until(lambda: purged(home))
    assert retired(collector) == {"first": True, "second": False, "third": False}
    collector.terminate()
    collector = serve(**nowhere(most=1))
    until(lambda: all(retired(collector).values()), 20.0)


def test_nothing_goes_without_limits(home: Path, serve: Serve) -> None:
    fill(home, "old")
    collector = serve("--retention-days", "0", "--retention-bytes", "0", **nowhere())
    for _ in range(20):
        assert retired(collector) == {"old": False}


def test_who_is_written_stays(home: Path, serve: Serve) -> None:
    """Its run has ended, and all is delivered: a writer is connected, who may have more."""
    fill(home, "old")
    collector = serve(**nowhere())
    spec = to_mlflow("old", "t")
    stream = collector.open(spec, writer_spec(epoch=9, owner=False))
    stream.welcome()
    pid = collector.pid
    collector.terminate()
    collector = serve(**nowhere(AT_ONCE))
    assert collector.pid != pid
    until(lambda: retired(collector)["old"], 20.0)
    # And so it could be retired; the writer comes back, and what it has is kept.
    stream = collector.open(spec, writer_spec(epoch=9, owner=False))
    assert stream.welcome().next_seq == 0
    stream.send(opening(5))
    stream.acked_to(5)
    assert collector.kept("old") == [1, 2, 3, 4]


def test_content_that_went_is_asked_for_again(home: Path, serve: Serve) -> None:
    fill(home, "old")
    data = hashlib.shake_256(b"old").digest(20_000)
    collector = serve(**nowhere(AT_ONCE))
    until(lambda: purged(home) and retired(collector)["old"], 20.0)
    until(lambda: not blob_path(blobs_path(home), digest(data)).exists(), 20.0)
    # A writer that has been told that it is there, an instant before it went.
    stream = collector.open(run_spec("mlflow", run_id="new"), writer_spec())
    stream.welcome()
    ref = pb.BlobRef(sha256=bytes.fromhex(digest(data)), size=len(data))
    named = batch(0, 2, events=[pb.Event(tag_def=TAG), pb.Event(media=pb.Media(tag=1, step=1, wall_time=T0, blob=ref))])
    stream.send(named)
    assert stream.goodbye().code == wire.Goodbye.CODE_MISSING_BLOB
    assert upload_all(collector.channel, data) == 0
    stream = collector.open(run_spec("mlflow", run_id="new"), writer_spec())
    stream.welcome()
    stream.send(named)
    stream.acked_to(2)
    assert names_missing_content(home) == []


@pytest.mark.faults
def test_kills_while_runs_are_retired_and_others_written(home: Path, serve: Serve) -> None:
    """Signal 9 to the collector at random moments; runs that end, go, and name the content of those that went."""
    chance = random.Random(7)
    shared = [content(5_000, seed=number) for number in range(4)]
    fill(home, *[f"old-{number}" for number in range(12)], count=3000)
    collector = serve(**nowhere(AT_ONCE))
    sent = 0
    spec = run_spec("mlflow", run_id="new")
    for _ in range(8):
        data = chance.choice(shared)
        upload_all(collector.channel, data)
        stream = collector.open(spec, writer_spec())
        sent = stream.welcome().next_seq
        ref = pb.BlobRef(sha256=bytes.fromhex(digest(data)), size=len(data))
        events = [pb.Event(media=pb.Media(tag=1, step=sent, wall_time=T0, blob=ref))]
        stream.send(batch(sent, 40, events=events if sent else [pb.Event(tag_def=TAG), *events]))
        stream.acked_to(sent + chance.choice([0, 40]))
        collector.kill()
        assert names_missing_content(home) == []
        collector = serve(**nowhere(AT_ONCE))
    until(lambda: all(gone for name, gone in retired(collector).items() if name != "new"), 60.0)
    until(lambda: purged(home), 60.0)
    stream = collector.open(spec, writer_spec())
    sent = stream.welcome().next_seq
    assert len(collector.kept("new")) == sent - 1 - sent // 40
    assert names_missing_content(home) == []
    stream.send(ending(sent))
    stream.acked_to(sent + 1)
    with closing(sqlite3.connect(f"file:{log_path(home)}?mode=ro", uri=True)) as db:
        named = {row[0].hex() for row in db.execute("SELECT sha256 FROM blobs")}
    # Nothing is left that nobody names, but for uploads whose batch a kill was faster than.
    assert {path.name for path in blobs_path(home).rglob("*") if path.is_file()} <= named | {digest(d) for d in shared}


# -- the settings


def limits(home: Path) -> tuple[str, str]:
    """Of the collector that serves a home: days and bytes."""
    pid = until(lambda: collector_pid(home), what="a collector")
    words = psutil.Process(pid).cmdline()
    return words[words.index("--retention-days") + 1], words[words.index("--retention-bytes") + 1]


@pytest.mark.parametrize("command", ["wait", "sync"])
def test_settings_reach_a_collector_that_a_command_starts(home: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / ".env").write_text("TRACELET_RETENTION_BYTES=none\n")
    done = tracelet(command, cwd=tmp_path, environment={"TRACELET_RETENTION_DAYS": "2.5"})
    assert done.returncode == 0, done
    assert limits(home) == ("2.5", "0")


def test_settings_reach_a_collector_that_a_script_starts(home: Path, tmp_path: Path) -> None:
    store = MlflowStore.fresh(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "import tracelet\n"
        "from tracelet.settings import TraceletSettings\n"
        "run = tracelet.start_logging(settings=TraceletSettings(retention_bytes=10**9))\n"
        "run.log_metric('loss', 1.0)\n"
        "tracelet.stop_logging()\n"
    )
    environment = {"TRACELET_RETENTION_DAYS": "none", "MLFLOW_TRACKING_URI": store.uri}
    done = run_command(sys.executable, script, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done
    assert limits(home) == ("0.0", "1000000000")
    os.kill(collector_pid(home) or 0, signal.SIGTERM)
