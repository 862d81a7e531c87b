"""Dead letters that are tried again and runs that are replayed: real workers, real MLflow stores."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tracelet_collector.blobs import BlobStore, blob_path
from tracelet_collector.home import blobs_path
from tracelet_collector.log.base import DeadLetter, Progress

from tests.support.delivering import Desk, Writer, run_spec
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import until
from tests.support.wandb_file import history
from tracelet.core.metrics import Media, Metric, RunEnd, RunStatus
from tracelet.proto.v1 import collector_pb2 as wire

T0 = 1_700_000_000.0


def points(count: int) -> list[Metric]:
    return [Metric("loss", step / 7, step, T0 + step / 1000) for step in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "store")


def counted(store: MlflowStore) -> Counter[tuple[str, int, float]]:
    return Counter((point.key, point.step, point.value) for point in store.points())


EVERYTHING = Counter(("loss", step, step / 7) for step in range(1000))


def bury(desk: Desk, dead: int) -> None:
    """A first chunk of 500 points of which so many are dead, though MLflow would take them: somebody has mended something."""
    chunk = desk.log.read("r1", "mlflow", 500, 10**9)
    assert chunk is not None
    letters = [DeadLetter("r1", "mlflow", 1, 1 + 3 * at, "loss", "once", "{}") for at in range(dead)]
    desk.log.commit("r1", "mlflow", Progress(chunk.until, delivered=chunk.points - dead, dead=letters))


def test_letters_that_are_tried_again_arrive_and_nothing_else_does(tmp_path: Path, store: MlflowStore) -> None:
    desk = Desk(tmp_path / "home")
    writer = Writer(desk.log, run_spec("r1", store.uri))
    writer.write(points(1000), cut=500)
    bury(desk, 40)
    with desk:
        desk.until_settled("r1")
        assert len(store.points()) == 500  # of the first chunk it was only said
        assert desk.log.redrive([letter.letter for letter in desk.log.dead_letters()]) == (40, 0)
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        assert desk.log.dead_letters() == []
        cursor = desk.cursor("r1")
        assert (cursor.delivered, cursor.dead) == (1000, 0)
    assert len(store.points()) == 540
    assert counted(store) <= EVERYTHING
    assert len(store.runs()) == 1


def test_a_letter_is_dead_again_for_another_reason(tmp_path: Path, store: MlflowStore) -> None:
    with Desk(tmp_path / "home") as desk:
        writer = Writer(desk.log, run_spec("r1", store.uri))
        content = desk.blob(b"a picture", "image/png")
        path = blob_path(blobs_path(desk.home), content.sha256)
        path.rename(path.with_suffix(".away"))
        media = Media("img", "image", content, "image/png", 1, T0)
        writer.write([*points(10), Metric("loss", 1.0, 2**63, T0), media])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        assert desk.cursor("r1").dead == 2
        path.with_suffix(".away").rename(path)
        before = {letter.name: letter for letter in desk.log.dead_letters()}
        desk.log.redrive([letter.letter for letter in before.values()])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        (after,) = desk.log.dead_letters()
        assert after == before["loss"]  # no step of MLflow's, today as little as yesterday; its mark is gone
        assert (desk.cursor("r1").delivered, desk.cursor("r1").dead) == (11, 1)
    assert {found.read_bytes() for found in store.artifacts().rglob("*.png")} == {b"a picture"}


@pytest.mark.faults
def test_the_worker_dies_while_letters_are_tried_again(tmp_path: Path, store: MlflowStore) -> None:
    desk = Desk(tmp_path / "home")
    writer = Writer(desk.log, run_spec("r1", store.uri))
    writer.write(points(1000), cut=500)
    bury(desk, 166)
    with desk:
        desk.until_settled("r1")
        stored = store.count()
        pid = desk.until_worker("r1")
        os.kill(pid, signal.SIGSTOP)
        desk.log.redrive([letter.letter for letter in desk.log.dead_letters()])
        desk.delivery.wake("r1")
        os.kill(pid, signal.SIGCONT)
        until(lambda: store.count() > stored or desk.cursor("r1").settled, 60.0)
        if desk.live("r1").worker_pid == pid:
            os.kill(pid, signal.SIGKILL)
        desk.until_settled("r1")
        assert desk.log.dead_letters() == []
    assert store.count() == stored + 166
    assert counted(store) <= EVERYTHING


def test_a_run_goes_to_a_second_store_and_is_rebuilt_in_the_first(tmp_path: Path, store: MlflowStore) -> None:
    other = MlflowStore.fresh(tmp_path / "other")
    with Desk(tmp_path / "home") as desk:
        run = run_spec("r1", store.uri)
        Writer(desk.log, run).write([*points(1000), RunEnd(RunStatus.FINISHED, "", T0 + 5)])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        backend = run.backends[0]
        desk.log.add_backend(
            "r1",
            wire.BackendSpec(kind="mlflow", target=other.uri, interpreter=backend.interpreter, slot="mlflow@other"),
        )
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "mlflow@other").settled, 60.0)
        before = store.all_points()
        assert desk.log.rewind("r1", "mlflow") == 1000
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        assert {cursor.kind: cursor.delivered for cursor in desk.log.cursors()} == {
            "mlflow": 1000,
            "mlflow@other": 1000,
        }
    assert store.all_points() == before
    assert counted(store) == counted(other) == EVERYTHING
    assert [run["status"] for run in (store.run(), other.run())] == ["FINISHED", "FINISHED"]


@pytest.mark.faults
def test_a_run_is_put_back_while_a_chunk_of_it_is_under_way(tmp_path: Path, store: MlflowStore) -> None:
    with Desk(tmp_path / "home") as desk:
        Writer(desk.log, run_spec("r1", store.uri)).write(
            [*points(1000), RunEnd(RunStatus.FINISHED, "", T0 + 5)], cut=50
        )
        desk.delivery.wake("r1")
        pid = desk.until_worker("r1")
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)  # a chunk is under way now, or will be; the log does not wait for it
            desk.log.rewind("r1", "mlflow")
            os.kill(pid, signal.SIGCONT)
            desk.delivery.wake("r1")
            until(lambda: desk.cursor("r1").delivered, 60.0)
        desk.until_settled("r1")
        assert desk.cursor("r1").delivered == 1000
    assert counted(store) == EVERYTHING


def test_a_run_that_is_retired_goes_on_where_it_was(tmp_path: Path, store: MlflowStore) -> None:
    """Its exporter knows MLflow's run and what files it has, though the log no longer has their records."""
    with Desk(tmp_path / "home") as desk:
        blobs = BlobStore(blobs_path(desk.home))

        def text(word: bytes) -> Media:
            return Media("note", "text", desk.blob(word * 5000, "text/plain"), "text/plain", 1, T0)

        first = Writer(desk.log, run_spec("r1", store.uri))
        first.write([*points(500), text(b"a"), RunEnd(RunStatus.FINISHED, "", T0 + 5)])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        before = desk.cursor("r1")
        assert desk.log.retire("r1")
        for _ in desk.log.purge(blobs.remove):
            pass
        assert not [path for path in blobs.root.rglob("*") if path.is_file()]
        again = Writer(desk.log, run_spec("r1", store.uri), epoch=2)
        again.write([*points(1000)[500:], text(b"b"), RunEnd(RunStatus.FAILED, "", T0 + 9)])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        assert desk.cursor("r1").delivered == before.delivered + 501 == 1002
    assert counted(store) == EVERYTHING
    assert store.run()["status"] == "FAILED"
    stored = [
        path.read_bytes()[:1] for path in store.artifacts().rglob("*") if path.is_file() and path.stat().st_size == 5000
    ]
    assert sorted(stored) == [b"a", b"b"]


EXPORTERS = """
import os, signal
from tracelet.core.metrics import Metric
from tracelet_collector.exporters.base import Outcome, Rewind
from tracelet_collector.exporters.mlflow import MlflowExporter

class Changed(MlflowExporter):
    def export(self, run, items, state, memory):
        {body}
        return super().export(run, items, state, memory)
"""


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A Python whose MLflow exporter does something else first; for `run_spec`."""

    def make(body: str) -> str:
        folder = tmp_path / "changed"
        folder.mkdir()
        (folder / "changed.py").write_text(EXPORTERS.format(body=body))
        python = folder / "python"
        python.write_text(
            "#!/bin/sh\n"
            f'exec {sys.executable} -c \'import sys; sys.path.insert(0, "{folder}"); import dataclasses\n'
            "from tracelet_collector.exporters import table; from tracelet_collector.delivery import worker\n"
            'entry = dataclasses.replace(table.EXPORTERS["mlflow"], module="changed", name="Changed")\n'
            'worker.EXPORTERS = {"mlflow": entry}\n'
            'worker.main(sys.argv[-1:])\' "$@"\n'
        )
        python.chmod(0o755)
        return str(python)

    return make


def test_a_retired_run_is_not_rebuilt_as_less(
    tmp_path: Path, store: MlflowStore, changed: Callable[[str], str]
) -> None:
    """An exporter finds that what it counted is not there; the log does not have it either."""
    python = changed(
        "if state.get('run') and any(isinstance(i.record, Metric) for i in items): raise Rewind('the folder is gone')"
    )
    with Desk(tmp_path / "home") as desk:
        spec = run_spec("r1", store.uri, interpreter=python)
        Writer(desk.log, spec).write([*points(100), RunEnd(RunStatus.FINISHED, "", T0 + 5)])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        assert desk.log.retire("r1")
        Writer(desk.log, spec, epoch=2).write(points(10))
        desk.delivery.wake("r1")
        live = desk.until_state("r1", "paused")
        assert "the folder is gone; but run r1 is retired" in live.last_error
        cursor = desk.cursor("r1")
        assert (cursor.delivered, cursor.lag_points) == (100, 10)
    assert store.count() == 100


@pytest.mark.faults
def test_letters_that_kill_the_worker_are_dead_again_and_hold_up_nobody(
    tmp_path: Path, store: MlflowStore, changed: Callable[[str], str]
) -> None:
    python = changed(
        "any(isinstance(i.record, Metric) and i.record.step == 3 for i in items) and os.kill(os.getpid(), signal.SIGKILL)"
    )
    desk = Desk(tmp_path / "home")
    writer = Writer(desk.log, run_spec("r1", store.uri, interpreter=python))
    writer.write(points(1000), cut=500)
    bury(desk, 4)
    desk.log.redrive([2])  # of step 3
    with desk:
        until(lambda: desk.cursor("r1").settled, 60.0, "everything else arrives, and the letter is given up")
        letters = {letter.letter: letter.error for letter in desk.log.dead_letters()}
        assert "killed by SIGKILL" in letters[2]
        assert [letters[other] for other in (1, 3, 4)] == ["once"] * 3
        desk.log.redrive([1, 3, 4])
        desk.delivery.wake("r1")
        desk.until_settled("r1")
        assert [letter.letter for letter in desk.log.dead_letters()] == [2]
    assert store.count() == 503


def test_a_tracker_that_keeps_every_row_is_written_anew(tmp_path: Path) -> None:
    """W&B offline, while its run is open: a row that had no content has it now, and there is no other one."""
    folder = tmp_path / "wandb-dir"
    folder.mkdir()
    with Desk(tmp_path / "home") as desk:
        content = desk.blob(b"a text " * 1000, "text/plain")
        path = blob_path(blobs_path(desk.home), content.sha256)
        path.rename(path.with_suffix(".away"))
        writer = Writer(desk.log, run_spec("r1", f"offline:{folder}", kind="wandb"))
        writer.write([*points(100), Media("note", "text", content, "text/plain", 1, T0), *points(200)[100:]])
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "wandb").settled, 60.0)
        assert desk.cursor("r1", "wandb").dead == 1
        path.with_suffix(".away").rename(path)
        desk.log.redrive([1])
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "wandb").settled, 60.0)
        writer.write([RunEnd(RunStatus.FINISHED, "", T0 + 5)])
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "wandb").settled, 60.0)
        cursor = desk.cursor("r1", "wandb")
        assert (cursor.delivered, cursor.dead) == (201, 0)
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    rows = history(file)
    assert len(rows) == 201
    assert sorted(row["loss"] for row in rows if "loss" in row) == [step / 7 for step in range(200)]
    assert len([row for row in rows if "note.path" in row]) == 1
