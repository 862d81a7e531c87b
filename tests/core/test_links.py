"""Where a run is in its trackers: told by the exporter, asked for by the script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tracelet_collector.exporters.base import Run
from tracelet_collector.home import log_path
from tracelet_collector.log.base import Append, Progress
from tracelet_collector.log.sqlite import SqliteLog
from tracelet_collector.status import read_offline

import tracelet
from tests.support.batches import opening, run_spec, writer_spec
from tests.support.clients import Client
from tests.support.collector import CollectorProcess
from tests.support.exporting import Courier
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.core import links
from tracelet.core.links import Link, Links
from tracelet.core.metrics import Metric
from tracelet.core.plan import BackendTarget, RunPlan


def test_a_page_of_a_server() -> None:
    link = Link.read("mlflow", "https://mlflow.example/prefix/#/experiments/3/runs/abc")
    assert link.url == str(link) == "https://mlflow.example/prefix/#/experiments/3/runs/abc"
    assert (link.target, link.run, link.command) == ("https://mlflow.example/prefix", "abc", None)
    assert link.target + link.page == link.url


def test_a_store_has_no_page_but_a_command_that_serves_it() -> None:
    link = Link.read("mlflow", "sqlite:////home/a b/mlflow.db#/experiments/3/runs/abc")
    assert (link.target, link.run, link.url) == ("sqlite:////home/a b/mlflow.db", "abc", None)
    assert link.command == str(link) == "mlflow ui --backend-store-uri 'sqlite:////home/a b/mlflow.db'"
    assert link.page == "/#/experiments/3/runs/abc"


def test_a_folder_of_event_files_has_a_command_too() -> None:
    link = Link.read("tensorboard", "file:///home/a%20b/tb%23#vision/first%20run-r1")
    assert (link.target, link.run, link.url) == ("file:///home/a%20b/tb%23", "first run-r1", None)
    assert link.command == str(link) == "tensorboard --logdir '/home/a b/tb#'"


def test_what_needs_no_server() -> None:
    link = Link.read("mlflow", "databricks#/experiments/3/runs/abc")
    assert (str(link), link.url, link.command) == ("databricks", None, None)


def test_status_tells_it(tmp_path: Path) -> None:
    log = SqliteLog(log_path(tmp_path))
    spec = run_spec("mlflow", "wandb")
    stream = log.open_stream(spec, writer_spec()).stream
    log.append([Append(stream, opening(1).SerializeToString())])
    log.commit(spec.run_id, "mlflow", Progress(1, state='{"link": "http://x/#/experiments/1/runs/2"}'))
    log.commit(spec.run_id, "wandb", Progress(1, state='{"link": 7}'))
    log.close()
    (run,) = read_offline(tmp_path).runs
    assert [backend.link for backend in run.backends] == ["http://x/#/experiments/1/runs/2", ""]


def test_a_run_in_a_store(shared_spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    spine = shared_spine
    monkeypatch.setenv("MLFLOW_TRACKING_URI", spine.environment["MLFLOW_TRACKING_URI"])
    with tracelet.start_logging() as run:
        assert (run.url, run.links()) == (None, {})
        run.log_metric("a", 1, 1)
        link = run.links(wait=90)["mlflow"]
        assert run.links() == {"mlflow": link}
        assert run.url is None
    assert link.target == f"sqlite:///{spine.database}"
    assert run.links()["mlflow"] is link, "it stays known"
    from mlflow import MlflowClient

    tracked = MlflowClient(link.target).get_run(link.run)
    assert tracked.data.tags["tracelet.run_id"] == run.id
    assert link.page == f"/#/experiments/{tracked.info.experiment_id}/runs/{link.run}"


def test_the_exporter_says_it(tmp_path: Path) -> None:
    from mlflow.entities import RunInfo
    from tracelet_collector.exporters import mlflow

    store = MlflowStore.fresh(tmp_path)
    courier = Courier(mlflow.MlflowExporter, Run("r", "n", "p", store.uri, 1.0))
    courier.deliver(Metric("a", 1.0, 1, 1.0))
    said = courier.state["link"]
    courier.state.pop("link")  # of a collector before
    courier.deliver(Metric("a", 2.0, 2, 2.0))
    assert courier.state["link"] == said
    link = Link.read("mlflow", said)
    assert (link.target, link.run) == (store.uri, courier.state["run"])
    info = RunInfo("abc", "3", "me", "FINISHED", 1, 2, "active")
    assert mlflow._link("http://127.0.0.1:5000/", info) == "http://127.0.0.1:5000/#/experiments/3/runs/abc"


def test_they_come_as_the_run_names_its_trackers(home: Path) -> None:
    kinds = ("wandb", "mlflow", "clearml")
    plan = RunPlan("r", "run", "p", tuple(BackendTarget(kind, "x", sys.executable) for kind in kinds), home)
    some = Links()
    for kind in ("clearml", "wandb", "mlflow"):  # as they were heard of
        some._known[kind] = Link(kind, "x", "r", url=f"http://{kind}")
    assert list(some.known(plan)) == list(some.wait(plan, 0.1)) == list(kinds)


@pytest.fixture
def waiting(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    """A run whose tracker has not said anything."""
    return RunPlan("r", "run", "p", (BackendTarget("mlflow", "http://127.0.0.1:1", sys.executable),), home)


def test_no_collector_no_link_and_none_is_started(waiting: RunPlan, home: Path) -> None:
    some = Links()
    assert not some.known(waiting)
    assert some._asking is not None
    some._asking.join(60)
    assert not some.known(waiting)
    assert not (home / "collector.lock").exists()


def test_asking_has_a_deadline(waiting: RunPlan, home: Path) -> None:
    with CollectorProcess(home) as collector:
        os.kill(collector.pid, signal.SIGSTOP)
        try:
            assert Links().wait(waiting, 0.3) == {}
        finally:
            os.kill(collector.pid, signal.SIGCONT)


def test_it_is_asked_for_behind_the_callers_back(home: Path, waiting: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_ASK_EVERY", 0.0)
    with CollectorProcess(home):
        some, asked = Links(), []
        monkeypatch.setattr(
            some, "_ask", lambda *_: asked.append(1) or some._known.update(mlflow=Link("mlflow", "t", "r"))
        )
        until(lambda: some.known(waiting), 20)
        assert asked == [1]
        some.known(waiting)
        assert asked == [1], "it is known"


def test_a_forked_child_has_what_its_parent_knew(home: Path, tmp_path: Path) -> None:
    done = Client(home, tmp_path).run(
        """
from tracelet.core.links import Link
from tracelet.core.plan import BackendTarget
targets.resolve = lambda *a, **k: (BackendTarget("mlflow", "http://127.0.0.1:1", sys.executable),)
run = tracelet.start_logging()
run._links._known["mlflow"] = Link("mlflow", "t", "r", url="http://x")
other = tracelet.Experiment(run.plan)
if (pid := os.fork()) == 0:
    run.log_metric("a", 1, 1)
    tell([run.url, list(run.links(wait=5)), other.url])
    os._exit(0)
os.waitpid(pid, 0)
"""
    )
    assert done.told == ["http://x", ["mlflow"], None]
    assert done.err == ""


def test_mlflow_serves_the_page_by_the_command(tmp_path: Path) -> None:
    """What the command line says is a command of MLflow's."""
    link = Link.read("mlflow", f"sqlite:///{tmp_path}/mlflow.db#/experiments/1/runs/x")
    assert link.command is not None
    said = subprocess.run(
        [sys.executable, "-m", *link.command.split()[:2], "--help"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert said.returncode == 0
    assert "--backend-store-uri" in said.stdout
