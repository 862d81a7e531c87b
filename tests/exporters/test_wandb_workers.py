"""W&B by real worker processes, which are killed, and wandb-core under them: every row is there once."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.delivering import Desk, Writer, run_spec
from tests.support.processes import lives, mounted, until
from tests.support.wandb_file import history
from tests.support.wandb_runs import state
from tests.support.wandb_server import KEY, Fault, WandbServer, serving
from tracelet.core.metrics import Artifact, Media, Metric, Params, RunEnd, RunStatus
from tracelet.transport import credentials

pytestmark = pytest.mark.faults

T0 = 1_700_000_000.0
END = RunEnd(RunStatus.FINISHED, "", T0 + 9)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path / "home") as desk:
        yield desk


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serving() as server:
        yield server


def points(first: int, last: int) -> list[Metric]:
    return [
        Metric(name, step / 7, step, T0 + step, tag=name) for step in range(first, last) for name in ("loss", "acc")
    ]


def expected(last: int) -> Counter[tuple[str, int, float]]:
    return Counter((name, step, step / 7) for step in range(last) for name in ("loss", "acc"))


def counted(rows: list[dict[str, Any]]) -> Counter[tuple[str, int, float]]:
    return Counter((name, row["global_step"], row[name]) for row in rows for name in ("loss", "acc") if name in row)


def offline(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows and state of the only folder."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return history(file), state(file)


def settle(desk: Desk, run_id: str = "r-1", seconds: float = 90.0) -> None:
    until(lambda: desk.cursor(run_id, "wandb").settled, seconds, f"{run_id}: {desk.live(run_id, 'wandb')}")
    cursor = desk.cursor(run_id, "wandb")
    (row,) = desk.log.runs(run_id)
    assert row.durable == cursor.delivered + cursor.collapsed + cursor.rerouted + cursor.dead


def worker(desk: Desk, run_id: str = "r-1") -> int:
    return until(lambda: desk.live(run_id, "wandb").worker_pid, 60, f"a worker: {desk.live(run_id, 'wandb')}")


def core(pid: int) -> int:
    """The wandb-core of a worker; 0 when there is none."""
    try:
        found = [child.pid for child in psutil.Process(pid).children() if "wandb-core" in child.name()]
    except psutil.NoSuchProcess:
        return 0
    return found[0] if found else 0


def kill(pid: int) -> None:
    if pid:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        until(lambda: not lives(pid), 20)


def write_and_kill(desk: Desk, writer: Writer, seed: int, parts: int = 6, size: int = 100) -> None:
    """A run of `parts * size` steps, with kills at any moment of it."""
    chance = random.Random(seed)
    for part in range(parts):
        writer.write(points(part * size, (part + 1) * size), cut=chance.randint(1, 60))
        desk.delivery.wake("r-1")
        seen = desk.cursor("r-1", "wandb").delivered
        if chance.random() < 0.6:
            until(lambda seen=seen: desk.cursor("r-1", "wandb").delivered != seen, 60, str(desk.live("r-1", "wandb")))
        pid = worker(desk)
        kill(core(pid) if chance.random() < 0.5 else pid)


@pytest.mark.parametrize("seed", range(2))
def test_offline(desk: Desk, tmp_path: Path, seed: int) -> None:
    writer = Writer(desk.log, run_spec("r-1", f"offline:{tmp_path}", kind="wandb"))
    write_and_kill(desk, writer, seed)
    writer.write([END])
    desk.delivery.wake("r-1")
    settle(desk)
    rows, end = offline(tmp_path)
    assert counted(rows) == expected(600)
    assert end == "0"
    assert not list(tmp_path.glob("wandb/.tracelet/*"))


@pytest.mark.parametrize("seed", range(2))
def test_online(desk: Desk, server: WandbServer, seed: int) -> None:
    key = credentials.keep(desk.home, {"WANDB_API_KEY": KEY})
    writer = Writer(desk.log, run_spec("r-1", server.url, kind="wandb", credentials=key))
    writer.write([Params({"lr": 0.5}, T0), Media("t", "text", b"a text", "text/plain", 1, T0, tag="t")])
    write_and_kill(desk, writer, seed)
    writer.write([Artifact("a.txt", b"hello", "", T0), END])
    desk.delivery.wake("r-1")
    settle(desk)
    kept = server.runs["r-1"]
    assert counted(kept.rows()) == expected(600)
    assert not kept.conflicts
    assert (kept.state, kept.exit_code, kept.config["lr"]["value"]) == ("finished", 0, 0.5)
    assert kept.files["a.txt"] == b"hello"
    assert any(name.startswith("media/html/t_") for name in kept.files)


def test_a_late_record_after_the_end_leaves_one_folder(desk: Desk, tmp_path: Path) -> None:
    writer = Writer(desk.log, run_spec("r-1", f"offline:{tmp_path}", kind="wandb"))
    writer.write([*points(0, 50), END])
    desk.delivery.wake("r-1")
    settle(desk)
    first = {path.name for path in tmp_path.glob("wandb/offline-run-*")}
    writer.write(points(50, 60))
    desk.delivery.wake("r-1")
    settle(desk)
    rows, end = offline(tmp_path)
    assert counted(rows) == expected(60)
    assert end == "0"
    assert {path.name for path in tmp_path.glob("wandb/offline-run-*")} == first


def test_a_reader_never_sees_less_than_before(desk: Desk, tmp_path: Path) -> None:
    writer = Writer(desk.log, run_spec("r-1", f"offline:{tmp_path}", kind="wandb"))
    writer.write(points(0, 1500), cut=50)
    desk.delivery.wake("r-1")
    (file,) = until(lambda: list(tmp_path.glob("wandb/offline-run-*/run-*.wandb")), 60)
    until(lambda: len(history(file)) == 1500, 60)
    kill(worker(desk))
    writer.write(points(1500, 1600), cut=50)
    desk.delivery.wake("r-1")

    def seen() -> bool:
        rows, _ = offline(tmp_path)
        assert len(rows) >= 1500
        return len(rows) == 1600

    until(seen, 90)
    writer.write([END])
    desk.delivery.wake("r-1")
    settle(desk)
    assert counted(offline(tmp_path)[0]) == expected(1600)


def test_a_server_that_is_down_and_comes_back(desk: Desk, server: WandbServer) -> None:
    key = credentials.keep(desk.home, {"WANDB_API_KEY": KEY})
    writer = Writer(desk.log, run_spec("r-1", server.url, kind="wandb", credentials=key))
    server.fault = Fault(500)
    writer.write(points(0, 50))
    desk.delivery.wake("r-1")
    until(lambda: desk.live("r-1", "wandb").state == "retrying", 60)
    assert "500" in desk.live("r-1", "wandb").last_error
    server.fault = None
    until(lambda: desk.cursor("r-1", "wandb").delivered == 100, 60)
    server.fault = Fault(401)
    writer.write([*points(50, 100), END])
    desk.delivery.wake("r-1")
    until(lambda: desk.live("r-1", "wandb").state == "paused", 120, str(desk.live("r-1", "wandb")))
    assert "wandb login" in desk.live("r-1", "wandb").last_error
    server.fault = None
    settle(desk, seconds=120)
    assert counted(server.runs["r-1"].rows()) == expected(100)
    assert server.runs["r-1"].state == "finished"


def test_many_runs_at_once(desk: Desk, tmp_path: Path) -> None:
    runs = [f"r-{number}" for number in range(100)]
    writers = [Writer(desk.log, run_spec(run, f"offline:{tmp_path}", kind="wandb")) for run in runs]
    for records in (points(0, 10), points(10, 20), [END]):
        for run, writer in zip(runs, writers, strict=True):
            writer.write(records)
            desk.delivery.wake(run)
    for run in runs:
        settle(desk, run, 180)
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 100
    for file in files:
        assert counted(history(file)) == expected(20)
        assert state(file) == "0"


def test_a_disk_that_is_full_for_a_while(desk: Desk, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 24) as disk:
        writer = Writer(desk.log, run_spec("r-1", f"offline:{disk}", kind="wandb"))
        writer.write(points(0, 300), cut=50)
        desk.delivery.wake("r-1")
        until(lambda: desk.cursor("r-1", "wandb").delivered == 600, 60)
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
        writer.write(points(300, 600), cut=50)
        desk.delivery.wake("r-1")
        until(lambda: desk.live("r-1", "wandb").state == "retrying", 60)
        assert "full" in desk.live("r-1", "wandb").last_error
        kill(worker(desk))  # the next one finds no room to begin in
        until(lambda: desk.live("r-1", "wandb").worker_pid, 60)
        until(lambda: desk.live("r-1", "wandb").state == "retrying", 60)
        filler.unlink()
        writer.write([END])
        desk.delivery.wake("r-1")
        settle(desk, seconds=120)
        rows, end = offline(disk)
        assert counted(rows) == expected(600)
        assert end == "0"
