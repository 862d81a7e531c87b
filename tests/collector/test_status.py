"""How things stand, from a running collector and from a home where none runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tracelet_collector.delivery import Live
from tracelet_collector.home import log_path
from tracelet_collector.log.base import Append, LogFailed, Progress
from tracelet_collector.log.sqlite import SqliteLog
from tracelet_collector.status import read_offline, report

from tests.support.batches import batch, ending, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.spools import SlotWriter
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb


def test_a_home_without_a_log_has_nothing_to_tell(tmp_path: Path) -> None:
    assert read_offline(tmp_path) == wire.StatusReply()
    assert read_offline(tmp_path / "missing") == wire.StatusReply()
    assert list(tmp_path.iterdir()) == []


def test_a_report_shows_every_backend_and_its_books_balance(tmp_path: Path) -> None:
    log = SqliteLog(log_path(tmp_path))
    spec = run_spec("mlflow", "wandb")
    stream = log.open_stream(spec, writer_spec()).stream
    log.append([Append(stream, opening(11).SerializeToString()), Append(stream, ending(11).SerializeToString())])
    log.commit(spec.run_id, "mlflow", Progress(1, delivered=7, collapsed=2, rerouted=1))
    live = {(spec.run_id, "wandb"): Live("retrying", "it is down", 77)}
    (state,) = report(log.overview(), live, lambda run_id: 5)
    assert (state.received, state.durable, state.status, state.ended) == (15, 10, pb.RUN_STATUS_FINISHED, 1.8e9)
    mlflow, wandb = state.backends
    assert (mlflow.kind, mlflow.target, mlflow.state, mlflow.worker_pid) == ("mlflow", "sqlite:///mlflow.db", "ok", 0)
    assert (mlflow.delivered, mlflow.collapsed, mlflow.rerouted, mlflow.lag_points) == (7, 2, 1, 0)
    assert not mlflow.settled  # the run's end is still to come
    assert mlflow.lag_seconds >= 0
    assert (wandb.state, wandb.last_error, wandb.worker_pid, wandb.lag_points) == ("retrying", "it is down", 77, 10)
    log.close()

    offline = read_offline(tmp_path)
    assert [run.run_id for run in offline.runs] == [spec.run_id]
    assert [b.lag_points for b in offline.runs[0].backends] == [0, 10]
    assert offline.runs[0].received == offline.runs[0].durable == 10
    assert not offline.HasField("collector")
    assert not read_offline(tmp_path, "another").runs


def test_it_can_be_read_after_a_kill_and_before_anybody_serves_again(
    serve: Callable[..., CollectorProcess], home: Path
) -> None:
    collector = serve()
    run = run_spec()
    stream = collector.open(run, writer_spec())
    stream.welcome()
    stream.send(opening(100), batch(100, 100))
    stream.acked_to(200)
    collector.kill()
    spool = SlotWriter(home, run_spec(), writer_spec())
    spool.define()
    program = (
        "import sys; from pathlib import Path; from tracelet_collector.status import read_offline\n"
        "print(read_offline(Path(sys.argv[1])).pending_spools)"
    )
    elsewhere = subprocess.run([sys.executable, "-c", program, str(home)], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == "0"  # it lives, and has a sender
    spool.die()
    reply = read_offline(home)
    assert (reply.runs[0].durable, reply.pending_spools) == (199, 1)
    assert read_offline(home, run.run_id).pending_spools == 0
    again = serve()  # reading has changed nothing
    until(lambda: again.status().pending_spools == 0)
    assert again.kept(run.run_id) == list(range(1, 200))


def test_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    log_path(tmp_path).parent.mkdir()
    log_path(tmp_path).write_bytes(b"no database" * 1000)
    with pytest.raises(LogFailed, match="not a database"):
        read_offline(tmp_path)
