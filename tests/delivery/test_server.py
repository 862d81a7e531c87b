"""An MLflow server that is down at first: nothing is lost, and what came meanwhile arrives whole; media by its artifact proxy.

One test, as a server needs 10 s of a processor to start.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.delivery.test_media import END, check, records
from tests.support.delivering import Desk, Writer, run_spec
from tests.support.mlflow_store import MlflowStore
from tests.support.ports import free_port
from tests.support.processes import wait_gone
from tracelet.core.metrics import Metric, Params, RunEnd, RunStatus, Tags

T0 = 1_700_000_000.0


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[MlflowStore, int], None]]:
    """Starts `mlflow server`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(store: MlflowStore, port: int) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
        with (tmp_path / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                cwd=tmp_path,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(server)

    yield start
    for server in started:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(60)


@pytest.mark.timeout(480)
def test_a_server_that_is_down_and_then_up(
    tmp_path: Path, serve: Callable[[MlflowStore, int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    behind = MlflowStore.fresh(tmp_path / "behind")
    local = MlflowStore.fresh(tmp_path / "local")
    port = free_port()
    awkward = [
        *[Metric("loss", step / 7, step, T0 + step / 1000) for step in range(1200)],
        *[Metric("same", 1.0, 1, T0)] * 5,
        Metric("päö 日本/x", math.nan, 2**53 + 1, T0),
        Metric("inf", math.inf, -(2**63), T0),
        Metric("n" * 300, 1.0, 2**63 - 1, T0),
        # More than the 1 MB of one request, when JSON escapes it.
        *[Metric(f"{'語' * 180}{n}", 1.0, n, T0) for n in range(900)],
    ]
    with Desk(tmp_path / "home") as desk:
        writer = Writer(desk.log, run_spec("r1", f"http://127.0.0.1:{port}"))
        writer.write([Params({"lr": 0.1, "empty": "", "long": "日" * 9000}, T0), *awkward])
        Writer(desk.log, run_spec("r2", local.uri)).write(awkward[:10])
        desk.delivery.wake("r1")
        desk.delivery.wake("r2")
        desk.until_settled("r2")
        live = desk.until_state("r1", "retrying")
        assert f"127.0.0.1:{port}" in live.last_error
        assert desk.cursor("r1").lag_points == len(awkward)
        worker = live.worker_pid

        serve(behind, port)
        writer.write([Params({"lr": 0.2}, T0), Tags({"team": "é" * 9000}, T0), RunEnd(RunStatus.FINISHED, "", T0 + 9)])
        desk.delivery.wake("r1")
        desk.until_settled("r1", seconds=150.0)
        assert desk.live("r1").state == "ok"
        cursor = desk.cursor("r1")
        assert (cursor.delivered, cursor.rerouted, cursor.dead) == (len(awkward) - 1, 1, 0)
        assert len(behind.points()) == len(awkward)
        assert [point.timestamp for point in behind.points("same")] == [int(T0 * 1000) + n for n in range(5)]
        assert {point.step for point in behind.points()} >= {2**53 + 1, -(2**63), 2**63 - 1}
        assert behind.run()["status"] == "FINISHED"
        assert (behind.params()["lr"], behind.tags()["param.lr"]) == ("0.1", "0.2")

        files = Writer(desk.log, run_spec("r3", f"http://127.0.0.1:{port}", name="files"))
        files.write(records(desk)[:-1], cut=3)
        desk.delivery.wake("r3")
        files.write([END])
        desk.delivery.wake("r3")
        desk.until_settled("r3", seconds=150.0)
        assert desk.live("r3").state == "ok"
        (uri,) = {uri for name, uri in behind.experiments().items() if name == "a project"}
        assert uri.startswith("mlflow-artifacts:")
        (run,) = [run for run in behind.runs() if run["name"] == "files"]
        check(desk, "r3", tmp_path / "mlartifacts" / "1" / run["id"] / "artifacts")
        assert run["status"] == "FINISHED"
    assert wait_gone(worker, 5.0)
    out, _ = capfd.readouterr()
    assert "View run" not in out
    assert "View run" not in (tmp_path / "home" / "worker-mlflow.log").read_text()
