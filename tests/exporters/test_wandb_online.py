"""W&B online: a server that keeps what wandb sends, and what becomes of a run when it does not answer."""

from __future__ import annotations

import dataclasses
import math
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracelet_collector.exporters.base import Retryable, Run, Unauthorized
from tracelet_collector.exporters.wandb import WandbExporter

from tests.contract.samples import KINDS, sample
from tests.support.exporting import Courier
from tests.support.processes import until
from tests.support.wandb_server import KEY, Fault, KeptRun, WandbServer, serving
from tracelet.core.metrics import Artifact, Media, Metric, Params, RunEnd, RunStatus, Tags

T0 = 1_700_000_000.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with serving() as server:
        yield server


@pytest.fixture
def courier(server: WandbServer, tmp_path: Path) -> Iterator[Courier]:
    run = Run("r-1", "a run", "a project", f"{server.url}/team", T0, notes="why", group="g", tags={"a": "b", "c": "true"},
              blobs=str(tmp_path / "blobs"))  # fmt: skip
    courier = Courier(WandbExporter, run)
    yield courier
    server.fault = None
    server.hidden = 0
    server.released.set()
    courier.exporter.close()


def points(first: int, last: int) -> list[Metric]:
    return [Metric("loss", step / 7, step, T0 + step, tag="loss") for step in range(first, last)]


def settled(server: WandbServer, rows: int) -> KeptRun:
    until(lambda: "r-1" in server.runs and server.runs["r-1"].count >= rows, 30, f"{rows} rows")
    return server.runs["r-1"]


def values(kept: KeptRun, key: str = "loss") -> Counter[tuple[int, float]]:
    return Counter((row["global_step"], row[key]) for row in kept.rows() if key in row)


def expected(first: int, last: int) -> Counter[tuple[int, float]]:
    return Counter((step, step / 7) for step in range(first, last))


END = RunEnd(RunStatus.FINISHED, "", T0 + 9)


def test_a_run_with_everything(server: WandbServer, courier: Courier) -> None:
    media = [Media(kind, kind, (made := sample(kind, 1)).data, made.media_type, 3, T0, tag=kind) for kind in KINDS]
    courier.deliver(Params({"lr": 0.1, "bad": math.nan}, T0), *points(0, 50), Tags({"late": "yes"}, T0))
    courier.deliver(*media, Artifact("a/b.txt", b"hello", "", T0), END)
    kept = settled(server, 50)
    assert (kept.entity, kept.project, kept.name, kept.state, kept.exit_code) == (
        "team",
        "a project",
        "r-1",
        "finished",
        0,
    )
    assert (kept.said["displayName"], kept.said["notes"], kept.said["groupName"]) == ("a run", "why", "g")
    assert kept.tags == ["a:b", "c", "late:yes"]
    assert {name: kept.config[name]["value"] for name in ("lr", "bad")} == {"lr": 0.1, "bad": "nan"}
    assert kept.config["_tracelet"]["value"]["metrics"]["histogram"] == {"type": "histogram"}
    assert values(kept) == expected(0, 50)
    assert kept.count == 50 + len(KINDS)
    assert all(row["_timestamp"] == T0 + row["global_step"] for row in kept.rows() if "loss" in row)
    assert kept.files["a/b.txt"] == b"hello"
    for row in kept.rows():
        for value in row.values():
            if isinstance(value, dict) and "path" in value:
                assert len(kept.files[value["path"]]) == value["size"]
    assert courier.state["link"].endswith("/team/a%20project/runs/r-1")
    assert courier.exporter.holds is False


def test_a_new_worker_goes_on(server: WandbServer, courier: Courier) -> None:
    """Rows that the server has are left out; what it says of the run is told again."""
    courier.deliver(Params({"lr": 0.1}, T0), *points(0, 30))
    settled(server, 30)
    courier.restart()
    courier.deliver(*points(30, 60))
    assert courier.rewinds == 1
    courier.deliver(END)
    kept = settled(server, 60)
    assert values(kept) == expected(0, 60)
    assert not kept.conflicts
    assert kept.state == "finished"


def test_a_chunk_that_was_not_committed(server: WandbServer, courier: Courier) -> None:
    """It was with the server already: more rows than the state says."""
    courier.deliver(*points(0, 10))
    items = courier.items(points(10, 20))
    courier.deliver_uncommitted(items)
    courier.deliver_uncommitted(items)
    settled(server, 20)
    courier.restart()
    courier.deliver_items(items)
    courier.deliver(*points(20, 30), END)
    kept = settled(server, 30)
    assert values(kept) == expected(0, 30)
    assert not kept.conflicts


def test_dead_letters_that_are_tried_again_say_why_they_stay(server: WandbServer, courier: Courier) -> None:
    never = courier.items([Metric("loss", 1.0, 2**63, T0)])
    courier.deliver_items(never)
    courier.deliver(*points(0, 10))
    late = courier.items([Metric("loss", 2.0, 3, T0)])
    courier.run = dataclasses.replace(courier.run, redriven=True)
    outcome = courier.deliver_uncommitted([*never, *late])
    assert "outside the 64-bit integers" in outcome.dead[0].error
    assert "none can be put before them" in outcome.dead[1].error


def test_rows_that_the_server_lost_come_again(server: WandbServer, courier: Courier) -> None:
    """Those that wandb-core had when it was killed, as far as anybody can see."""
    courier.deliver(*points(0, 30))
    kept = settled(server, 30)
    courier.restart()
    for line in range(20, 30):
        del kept.history[line]
    courier.deliver(*points(30, 40), END)
    assert courier.rewinds == 1
    assert values(settled(server, 40)) == expected(0, 40)


def test_a_run_that_had_ended_goes_on(server: WandbServer, courier: Courier) -> None:
    courier.deliver(*points(0, 10), END)
    courier.restart()
    courier.deliver(RunEnd(RunStatus.RUNNING, "", T0), *points(10, 20))
    kept = settled(server, 20)
    assert (kept.state, courier.rewinds) == ("running", 0)
    courier.deliver(RunEnd(RunStatus.KILLED, "signal 9", T0))
    assert (kept.exit_code, values(kept)) == (255, expected(0, 20))


def test_it_does_not_run_ahead_of_the_server(
    server: WandbServer, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more rows than the window are counted as delivered and not with the server."""
    monkeypatch.setattr("tracelet_collector.exporters.wandb_session.WINDOW", 10)
    monkeypatch.setattr("tracelet_collector.exporters.wandb_session._STALLED", 3.0)
    courier.deliver(*points(0, 10))
    server.fault = Fault(503, only="file_stream")
    items = courier.items(points(10, 40))
    with pytest.raises(Retryable, match="takes no rows: 40 wait"):
        courier.deliver_uncommitted(items)
    server.fault = None
    until(lambda: _delivered(courier, items), 60)
    kept = server.runs["r-1"]
    assert kept.count >= 30
    courier.deliver(END)
    assert values(settled(server, 40)) == expected(0, 40)
    assert not kept.conflicts


def _delivered(courier: Courier, items: list) -> bool:  # type: ignore[type-arg]
    try:
        courier.deliver_items(items)
    except Retryable:
        return False
    return True


def test_no_answer_but_a_time(server: WandbServer, courier: Courier) -> None:
    server.fault = Fault(429, retry_after=17)
    with pytest.raises(Retryable, match="429") as error:
        courier.deliver(*points(0, 3))
    assert error.value.retry_after == 17
    server.fault = Fault(500)
    with pytest.raises(Retryable, match="500"):
        courier.deliver(*points(0, 3))
    server.fault = None
    courier.next_seq, courier.next_lsn = 0, 1
    courier.deliver(*points(0, 3), END)
    assert values(settled(server, 3)) == expected(0, 3)


def test_a_silent_server(server: WandbServer, courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelet_collector.exporters.wandb_server._TIMEOUT", 1.0)
    server.fault = Fault(0)
    with pytest.raises(Retryable, match="timed out"):
        courier.deliver(*points(0, 3))


def test_nobody_there(courier: Courier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    courier.run = dataclasses.replace(courier.run, target=f"http://127.0.0.1:{port}")
    with pytest.raises(Retryable, match="refused"):
        courier.deliver(*points(0, 3))


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused(server: WandbServer, courier: Courier, status: int) -> None:
    server.fault = Fault(status)
    with pytest.raises(Unauthorized, match="wandb login"):
        courier.deliver(*points(0, 3))
    assert getattr(courier.exporter, "spent", False), "wandb-core may have given up"
    server.fault = None
    courier.restart()
    courier.next_seq, courier.next_lsn = 0, 1
    courier.deliver(*points(0, 3), END)
    assert values(settled(server, 3)) == expected(0, 3)


def test_no_key(courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(Unauthorized, match="WANDB_API_KEY"):
        courier.deliver(*points(0, 3))


def test_something_else_is_there(courier: Courier, server: WandbServer) -> None:
    courier.deliver(*points(0, 3))
    server.fault = Fault(404)
    courier.restart()
    with pytest.raises(Exception, match="no W&B server"):
        courier.deliver(*points(3, 6))


def test_rows_that_arrive_while_it_begins_are_noticed(
    server: WandbServer, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late request of a predecessor: where wandb-core goes on is not known then."""
    courier.deliver(*points(0, 10))
    settled(server, 10)
    courier.restart()
    server.hidden = 4
    begin = WandbServer._upsert

    def arrives(self: WandbServer, said: dict) -> dict:  # type: ignore[type-arg]
        self.hidden = 0
        return begin(self, said)

    monkeypatch.setattr(WandbServer, "_upsert", arrives)
    with pytest.raises(Retryable, match="had 6 rows of the run, and now has 10"):
        courier.deliver(*points(10, 20))
    courier.next_seq, courier.next_lsn = 10, 2
    courier.deliver(*points(10, 20), END)
    kept = settled(server, 20)
    assert values(kept) == expected(0, 20)
    assert not kept.conflicts
