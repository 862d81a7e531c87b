"""`tracelet dead-letters`: with a collector and without one, real logs, real MLflow."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.blobs import blob_path
from tracelet_collector.home import blobs_path, log_path
from tracelet_collector.log.base import DeadLetter, Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.collector import CollectorProcess
from tests.support.commands import TRACELET, tracelet
from tests.support.delivering import Desk, Writer, run_spec
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import BUSY, until
from tracelet.core.metrics import Media, Metric, RunEnd, RunStatus
from tracelet.transport import local
from tracelet.transport.wait import status

T0 = 1_700_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "store")


@pytest.fixture
def buried(home: Path, store: MlflowStore) -> MlflowStore:
    """Two runs whose delivery is over, in a home without a collector: letters 1 to 3 are of `first`, 4 and 5 of `second`."""
    log = SqliteLog(log_path(home))
    for run_id, dead in (("first", 3), ("second", 2)):
        points = [Metric("loss", step / 7, step, T0 + step) for step in range(10)]
        Writer(log, run_spec(run_id, store.uri)).write([*points, RunEnd(RunStatus.FINISHED, "", T0 + 60)])
        chunk = log.read(run_id, "mlflow", 10**6, 10**9)
        assert chunk is not None
        point = '{"name": "loss", "value": NaN, "step": 3, "wall_time": 1.5}'
        letters = [
            DeadLetter(run_id, "mlflow", chunk.until, 1 + at, "loss", f"reason {at}", point) for at in range(dead)
        ]
        log.commit(run_id, "mlflow", Progress(chunk.until, delivered=10 - dead, dead=letters))
    log.close()
    return store


def document(folder: Path, *words: str) -> dict[str, Any]:
    done = tracelet("dead-letters", "list", "--json", *words, cwd=folder)
    assert (done.stderr, done.returncode) == ("", 0)
    return dict(json.loads(done.stdout))


def ids(folder: Path, *words: str) -> list[int]:
    return [letter["id"] for letter in document(folder, *words)["letters"]]


def said(folder: Path, *words: str, code: int = 0) -> str:
    done = tracelet("dead-letters", *words, cwd=folder)
    assert done.returncode == code, done
    return done.stderr if code else done.stdout


def settled(home: Path) -> list[tuple[str, int, int]]:
    """Name, delivered and dead of each run, when all is delivered."""

    def look() -> list[tuple[str, int, int]] | None:
        runs = status(local.ensure(home, 60.0).address, timeout=60.0).runs
        for run in runs:
            for b in run.backends:
                assert run.durable == b.delivered + b.collapsed + b.rerouted + b.dead + b.lag_points
        if not all(backend.settled for run in runs for backend in run.backends):
            return None
        return [(run.run_id, run.backends[0].delivered, run.backends[0].dead) for run in runs]

    return until(look, 60.0) or []


def test_none(home: Path, tmp_path: Path) -> None:
    assert document(tmp_path) == {"letters": [], "known": 0}
    assert said(tmp_path, "list") == "no dead letters\n"
    assert local.find(home) is None


def test_they_are_listed_and_shown_without_a_collector(buried: MlflowStore, home: Path, tmp_path: Path) -> None:
    told = document(tmp_path)
    assert told["known"] == 5
    assert told["letters"][3] == {
        "id": 4,
        "run_id": "second",
        "run": "name of second",
        "backend": "mlflow",
        "name": "loss",
        "error": "reason 0",
        "point": {"name": "loss", "value": "NaN", "step": 3, "wall_time": 1.5},
        "redriven": False,
        "retired": False,
    }
    assert ids(tmp_path, "second") == ids(tmp_path, "name of second", "--backend", "mlflow") == [4, 5]
    assert ids(tmp_path, "--backend", "wandb") == []
    assert "no run here goes to 'mlfow'; there are: mlflow" in said(tmp_path, "list", "--backend", "mlfow", code=2)
    assert ids(tmp_path, "--limit", "2") == [1, 2]
    lines = said(tmp_path, "list", "--limit", "4").splitlines()
    assert lines[0].split() == ["id", "run", "backend", "name", "why"]
    assert lines[1].split() == ["1", "name", "of", "first", "first", "mlflow", "loss", "reason", "0"]
    assert lines[5] == "and 1 more; --limit 0 shows all"
    assert json.loads(said(tmp_path, "show", "4", "--json")) == told["letters"][3]
    assert "error: reason 0\n" in said(tmp_path, "show", "4")
    assert "point.step: 3\n" in said(tmp_path, "show", "4")
    assert local.find(home) is None
    assert "5 points are dead" in tracelet("status", cwd=tmp_path).stdout


def test_they_are_listed_by_a_collector_page_by_page(home: Path, tmp_path: Path) -> None:
    log = SqliteLog(log_path(home))
    writer = Writer(log, run_spec("r1", "sqlite:///nowhere.db"))
    writer.write([Metric("loss", 1.0, step, T0) for step in range(2500)], cut=2500)
    letters = [DeadLetter("r1", "mlflow", 1, 1 + at, "loss", "x" * 4000, "{}") for at in range(2500)]
    log.commit("r1", "mlflow", Progress(1, dead=letters))
    log.close()
    with CollectorProcess(home):
        told = document(tmp_path, "--limit", "0")
        assert [letter["id"] for letter in told["letters"]] == list(range(1, 2501))
        assert told["known"] == 2500
        assert ids(tmp_path, "--limit", "1500") == list(range(1, 1501))
        assert said(tmp_path, "drop", "--run", "r1", "--yes").startswith("2,500 dead letters dropped")
        assert ids(tmp_path) == []


def test_redriving_starts_a_collector_and_the_points_arrive(buried: MlflowStore, home: Path, tmp_path: Path) -> None:
    assert said(tmp_path, "redrive", "2", "4", "4") == "2 dead letters will be tried again\n"
    assert settled(home) == [("first", 8, 2), ("second", 9, 1)]
    assert sorted(point.step for point in buried.points()) == [0, 1]
    assert ids(tmp_path) == [1, 3, 5]
    assert said(tmp_path, "redrive", "--run", "first", "--backend", "mlflow") == "2 dead letters will be tried again\n"
    assert settled(home) == [("first", 10, 0), ("second", 9, 1)]
    assert said(tmp_path, "redrive", "--all") == "1 dead letter will be tried again\n"
    assert settled(home) == [("first", 10, 0), ("second", 10, 0)]
    assert sorted(point.step for point in buried.points()) == [0, 0, 1, 1, 2]
    assert said(tmp_path, "redrive", "--all") == "0 dead letters will be tried again\n"


def test_dropping(buried: MlflowStore, home: Path, tmp_path: Path) -> None:
    assert said(tmp_path, "drop", "5", "--yes") == "1 dead letter dropped; their points stay counted as dead\n"
    assert ids(tmp_path) == [1, 2, 3, 4]
    assert settled(home) == [("first", 7, 3), ("second", 8, 2)]
    assert "no terminal to ask" in said(tmp_path, "drop", "--all", code=2)
    assert "no dead letter 5" in said(tmp_path, "drop", "5", "--yes", code=2)
    assert ids(tmp_path) == [1, 2, 3, 4]


def test_dropping_asks(buried: MlflowStore, tmp_path: Path) -> None:
    def answer(word: bytes) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        try:
            os.write(ours, word)
            done = subprocess.run(
                [TRACELET, "dead-letters", "drop", "--run", "first"],
                stdin=theirs, capture_output=True, text=True, cwd=tmp_path, timeout=60 * BUSY, check=False,
            )  # fmt: skip
            return done.returncode, done.stdout
        finally:
            os.close(ours)
            os.close(theirs)

    assert answer(b"\n") == (1, "Drop 3 dead letters? Nobody can try them again then. [y/N] nothing is dropped\n")
    assert ids(tmp_path, "first") == [1, 2, 3]
    assert answer(b"y\n")[0] == 0
    assert ids(tmp_path) == [4, 5]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["redrive"], "which letters"),
        (["drop", "--yes"], "which letters"),
        (["redrive", "1", "--all"], "not both"),
        (["redrive", "--all", "--run", "first"], "--all means"),
        (["redrive", "77"], "no dead letter 77"),
        (["show", "77"], "no dead letter 77"),
        (["redrive", "--run", "third"], "'third' is neither"),
        (["list", "name"], "'name' is neither"),
        (["show", "0"], "Invalid value"),
        (["redrive", "99999999999999999999"], "Invalid value"),
    ],
)
def test_bad_words(buried: MlflowStore, tmp_path: Path, words: list[str], complaint: str) -> None:
    assert complaint in said(tmp_path, *words, code=2)


@pytest.fixture
def lost(home: Path, store: MlflowStore) -> Path:
    """A picture whose content was away when MLflow was to get it; it is back now."""
    with Desk(home) as desk:
        content = desk.blob(b"a picture", "image/png")
        path = blob_path(blobs_path(home), content.sha256)
        path.rename(path.with_suffix(".away"))
        Writer(desk.log, run_spec("r1", store.uri)).write([Media("img", "image", content, "image/png", 1, T0)])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
    path.with_suffix(".away").rename(path)
    return path


def test_the_whole_way_of_a_lost_picture(lost: Path, home: Path, store: MlflowStore, tmp_path: Path) -> None:
    (letter,) = document(tmp_path)["letters"]
    assert letter["point"]["sha256"] == lost.name
    said(tmp_path, "redrive", "--all")
    assert settled(home) == [("r1", 1, 0)]
    assert b"a picture" in {found.read_bytes() for found in store.artifacts().rglob("*.png")}
