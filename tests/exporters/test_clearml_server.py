"""ClearML as a server: each event once, whatever goes wrong on the way, and no call without an end."""

from __future__ import annotations

import dataclasses
import email.utils
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.blobs import blob_path
from tracelet_collector.exporters import clearml_http, clearml_online
from tracelet_collector.exporters.base import Paused, Retryable, Rewind, Run, Unauthorized
from tracelet_collector.exporters.clearml import ClearmlExporter

from tests.contract.samples import sample
from tests.support.clearml_server import ClearmlServer, Fault, environment
from tests.support.exporting import Courier
from tests.support.uploading import content, digest
from tracelet.core.metrics import Artifact, BlobRef, Media, Metric, Params, RunEnd, RunStatus, Tags

T0 = 1_700_000_000.0


def point(name: str, value: float, step: int, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, **{"tag": name} | more)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClearmlServer]:
    server = ClearmlServer()
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    yield server
    server.fault = None
    server.close()
    assert not server.problems


@pytest.fixture
def run(server: ClearmlServer, tmp_path: Path) -> Run:
    return Run("r-1", "a run", "a project", server.url, T0, blobs=str(tmp_path / "blobs"))


@pytest.fixture
def courier(run: Run) -> Iterator[Courier]:
    courier = Courier(ClearmlExporter, run)
    yield courier
    courier.exporter.close()


def test_a_task_that_a_killed_worker_asked_for_too_late_is_removed(server: ClearmlServer, courier: Courier) -> None:
    courier.deliver(point("a", 1.0, 1))
    mine = server.task()
    api = clearml_http.Api(server.url)
    late = {name: mine[name] for name in ("name", "type", "project", "hyperparams")}
    for _ in range(2):
        api.call("tasks.create", late, again=False)
    other = {
        **late,
        "hyperparams": {"tracelet": {"run_id": {**mine["hyperparams"]["tracelet"]["run_id"], "value": "r-2"}}},
    }
    kept = api.call("tasks.create", other, again=False)["id"]
    api.close()
    courier.deliver(point("a", 2.0, 2), RunEnd(RunStatus.FINISHED, "", T0 + 9))
    assert set(server.tasks) == {mine["id"], kept}
    assert server.tasks[mine["id"]]["status"] == "completed"
    assert len(server.of()) == 2


def test_what_a_task_is(server: ClearmlServer, courier: Courier) -> None:
    courier.run = dataclasses.replace(courier.run, notes="# note", group="g", tags={"a": "b"})
    courier.deliver(Params({"lr": 0.1}, T0), point("train/loss", 0.5, 3, T0 + 0.125))
    task = server.task()
    assert (task["name"], task["type"], task["status"], task["comment"]) == (
        "a run",
        "training",
        "in_progress",
        "# note",
    )
    assert task["tags"] == ["a:b", "group:g"]
    assert task["hyperparams"]["tracelet"]["run_id"]["value"] == "r-1"
    assert task["hyperparams"]["General"]["lr"]["value"] == "0.1"
    assert server.projects[task["project"]]["name"] == "a project"
    (event,) = server.of()
    assert (event["value"], event["timestamp"], event["task"]) == (0.5, 1_700_000_000_125, task["id"])
    assert courier.state["link"] == f"{server.url}/projects/{task['project']}/experiments/{task['id']}"


def test_a_chunk_costs_one_request(server: ClearmlServer, courier: Courier) -> None:
    courier.deliver(point("a", 0.0, 0))
    before = server.asked.total()
    courier.deliver(*[point("a", float(step), step) for step in range(1, 1000)])
    assert server.asked.total() == before + 1


def test_float64_is_what_is_sent(server: ClearmlServer, courier: Courier) -> None:
    courier.deliver(point("a", 0.1 + 0.2, 2**53 + 1))
    assert server.scalars() == Counter([("a/a", 0.1 + 0.2, 2**53 + 1)])


@pytest.mark.parametrize(
    ("status", "word"),
    [(RunStatus.FINISHED, "completed"), (RunStatus.FAILED, "failed"), (RunStatus.KILLED, "stopped")],
)
def test_how_it_ended(server: ClearmlServer, courier: Courier, status: RunStatus, word: str) -> None:
    courier.deliver(point("a", 1.0, 1), RunEnd(status, "exit code 3", T0))
    task = server.task()
    assert (task["status"], task["status_message"], task["status_reason"]) == (word, "exit code 3", "exit code 3")


def test_what_comes_after_the_end_is_stored_too(server: ClearmlServer, courier: Courier) -> None:
    courier.deliver(point("a", 1.0, 1), Artifact("x", b"1", "", T0), RunEnd(RunStatus.FINISHED, "", T0))
    courier.restart()
    courier.deliver(
        Params({"late": 1}, T0), Artifact("y", b"2", "", T0), Tags({"late": "true"}, T0), point("a", 2.0, 2)
    )
    task = server.task()
    assert task["status"] == "completed"
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["x", "y"]
    assert (task["tags"], task["hyperparams"]["General"]["late"]["value"]) == (["late"], "1")
    assert len(server.of()) == 2


def test_words_of_others_stay(server: ClearmlServer, courier: Courier) -> None:
    courier.deliver(Params({"lr": 0.1}, T0), Tags({"a": "1"}, T0))
    task = server.task()
    task["tags"].append("from the page")
    task["hyperparams"]["General"]["seed"] = {"section": "General", "name": "seed", "value": "7"}
    courier.deliver(Params({"lr": 0.2}, T0), Tags({"a": "2"}, T0))
    assert task["tags"] == ["a:2", "from the page"]
    assert {name: item["value"] for name, item in task["hyperparams"]["General"].items()} == {"lr": "0.2", "seed": "7"}


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(
    "action", ["tasks.create", "projects.create", "tasks.started", "events.add_batch", "tasks.edit"]
)
def test_there_is_never_a_second_task(server: ClearmlServer, courier: Courier, action: str, answered: bool) -> None:
    """The worker dies, or the answer gets lost, after the server did it."""
    items = courier.items([Params({"lr": 1}, T0), point("a", 1.0, 1)])
    server.fault = Fault(action, status=500 if answered else 0, done=True, times=2)
    with pytest.raises(Retryable):
        courier.deliver_uncommitted(items)
    server.fault = None
    courier.restart()
    courier.deliver_items(items)
    assert len(server.projects) == 1
    assert server.task()["status"] == "in_progress"
    assert server.scalars() == Counter([("a/a", 1.0, 1)])


def test_the_parent_is_found_whichever_came_first(server: ClearmlServer, run: Run) -> None:
    child = Courier(ClearmlExporter, dataclasses.replace(run, run_id="child", parent="r-1"))
    early = Courier(ClearmlExporter, dataclasses.replace(run, run_id="early", parent="r-1"))
    parent = Courier(ClearmlExporter, run)
    early.deliver(point("a", 1.0, 1))
    parent.deliver(point("a", 1.0, 1))
    child.deliver(point("a", 1.0, 1))
    by_run = {task["hyperparams"]["tracelet"]["run_id"]["value"]: task for task in server.tasks.values()}
    assert {by_run[name]["parent"] for name in ("child", "early")} == {by_run["r-1"]["id"]}
    assert not by_run["r-1"].get("parent")
    for one in (child, early, parent):
        one.exporter.close()


def test_run_ids_that_mean_something_to_the_server(server: ClearmlServer, run: Run) -> None:
    couriers = [
        Courier(ClearmlExporter, dataclasses.replace(run, run_id=name)) for name in ("-r", "r", "__$not", "a.b $x")
    ]
    for _ in range(2):
        for one in couriers:
            one.deliver_uncommitted(one.items([point("a", 1.0, 1)]))
            one.restart()
    assert len(server.tasks) == 4


class TestFaults:
    @pytest.mark.parametrize("on", ["auth.login", "tasks.get_all", "events.add_batch", "files"])
    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_busy(self, server: ClearmlServer, courier: Courier, status: int, on: str) -> None:
        items = courier.items([point("a", 1.0, 1), Artifact("x", b"1", "", T0)])
        server.fault = Fault(on, status, {"Retry-After": "7"})
        with pytest.raises(Retryable) as caught:
            courier.deliver_uncommitted(items)
        assert caught.value.retry_after == 7.0
        assert server.asked[on] == 1, "trying again is the scheduler's"
        server.fault = None
        courier.deliver_items(items)
        assert server.scalars() == Counter([("a/a", 1.0, 1)])

    def test_a_date_to_come_back_at(self, server: ClearmlServer, courier: Courier) -> None:
        server.fault = Fault("", 429, {"Retry-After": email.utils.formatdate(time.time() + 3600, usegmt=True)})
        with pytest.raises(Retryable) as caught:
            courier.deliver(point("a", 1.0, 1))
        assert 3000 < (caught.value.retry_after or 0) <= 3600

    def test_refused(self, server: ClearmlServer, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1))
        items = courier.items([point("a", 2.0, 2)])
        with server.down(), pytest.raises(Retryable, match=str(server.port)):
            courier.deliver_uncommitted(items)
        courier.deliver_items(items)
        assert len(server.of()) == 2

    def test_no_answer(self, server: ClearmlServer, courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clearml_http, "_ANSWER", 0.2)
        items = courier.items([point("a", 1.0, 1)])
        server.fault = Fault("events.add_batch", hang=threading.Event(), done=True)
        try:
            with pytest.raises(Retryable, match="does not answer"):
                courier.deliver_uncommitted(items)
        finally:
            assert server.fault.hang is not None
            server.fault.hang.set()
        server.fault = None
        courier.deliver_items(items)
        assert server.scalars() == Counter([("a/a", 1.0, 1)])

    def test_a_connection_that_was_closed_meanwhile(self, server: ClearmlServer, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1))
        server.fault = Fault("events.add_batch", status=0, times=1)
        courier.deliver(point("a", 2.0, 2))
        assert len(server.of()) == 2

    def test_wrong_keys(self, server: ClearmlServer, courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
        server.keys = ("ACCESSKEY", "another")
        with pytest.raises(Unauthorized, match="CLEARML_API_ACCESS_KEY") as caught:
            courier.deliver(point("a", 1.0, 1))
        assert "s3cret" not in str(caught.value)
        monkeypatch.setenv("CLEARML_API_SECRET_KEY", "another")
        courier.deliver(point("a", 1.0, 1))
        assert len(server.of()) == 1

    def test_no_keys(self, courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CLEARML_API_SECRET_KEY")
        with pytest.raises(Unauthorized, match="clearml-init"):
            courier.deliver(point("a", 1.0, 1))

    def test_a_token_that_ends(self, server: ClearmlServer, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1))
        server.forget_tokens()
        courier.deliver(point("a", 2.0, 2))
        assert server.asked["auth.login"] == 2
        assert len(server.of()) == 2
        server.fault = Fault("files", 401, times=1)
        courier.deliver(Artifact("x", b"1", "", T0))
        assert server.asked["auth.login"] == 3
        assert list(server.files.values()) == [b"1"]

    def test_not_netrc(
        self, server: ClearmlServer, courier: Courier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        courier.deliver(point("a", 1.0, 1))
        assert len(server.of()) == 1

    def test_forbidden(self, server: ClearmlServer, courier: Courier) -> None:
        server.fault = Fault("tasks.create", 403)
        with pytest.raises(Paused, match="forbids"):
            courier.deliver(point("a", 1.0, 1))

    @pytest.mark.parametrize("status", [200, 302, 404])
    def test_what_is_no_clearml_server(self, server: ClearmlServer, courier: Courier, status: int) -> None:
        server.fault = Fault("", status, body=b"<html>hello</html>")
        with pytest.raises(Paused, match="CLEARML_API_HOST"):
            courier.deliver(point("a", 1.0, 1))

    def test_no_files_server(self, server: ClearmlServer, courier: Courier) -> None:
        server.fault = Fault("files", 404, body=b"")
        with pytest.raises(Paused, match="CLEARML_FILES_HOST"):
            courier.deliver(point("a", 1.0, 1), Artifact("x", b"1", "", T0))
        assert len(server.of()) == 1, "numbers go first"

    def test_a_file_that_is_too_large(self, server: ClearmlServer, courier: Courier) -> None:
        server.fault = Fault("files", 413, times=1)
        courier.deliver(Artifact("x", b"1", "", T0), Artifact("y", b"2", "", T0), point("a", 1.0, 1))
        assert [letter.item.seq for letter in courier.dead] == [0]
        assert [artifact["key"] for artifact in server.task()["execution"]["artifacts"]] == ["y"]

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
    def test_a_wrong_certificate(self, run: Run, tmp_path: Path) -> None:
        pem = tmp_path / "self-signed.pem"
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            pem,
            "-out",
            pem,
        ]
        subprocess.run(make, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server = ClearmlServer(tls=context)
        try:
            courier = Courier(ClearmlExporter, dataclasses.replace(run, target=f"https://127.0.0.1:{server.port}"))
            with pytest.raises(Paused, match="certificate"):
                courier.deliver(point("a", 1.0, 1))
        finally:
            server.close()

    def test_one_event_that_is_refused_costs_itself(self, server: ClearmlServer, courier: Courier) -> None:
        courier.deliver(point("a", 0.0, 0))

        def check(action: str, body: Any) -> None:
            if action == "events.add_batch" and any(event.get("iter") == 13 for event in body):
                raise server.error(500, 0, "1 document(s) failed to index.")

        server.check = check
        courier.deliver(*[point("a", float(step), step) for step in range(1, 40)])
        assert [letter.item.record.step for letter in courier.dead] == [13]  # type: ignore[union-attr]
        assert len(server.of()) == 39

    @pytest.mark.parametrize(("code", "error"), [(500, Retryable), (400, Paused)])
    def test_a_server_that_takes_no_event_costs_none(
        self, server: ClearmlServer, courier: Courier, code: int, error: type[Exception]
    ) -> None:
        courier.deliver(point("a", 0.0, 0))

        def check(action: str, body: Any) -> None:
            if action == "events.add_batch":
                raise server.error(code, 0, "5 document(s) failed to index.")

        server.check = check
        items = courier.items([point("a", float(step), step) for step in range(1, 5)])
        with pytest.raises(error):
            courier.deliver_uncommitted(items)
        server.check = lambda action, body: None
        courier.deliver_items(items)
        assert len(server.of()) == 5


class TestTask:
    def test_a_task_that_was_deleted_is_made_anew(self, server: ClearmlServer, courier: Courier) -> None:
        courier.deliver(point("a", 0.0, 0), point("a", 0.5, 0))
        server.tasks.clear()
        server.events.clear()
        with pytest.raises(Rewind):
            courier.exporter.export(courier.run, courier.items([point("a", 1.0, 1)]), courier.state, courier.memory)
        courier.deliver(point("a", 1.0, 1))
        assert courier.rewinds == 1
        assert server.scalars(server.task()["id"]) == Counter([("a/a", 0.0, 0), ("a/a #2", 0.5, 0), ("a/a", 1.0, 1)])

    @pytest.mark.parametrize("restart", [False, True])
    def test_a_task_that_was_published(self, server: ClearmlServer, courier: Courier, restart: bool) -> None:
        courier.deliver(point("a", 0.0, 0))
        server.task()["status"] = "published"
        if restart:
            courier.restart()
        items = courier.items([point("a", 1.0, 1)])
        with pytest.raises(Paused, match="published"):
            courier.deliver_uncommitted(items)

    def test_a_task_that_the_server_gave_up_goes_on(
        self, server: ClearmlServer, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server stops tasks that said nothing for two hours."""
        courier.deliver(point("a", 0.0, 0))
        server.task().update(status="stopped", status_reason="Forced stop (non-responsive)")
        monkeypatch.setattr(clearml_online, "_LOOK_EVERY", 0.0)
        courier.deliver(point("a", 1.0, 1))
        assert server.task()["status"] == "in_progress"

    def test_a_task_that_somebody_aborted_stays_so(self, server: ClearmlServer, courier: Courier) -> None:
        courier.deliver(point("a", 0.0, 0))
        server.task().update(status="stopped", status_reason="user aborted it")
        courier.restart()
        courier.deliver(point("a", 1.0, 1))
        assert server.task()["status"] == "stopped"

    def test_a_task_that_moved_is_found(self, server: ClearmlServer, courier: Courier) -> None:
        items = courier.items([point("a", 0.0, 0)])
        courier.deliver_uncommitted(items)
        server.task()["project"] = "another"
        courier.restart()
        courier.deliver_items(items)
        assert len(server.tasks) == 1


class TestFiles:
    def test_a_large_file_is_read_bit_by_bit(self, server: ClearmlServer, courier: Courier) -> None:
        data = content(3_000_000)
        path = blob_path(Path(courier.run.blobs), digest(data))
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        courier.deliver(Artifact("large.bin", BlobRef(digest(data), len(data), ""), "", T0))
        (artifact,) = server.task()["execution"]["artifacts"]
        assert artifact["hash"] == digest(data)
        assert server.files[artifact["uri"].removeprefix(f"{server.files_url}/")] == data

    def test_a_store_that_is_a_folder(
        self, server: ClearmlServer, courier: Courier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ClearML's own storage, as for a bucket."""
        monkeypatch.setenv("CLEARML_FILES_HOST", f"file://{tmp_path}/store")
        made = sample("figure", 1)
        records = [
            Artifact("x.txt", b"1", "", T0),
            Media("fig", "figure", made.data, "image/png", 1, T0, made.metadata),
        ]
        courier.deliver(*records)
        (artifact,) = server.task()["execution"]["artifacts"]
        assert Path(artifact["uri"].removeprefix("file://")).read_bytes() == b"1"
        (event,) = server.of("training_debug_image")  # a page shows no plot of a file on this machine
        assert Path(event["url"].removeprefix("file://")).read_bytes() == made.data
        assert courier.delivered == 2

    def test_hosts_of_one_installation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CLEARML_WEB_HOST", "CLEARML_FILES_HOST"):
            monkeypatch.delenv(name, raising=False)
        hosts = [(clearml_online.web_host(api), clearml_online.files_host(api)) for api in APIS]
        assert hosts == [
            ("https://app.clear.ml", "https://files.clear.ml"),
            ("http://localhost:8080", "http://localhost:8081"),
            ("https://app.mine.example:444", "https://files.mine.example:444"),
        ]


APIS = ("https://api.clear.ml", "http://localhost:8008", "https://api.mine.example:444")
