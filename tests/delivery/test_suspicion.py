"""Which record is the end of workers: found, set aside, and never one that is not."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracelet_collector.delivery.suspicion import Suspicion, Tried, Try, cut
from tracelet_collector.log.base import Chunk, Stored

from tests.support.delivering import Desk, Writer, run_spec
from tests.support.ledger import Ledger
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import until
from tracelet.core.metrics import Metric, Params, RunEnd, RunStatus

T0 = 1_700_000_000.0
Place = tuple[int, int]


@dataclass
class World:
    """A log of batches, a cursor, and a worker that fails as `fails` says, at whatever time."""

    batches: list[int]  # records of each
    fails: Callable[[list[Place], int], bool]
    rewinds: bool = False
    per_chunk: int = 9
    after: int = 0
    now: int = 0
    dead: list[Place] = field(default_factory=list)
    suspicion: Suspicion | None = None

    def chunk(self) -> Chunk | None:
        lsns = range(self.after + 1, min(self.after + self.per_chunk, len(self.batches)) + 1)
        if not lsns:
            return None
        batches = [Stored(lsn, 1, self.batches[lsn - 1], b"") for lsn in lsns]
        return Chunk("r", self.after, lsns[-1], sum(batch.points for batch in batches), batches, {})

    def turn(self) -> None:
        self.now += 1
        chunk = self.chunk()
        assert chunk is not None
        done = self.suspicion.plan(chunk, filters=True) if self.suspicion else Try()
        chunk = cut(chunk, done.until)
        aside = dict(self.suspicion.suspects) if self.suspicion else {}
        items = [(batch.lsn, seq) for batch in chunk.batches for seq in range(batch.points)]
        others = [item for item in items if item not in {*aside, *self.dead}]
        start, stop = done.part or (0, len(others))
        if self.fails(others[start:stop], self.now):
            self.suspicion = self.suspicion or Suspicion(chunk)
            self.suspicion.failed(done, chunk)
            if self.rewinds:
                self.after = 0
        elif done.part is not None:
            assert self.suspicion is not None
            self.suspicion.passed(done, Tried(len(others), others[stop] if stop < len(others) else None))
        else:
            self.dead += [item for item in items if item in aside]
            self.after = chunk.until
            if self.suspicion is not None and self.suspicion.committed(chunk):
                self.suspicion = None

    def play(self, turns: int) -> bool:
        """Whether all was delivered in so many turns."""
        for _ in range(turns):
            if self.after >= len(self.batches):
                return True
            self.turn()
        return self.after >= len(self.batches)


_batches = st.lists(st.integers(1, 9), min_size=1, max_size=9)


@given(_batches, st.data(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_the_deadly_ones_and_no_others(batches: list[int], data: st.DataObject, rewinds: bool) -> None:
    everything = [(lsn, seq) for lsn, count in enumerate(batches, 1) for seq in range(count)]
    # The run's end passes: a tracker that takes nothing at all looks the same.
    deadly = set(data.draw(st.lists(st.sampled_from(everything[:-1] or everything), unique=True, max_size=8))) - {
        everything[-1]
    }
    world = World(batches, lambda items, _: not deadly.isdisjoint(items), rewinds)
    assert world.play(40 + 400 * len(deadly) * (len(batches) if rewinds else 1))
    assert sorted(world.dead) == sorted(deadly)


@given(_batches, st.integers(0, 60), st.integers(1, 400), st.booleans(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_an_outage_is_nobodys_fault(
    batches: list[int], since: int, length: int, even_empty: bool, rewinds: bool
) -> None:
    """A tracker that hangs, a machine without memory: whenever it begins and ends, no record pays for it."""
    world = World(
        batches, lambda items, now: since <= now < since + length and bool(items or even_empty), rewinds=rewinds
    )
    assert world.play(since + length + 100)
    assert world.dead == []


@given(_batches, st.data(), st.integers(0, 60), st.integers(1, 60))
@settings(max_examples=400, deadline=None)
def test_an_outage_amid_the_search(batches: list[int], data: st.DataObject, since: int, length: int) -> None:
    everything = [(lsn, seq) for lsn, count in enumerate(batches, 1) for seq in range(count)]
    deadly = data.draw(st.sampled_from(everything[:-1] or everything))
    alone = deadly == everything[-1]
    world = World(batches, lambda items, now: deadly in items or (since <= now < since + length and bool(items)))
    assert world.play(1500) or alone
    assert world.dead == [deadly] or alone
    assert set(world.dead) <= {deadly}


def test_one_that_is_alone_waits_for_others() -> None:
    world = World([1], lambda items, _: (1, 0) in items)
    assert not world.play(100)
    assert world.dead == []
    assert world.suspicion is not None
    assert world.suspicion.waits
    world.batches.append(2)
    assert world.play(100)
    assert world.dead == [(1, 0)]


def test_too_many_at_once_go_in_parts() -> None:
    """Records that a worker can take, if not all at once: none is set aside."""
    world = World([1] * 16, lambda items, _: len(items) > 2, per_chunk=16)
    assert world.play(100)
    assert world.dead == []


def test_a_worker_that_knows_no_records_is_asked_for_none() -> None:
    chunk = Chunk("r", 0, 1, 5, [Stored(1, 1, 5, b"")], {})
    suspicion = Suspicion(chunk)
    for _ in range(20):
        done = suspicion.plan(chunk, filters=False)
        assert done.part is None
        suspicion.failed(done, chunk)
    assert suspicion.waits
    assert not suspicion.suspects


def points(*names: str) -> list[Metric]:
    return [Metric(name, float(step), step, T0 + step) for step, name in enumerate(names)]


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("how", ["kill", "hang", "break"])
def test_a_point_that_ends_workers_is_set_aside(tmp_path: Path, ledger: Ledger, ledger_python: str, how: str) -> None:
    import dataclasses

    from tests.support.delivering import HASTY

    ledger.rule(**{how: ["poison"]})
    with Desk(tmp_path / "home", dataclasses.replace(HASTY, export=1.0)) as desk:
        spec = run_spec("r1", ledger.target, kind="ledger", interpreter=ledger_python)
        writer = Writer(desk.log, spec)
        writer.write(points(*"abcde", "poison", *"fghij"), cut=4)
        writer.write([RunEnd(RunStatus.FINISHED, "", T0)])
        other = Ledger(tmp_path / "other")
        Writer(desk.log, run_spec("r2", other.target, kind="ledger", interpreter=ledger_python)).write(points(*"abc"))
        desk.delivery.wake("r1")
        desk.delivery.wake("r2")
        until(lambda: desk.cursor("r1", "ledger").settled and desk.cursor("r2", "ledger").settled, 90.0)
        cursor = desk.cursor("r1", "ledger")
        assert (cursor.delivered, cursor.dead) == (10, 1)
        (letter,) = desk.log.dead_letters("r1")
        assert (letter.name, letter.lsn) == ("poison", 2)
        assert letter.error.startswith("set aside: it ended the worker ")
        assert {"kill": "SIGKILL", "hang": "no answer", "break": "KeyError: 'poison'"}[how] in letter.error
        assert desk.live("r1", "ledger") == desk.live("r1", "ledger")
        assert (desk.live("r1", "ledger").state, desk.live("r1", "ledger").last_error) == ("ok", "")
    assert ledger.values("r1") == [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert [row["name"] for row in ledger.rows("r1")][-1] == "finished"
    assert len(other.rows()) == 3


def test_a_param_that_ends_workers_is_left_out_and_told(
    tmp_path: Path, ledger: Ledger, ledger_python: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.rule(kill=["lr"])
    with Desk(tmp_path / "home") as desk:
        spec = run_spec("r1", ledger.target, kind="ledger", interpreter=ledger_python)
        Writer(desk.log, spec).write([Params({"lr": 0.1}, T0), *points(*"abc")])
        desk.delivery.wake("r1")
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
        assert (desk.cursor("r1", "ledger").delivered, desk.cursor("r1", "ledger").dead) == (3, 0)
        assert desk.log.dead_letters("r1") == []
        assert "Params is left out, set aside" in (tmp_path / "home" / "worker-ledger.log").read_text()
    assert "is set aside" in caplog.text
    assert ledger.values("r1") == [0.0, 1.0, 2.0]


def test_a_worker_that_dies_over_nothing_costs_no_record(tmp_path: Path, ledger: Ledger, ledger_python: str) -> None:
    ledger.rule(empty=True)
    with Desk(tmp_path / "home") as desk:
        Writer(desk.log, run_spec("r1", ledger.target, kind="ledger", interpreter=ledger_python)).write(points(*"abc"))
        desk.delivery.wake("r1")
        until(lambda: "are not the cause" in desk.live("r1", "ledger").last_error, 60.0)
        assert "SIGABRT" in desk.live("r1", "ledger").last_error
        ledger.rule()
        until(lambda: desk.cursor("r1", "ledger").settled, 60.0)
        assert (desk.cursor("r1", "ledger").delivered, desk.cursor("r1", "ledger").dead) == (3, 0)


def test_in_mlflow_the_others_are_there_once(tmp_path: Path) -> None:
    """MLflow's own call kills the process over one point, amid points that are the same: trying some of them leaves nothing."""
    python = python_with_poison(tmp_path / "python")
    store = MlflowStore.fresh(tmp_path / "store")
    same = [Metric("same", 1.0, 1, T0)] * 40
    with Desk(tmp_path / "home") as desk:
        writer = Writer(desk.log, run_spec("r1", store.uri, interpreter=str(python)))
        writer.write([Params({"lr": 0.1}, T0), *same, *points("a", "poison", "b"), *same], cut=60)
        writer.write([*points("c"), RunEnd(RunStatus.FINISHED, "", T0)])
        desk.delivery.wake("r1")
        desk.until_settled("r1", seconds=120.0)
        cursor = desk.cursor("r1")
        assert (cursor.delivered, cursor.dead, cursor.collapsed) == (83, 1, 0)
        (letter,) = desk.log.dead_letters("r1")
        assert letter.name == "poison"
        assert "SIGSEGV" in letter.error
    assert Counter(point.key for point in store.points()) == {"same": 80, "a": 1, "b": 1, "c": 1}
    assert len({point.timestamp for point in store.points("same")}) == 80
    assert len(store.runs()) == 1
    assert store.run()["status"] == "FINISHED"


def python_with_poison(folder: Path) -> Path:
    """This Python, with an MLflow that dies of a metric's name."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=180)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = Path(mlflow.__file__).parents[1]
    root = Path(__file__).parents[2]
    (packages / "all.pth").write_text(f"{root}\n{root / 'server'}\n{here}\nimport poison\n")
    (packages / "poison.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tracelet_collector.exporters.mlflow':\n"
        "            sys.meta_path.remove(self)\n"
        "            from mlflow import MlflowClient\n"
        "            log_batch = MlflowClient.log_batch\n"
        "            def deadly(self, run_id, metrics=(), **more):\n"
        "                log_batch(self, run_id, metrics=[m for m in metrics if m.key != 'poison'][:20], **more)\n"
        "                if any(metric.key == 'poison' for metric in metrics):\n"
        "                    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "                log_batch(self, run_id, metrics=metrics, **more)\n"
        "            MlflowClient.log_batch = deadly\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    return folder / "bin" / "python"
