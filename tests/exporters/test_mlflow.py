"""The MLflow exporter on real SQLite stores: what it stores where, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from tracelet_collector.exporters.base import Paused, Retryable, Run
from tracelet_collector.exporters.mlflow import MlflowExporter
from tracelet_collector.exporters.table import EXPORTERS

from tests.support.exporting import Courier
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import until
from tracelet.core.metrics import Gap, Metric, Params, RunEnd, RunStatus, Tags, WriterSeen

T0 = 1_700_000_000.0
MS = 1_700_000_000_000


def point(name: str, value: float, step: int = 0, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, **more)


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "store")


@pytest.fixture
def courier(store: MlflowStore) -> Courier:
    return courier_to(store.uri)


def courier_to(target: str, **more: Any) -> Courier:
    said = {"run_id": "r-1", "name": "a run", "project": "a project", "created": T0} | more
    return Courier(MlflowExporter, Run(target=target, **said))


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only, for root too."""
    mounted: list[Path] = []

    def make(folder: Path) -> None:
        if os.getuid():
            folder.chmod(0o500)
            return
        for options in (["--bind", str(folder)], ["-o", "remount,bind,ro"]):
            done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"root, and nothing can be mounted here: {done.stderr.strip()}")
            mounted[:] = [folder]

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class TestTimes:
    def test_points_keep_their_milliseconds(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1, T0 + 0.123), point("a", 2.0, 2, 1234.567), point("a", 3.0, 3, 0.0))
        assert [p.timestamp for p in store.points("a")] == [MS + 123, 1_234_567, 0]

    def test_equal_points_get_the_next_free_millisecond(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(*[point("a", 1.0)] * 3, point("a", -0.0, 7), point("a", 0.0, 7), point("a", math.nan, 7))
        courier.restart()
        courier.deliver(point("a", 1.0), point("a", 1.0, at=T0 + 0.1), point("a", 1.0, at=T0 - 5))
        assert [p.timestamp - MS for p in store.points("a")] == [0, 1, 2, 0, 1, 0, 3, 100, 101]

    def test_infinity_and_the_number_it_is_stored_as(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a", math.inf), point("a", 1.7976931348623157e308), point("a", -math.inf))
        assert [p.timestamp - MS for p in store.points("a")] == [0, 1, 0]
        assert "1.797" in store.tags()["tracelet.metric.a.infinite"]

    @pytest.mark.parametrize(
        ("wall_time", "stored"),
        [(-1.0, 0), (math.nan, 0), (-math.inf, 0), (math.inf, 253_402_300_799_999), (1e13, 253_402_300_799_999)],
    )
    def test_times_that_mlflow_has_not(
        self, store: MlflowStore, courier: Courier, wall_time: float, stored: int
    ) -> None:
        courier.deliver(point("a", 1.0, 1, wall_time))
        assert [p.timestamp for p in store.points("a")] == [stored]
        assert courier.rerouted == 1
        assert "tracelet.metric.a.retimed" in store.tags()


def test_nothing_waits_in_a_queue_of_mlflows(
    store: MlflowStore, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")  # as the script may have it for itself
    courier.deliver(
        *[point("a", float(step), step) for step in range(50)], Params({"lr": 0.1}, T0), Tags({"b": "c"}, T0)
    )
    assert (len(store.points("a")), store.tags()["b"]) == (50, "c")


class TestRuns:
    def test_how_the_run_is_made(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a", 1.0))
        run = store.run()
        assert (run["name"], run["status"], run["start"], run["experiment"]) == ("a run", "RUNNING", MS, "a project")
        assert store.tags()["tracelet.run_id"] == "r-1"
        assert store.experiments()["a project"].startswith(str(store.path.parent / "mlruns"))

    @pytest.mark.parametrize("run_id", ['it\'s "quoted" \\ and % _', "x" * 400, "ünï", "' OR 1=1 --"])
    def test_ids_that_break_filters(self, store: MlflowStore, run_id: str) -> None:
        other = courier_to(store.uri, run_id="other")
        other.deliver(point("a", 1.0))
        for _ in range(2):
            courier_to(store.uri, run_id=run_id).deliver(point("a", 1.0))
        assert len(store.runs()) == 2

    @pytest.mark.parametrize("project", ["", "x" * 600, "a/b #1 日本"])
    def test_projects_of_any_name(self, store: MlflowStore, project: str) -> None:
        courier_to(store.uri, project=project, name="y" * 400).deliver(point("a", 1.0))
        assert len(store.points()) == 1

    def test_another_process_makes_the_experiment_first(
        self, store: MlflowStore, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = MlflowClient.get_experiment_by_name

        def slow(client: MlflowClient, name: str) -> Any:
            found = original(client, name)
            if found is None:
                monkeypatch.setattr(MlflowClient, "get_experiment_by_name", original)
                courier_to(store.uri, run_id="faster").deliver(point("a", 1.0))
            return found

        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", slow)
        courier.deliver(point("a", 1.0))
        assert [run["experiment"] for run in store.runs()] == ["a project", "a project"]

    def test_the_end(self, store: MlflowStore, courier: Courier, capfd: pytest.CaptureFixture[str]) -> None:
        courier.deliver(point("a", 1.0), RunEnd(RunStatus.FAILED, "ValueError: no", T0 + 7.5))
        assert (store.run()["status"], store.run()["end"]) == ("FAILED", MS + 7500)
        assert store.tags()["tracelet.end_reason"] == "ValueError: no"
        courier.deliver(RunEnd(RunStatus.FINISHED, "", T0 + 9))
        assert store.run()["status"] == "FINISHED"
        assert store.tags()["tracelet.end_reason"] == "", "the reason of an earlier end is not this one's"
        assert capfd.readouterr().out == ""

    def test_an_end_without_a_reason_leaves_no_tag(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a", 1.0), RunEnd(RunStatus.FINISHED, "", T0 + 7.5))
        assert "tracelet.end_reason" not in store.tags()

    def test_a_deleted_run_is_told_and_goes_on_when_restored(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a", 1.0))
        client, run_id = MlflowClient(store.uri), store.run()["id"]
        client.delete_run(run_id)
        for records in ([point("a", 2.0)], [Tags({"x": "y"}, T0)], [Params({"x": 1}, T0)]):
            with pytest.raises(Paused, match=f"mlflow runs restore --run-id {run_id}"):
                courier.deliver(*records)
        lost_state = courier_to(store.uri)
        with pytest.raises(Paused, match="mlflow runs restore"):
            lost_state.deliver(point("a", 2.0))
        client.restore_run(run_id)
        courier.deliver(point("a", 2.0))
        assert len(store.points()) == 2
        assert len(store.runs()) == 1

    def test_a_deleted_experiment_is_told(self, store: MlflowStore, courier: Courier) -> None:
        client = MlflowClient(store.uri)
        client.delete_experiment(client.create_experiment("a project"))
        with pytest.raises(Paused, match="mlflow experiments restore --experiment-id 1"):
            courier.deliver(point("a", 1.0))

    def test_a_run_that_was_purged_is_made_again(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a#", 1.0, type="loss"), WriterSeen("runs/x", "x"), Gap(2, "", 0, 0))
        with closing(sqlite3.connect(store.path)) as db, db:
            for table in ("metrics", "latest_metrics", "tags", "params", "runs"):
                db.execute(f"DELETE FROM {table}")
        courier.deliver(point("a#", 1.0, type="loss"), Gap(3, "", 0, 0))
        assert [(p.key, p.timestamp) for p in store.points()] == [("a_", MS)]
        assert store.tags()["tracelet.metric.a_.type"] == "loss"
        assert store.tags()["tracelet.dropped_points"] == "5"
        assert (
            MlflowClient(store.uri).search_runs(["1"], run_view_type=ViewType.ALL)[0].info.run_id == store.run()["id"]
        )


class TestTags:
    def test_types(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(
            point("plain", 1.0, type_inferred=True),
            point("train/loss", 1.0, type="loss", type_inferred=True),
            point("fit", 1.0, type="fitness"),
            point("mine", 1.0, type="my own word", step_implied=True),
            point("said", 1.0),
        )
        tags = {key: value for key, value in store.tags().items() if key.startswith("tracelet.metric.")}
        assert tags == {
            "tracelet.metric.train/loss.type": "loss",
            "tracelet.metric.train/loss.type_inferred": "true",
            "tracelet.metric.fit.type": "fitness",
            "tracelet.metric.mine.type": "my own word",
            "tracelet.metric.mine.step_implied": "true",
            "tracelet.metric.said.type": "scalar",
        }
        courier.deliver(point("train/loss", 2.0, type="diversity"))
        assert store.tags()["tracelet.metric.train/loss.type"] == "diversity"
        assert store.tags()["tracelet.metric.train/loss.type_inferred"] == "false"

    def test_tags_are_not_set_again_and_again(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a#", 1.0, type="loss", metadata={"who": "me"}))
        MlflowClient(store.uri).set_tag(store.run()["id"], "tracelet.metric.a_.type", "edited by hand")
        courier.restart()
        courier.deliver(point("a#", 2.0, type="loss", metadata={"who": "me"}))
        assert store.tags()["tracelet.metric.a_.type"] == "edited by hand"
        assert store.tags()["tracelet.metric.a_.name"] == "a#"

    def test_metadata(self, store: MlflowStore, courier: Courier) -> None:
        told = {"optimizer": "BFO", "elite": True, "population": 20, "rate": 0.5}
        courier.deliver(point("fit", 1.0, 1, metadata=told), point("fit", 2.0, 2, metadata=told | {"rate": 0.25}))
        assert store.tag_json("tracelet.metric.fit.metadata") == {"optimizer": "BFO", "elite": True}
        assert [(p.value, p.step, p.timestamp) for p in store.all_points("fit.meta/rate")] == [
            (0.5, 1, MS),
            (0.25, 2, MS),
        ]
        assert [p.value for p in store.all_points("fit.meta/population")] == [20.0, 20.0]
        assert courier.delivered == 2  # fields are no points

    def test_metadata_that_varies(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(*[point("fit", 1.0, n, metadata={"phase": phase, "note": "x"}) for n, phase in enumerate("ab")])
        courier.restart()
        courier.deliver(point("fit", 1.0, 9, metadata={"phase": "c"}))
        told = store.tag_json("tracelet.metric.fit.metadata")
        assert told == {"tracelet.varies": ["phase"], "phase": "c", "note": "x"}

    def test_metadata_beyond_all_bounds(self, store: MlflowStore, courier: Courier) -> None:
        many = {f"field {n} {'ü' * 50}": "é" * 3000 for n in range(40)}
        courier.deliver(
            point("fit", 1.0, metadata=many), point("n" * 300, 1.0, metadata={"f" * 400: 1.0, "f" * 401: 2.0})
        )
        told = store.tag_json("tracelet.metric.fit.metadata")
        assert len(store.tags()["tracelet.metric.fit.metadata"]) <= 5000
        assert told["…"] + len(told) - 1 == 40
        assert len([p for p in store.all_points() if ".meta/" in p.key]) == 2

    def test_a_metric_named_like_a_field(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, metadata={"b": 5.0}), point("a.meta/b", 7.0))
        by_key = {p.key: p.value for p in store.all_points()}
        assert sorted(by_key.values()) == [1.0, 5.0, 7.0]

    def test_fields_that_read_the_same(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(point("a/b", 1.0, metadata={"c": 1.0}), point("a", 1.0, metadata={"b/c": 2.0, "x.meta/c": 3.0}))
        courier.deliver(point("a.meta/x", 1.0, metadata={"c": 4.0}))
        values = {p.key: p.value for p in store.all_points() if ".meta/" in p.key and p.key != "a.meta/x"}
        assert sorted(values.values()) == [1.0, 2.0, 3.0, 4.0]

    def test_labels_gaps_and_the_users_tags(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(
            WriterSeen("runs/train", ""), Gap(3, "the spool is full", T0, T0), Tags({"team": "a", "k#": "1"}, T0)
        )
        courier.restart()
        courier.deliver(WriterSeen("runs/val", "val"), Gap(4, "", T0, T0), Tags({"team": "b", "k%": "2"}, T0))
        courier.deliver(Tags({"tracelet.run_id": "stolen", "mlflow.note.content": "hello"}, T0))
        tags = store.tags()
        assert store.tag_json("tracelet.labels") == {"runs/train": "", "runs/val": "val"}
        assert tags["tracelet.dropped_points"] == "7"
        assert tags["team"] == "b"
        assert tags["k_"] == "1"
        assert [tags[key] for key in tags if key.startswith("k_-")] == ["2"]
        assert tags["tracelet.run_id"] == "r-1"
        assert tags["user.tracelet.run_id"] == "stolen"
        assert tags["mlflow.note.content"] == "hello"

    def test_what_the_run_was_is_where_mlflows_pages_look_for_it(self, store: MlflowStore, courier: Courier) -> None:
        facts = {"script": "train.py", "git.commit": "a" * 40, "user.name": "kim", "gpu": "1 x A100"}
        courier.deliver(Tags({"mlflow.source.git.branch": "mine"}, T0))
        courier.restart()
        courier.deliver(Tags({**facts, "git.branch": "main", "git.repository": "https://host/a.git"}, T0))
        tags = store.tags()
        assert {name: tags[name] for name in facts} == facts
        assert {name: tags[name] for name in tags if name.startswith("mlflow.") and name != "mlflow.runName"} == {
            "mlflow.source.git.branch": "mine",
            "mlflow.source.git.commit": "a" * 40,
            "mlflow.source.git.repoURL": "https://host/a.git",
            "mlflow.source.name": "train.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": "kim",
        }

    def test_the_user_renames_the_run(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(Tags({"a": "1", "mlflow.runName": "better", "b": "2"}, T0), point("x", 1.0))
        assert store.run()["name"] == "better"
        assert (store.tags()["a"], store.tags()["b"]) == ("1", "2")

    def test_long_and_many(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(
            Tags({f"t{n}": "é" * 9000 for n in range(150)}, T0),
            Params({f"p{n}": "日" * 9000 for n in range(150)}, T0),
            *[WriterSeen(f"runs/{'x' * 200}/{n}", f"label {n}") for n in range(50)],
        )
        assert len([tag for tag in store.tags() if tag.startswith("t") and tag[1:].isdigit()]) == 150
        assert len(store.params()) == 150
        assert all(len(value) <= 6000 and value.endswith("…") for value in store.params().values())
        assert store.tag_json("tracelet.labels")["…"] > 0


class TestParams:
    def test_kinds_of_values(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(Params({"f": 0.1, "i": 3, "b": True, "s": "text", "empty": "", "n#1": 1}, T0))
        assert store.params() == {"f": "0.1", "i": "3", "b": "True", "s": "text", "empty": "", "n_1": "1"}
        assert store.tags()["tracelet.param.n_1.name"] == "n#1"

    def test_one_that_changes_becomes_a_tag(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(Params({"lr": 0.1, "seed": 1}, T0), Params({"lr": 0.1}, T0))
        assert "param.lr" not in store.tags()
        courier.deliver(Params({"lr": 0.2, "new": 1}, T0), point("a", 1.0))
        assert store.params() == {"lr": "0.1", "seed": "1", "new": "1"}
        assert store.tags()["param.lr"] == "0.2"
        courier.restart()
        courier.deliver(Params({"lr": 0.1}, T0))
        assert store.tags()["param.lr"] == "0.1"

    def test_names_that_sanitise_to_one(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(Params({"a#": 1, "a%": 2}, T0))
        assert sorted(store.params().values()) == ["1", "2"]


class TestStores:
    def test_a_fresh_store_is_made_beside_its_artifacts(self, tmp_path: Path) -> None:
        store = MlflowStore(tmp_path / "new" / "mlflow.db")
        store.path.parent.mkdir()
        before = Path.cwd()
        courier_to(store.uri).deliver(point("a", 1.0))
        assert Path.cwd() == before
        assert len(store.points()) == 1
        assert store.experiments() == {
            "Default": str(store.path.parent / "mlruns" / "0"),
            "a project": str(store.path.parent / "mlruns" / "1"),
        }
        assert [entry.name for entry in store.path.parent.iterdir()] == ["mlflow.db"]

    @pytest.mark.faults
    def test_killed_while_it_makes_a_store(self, tmp_path: Path) -> None:
        store = MlflowStore(tmp_path / "new" / "mlflow.db")
        store.path.parent.mkdir()
        script = (
            "import sys; from tests.exporters.test_mlflow import *; courier_to(sys.argv[1]).deliver(point('a', 1.0))"
        )
        victim = subprocess.Popen([sys.executable, "-c", script, store.uri])
        draft = store.path.parent / ".mlflow.db.draft" / "mlflow.db"
        until(lambda: draft.exists() and draft.stat().st_size > 200_000, 60.0)
        victim.kill()
        victim.wait(60)
        assert not store.path.exists()
        courier_to(store.uri).deliver(point("a", 1.0))
        assert len(store.points()) == 1
        assert not draft.parent.exists()

    @pytest.mark.parametrize(
        ("folder", "in_address"),
        [
            ("a%20b", "a%2520b"),
            ("a b", "a b"),
            ("a b", "a%20b"),
            ("what?now", "what%3Fnow"),
            ("#1", "#1"),
            ("größe", "größe"),
        ],
    )
    def test_the_file_that_the_address_means(self, tmp_path: Path, folder: str, in_address: str) -> None:
        """Every folder has a neighbour that a careless reading of the address would write to."""
        stores = {name: MlflowStore.fresh(tmp_path / name) for name in ("a%20b", "a b", "what?now", "#1", "größe")}
        courier_to(f"sqlite:///{tmp_path}/{in_address}/mlflow.db").deliver(point("a", 1.0))
        assert {name for name, store in stores.items() if store.points()} == {folder}

    def test_a_fresh_store_in_a_folder_with_an_awkward_name(self, tmp_path: Path) -> None:
        folder = tmp_path / "100%25 what?"
        folder.mkdir()
        courier_to(f"sqlite:///{tmp_path}/100%2525 what%3F/mlflow.db").deliver(point("a", 1.0))
        assert len(MlflowStore(folder / "mlflow.db").points()) == 1
        assert [entry.name for entry in folder.iterdir()] == ["mlflow.db"]

    def test_a_store_that_is_removed_is_made_again(self, tmp_path: Path, courier: Courier, store: MlflowStore) -> None:
        courier.deliver(point("a", 1.0))
        store.path.unlink()
        MlflowStore.fresh(store.path.parent)
        courier.deliver(point("a", 2.0))
        assert [p.value for p in store.points()] == [2.0]

    def test_a_store_that_is_replaced_meanwhile(self, courier: Courier, store: MlflowStore) -> None:
        courier.deliver(point("a", 1.0))
        recall = courier.memory.recall

        def replace_it(keys: Any) -> Any:
            store.path.unlink()
            MlflowStore.fresh(store.path.parent)
            return recall(keys)

        courier.memory.recall = replace_it  # type: ignore[method-assign]
        with pytest.raises(Retryable, match="removed or replaced"):
            courier.deliver(point("a", 2.0))
        courier.memory.recall = recall  # type: ignore[method-assign]
        courier.deliver(point("a", 2.0))
        assert [p.value for p in store.points()] == [2.0]

    def test_a_store_of_another_version(self, courier: Courier, store: MlflowStore) -> None:
        with closing(sqlite3.connect(store.path)) as db, db:
            db.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
        with pytest.raises(Paused, match=r"mlflow db upgrade sqlite:////.*mlflow\.db"):
            courier.deliver(point("a", 1.0))

    def test_a_locked_store(self, courier: Courier, store: MlflowStore) -> None:
        courier.deliver(point("a", 1.0))
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            # MLflow waits 20 s for a lock; not so long here.
            from mlflow.store.db import utils

            original = utils.sqlalchemy.sql.text
            utils.sqlalchemy.sql.text = lambda query: original(query.replace("20000", "200"))
            try:
                with pytest.raises(Retryable, match="locked"):
                    courier.deliver(point("a", 2.0))
            finally:
                utils.sqlalchemy.sql.text = original
            other.execute("ROLLBACK")
        courier.deliver(point("a", 2.0))
        assert len(store.points()) == 2

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            ("sqlite:///{folder}/missing/mlflow.db", "does not exist: create it"),
            ("sqlite:///{folder}/text.db", "not a SQLite database"),
            ("sqlite:///{folder}", "is a folder"),
            ("sqlite:///mlflow.db", "is relative"),
            ("{folder}/mlruns", "file store"),
            ("file://{folder}/mlruns", "file store"),
            ("gopher://nowhere", "gopher"),
            ("postgresql://u:secret@127.0.0.1:1/db", "psycopg"),
        ],
    )
    def test_what_cannot_be_opened(self, tmp_path: Path, target: str, says: str) -> None:
        (tmp_path / "text.db").write_text("this is no database" * 100)
        courier = courier_to(target.format(folder=tmp_path))
        with pytest.raises(Paused, match=says) as caught:
            courier.deliver(point("a", 1.0))
        assert "secret" not in str(caught.value)

    def test_a_read_only_store(self, courier: Courier, store: MlflowStore, read_only: Callable[[Path], None]) -> None:
        read_only(store.path.parent)
        with pytest.raises(Paused, match="read-only"):
            courier.deliver(point("a", 1.0))

    def test_a_full_disk(self, small_disk: Path) -> None:
        store = MlflowStore.fresh(small_disk / "store")
        courier = courier_to(store.uri)
        courier.deliver(point("a", 0.0))
        filling = small_disk / "filling"
        filled = subprocess.run(
            ["dd", "if=/dev/zero", f"of={filling}", "bs=4096"], capture_output=True, text=True, check=False
        )
        assert "No space left" in filled.stderr
        items = courier.items([point(f"k{n}", 1.0, n) for n in range(1000)])
        with pytest.raises(Retryable, match="full"):
            courier.deliver_items(items)
        filling.unlink()
        courier.deliver_items(items)
        assert len(store.points()) == 1001

    def test_nobody_listens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        courier = courier_to("http://127.0.0.1:1")
        with pytest.raises(Retryable, match=r"127\.0\.0\.1:1"):
            courier.deliver(point("a", 1.0))


class _Answer(BaseHTTPRequestHandler):
    """A server that says one thing, whatever it is asked."""

    status, body = 200, b"{}"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class TestServers:
    @pytest.mark.parametrize(
        ("status", "body", "kind", "says"),
        [
            (401, b"You are not authenticated", Paused, "MLFLOW_TRACKING_TOKEN"),
            (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', Paused, "refuses the credentials"),
            (404, b"<html>nothing here</html>", Paused, "no MLflow server"),
            (200, b"<html>a login page</html>", Retryable, "valid JSON"),
            (500, b"oops", Retryable, "500"),
            (503, b"", Retryable, "503"),
            (429, b'{"error_code": "REQUEST_LIMIT_EXCEEDED"}', Retryable, "429"),
            (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "odd"}', Paused, "odd"),
        ],
    )
    def test_what_its_answers_mean(
        self, status: int, body: bytes, kind: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in EXPORTERS["mlflow"].environment.items():
            monkeypatch.setenv(name, value)
        answer = type("Answer", (_Answer,), {"status": status, "body": body})
        with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                courier = courier_to(f"http://me:secret@127.0.0.1:{server.server_port}")
                with pytest.raises(kind, match=says) as caught:
                    courier.deliver(point("a", 1.0))
            finally:
                server.shutdown()
                thread.join(60.0)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("status", "said", "least", "most"),
        [
            (429, "100", 100.0, 100.0),
            (503, "Fri, 31 Dec 2100 23:59:59 GMT", 10.0**8, 10.0**10),
            (429, "soon", None, None),
            (500, "100", None, None),
            (429, "nan", None, None),
            (429, "-5", 0.0, 0.0),
        ],
    )
    def test_how_long_it_wants_to_be_left_alone(
        self, status: int, said: str, least: float | None, most: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in EXPORTERS["mlflow"].environment.items():
            monkeypatch.setenv(name, value)

        class Answer(_Answer):
            def end_headers(self) -> None:
                self.send_header("Retry-After", said)
                super().end_headers()

        Answer.status = status
        with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                courier = courier_to(f"http://127.0.0.1:{server.server_port}")
                for _ in range(2):
                    with pytest.raises(Retryable) as caught:
                        courier.deliver(point("a", 1.0))
            finally:
                server.shutdown()
                thread.join(60.0)
        after = caught.value.retry_after
        assert (after, least) == (None, None) or least <= after <= most


class TestRefusals:
    def test_points_that_mlflow_refuses_after_all(
        self, store: MlflowStore, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server with rules of its own: here, the validator of the store refuses two of many."""
        import mlflow.store.tracking.sqlalchemy_store as tracking

        original = tracking._validate_metric

        def picky(key: str, value: float, timestamp: int, step: int, path: str = "") -> None:
            original("" if step in (3, 77) else key, value, timestamp, step, path)

        monkeypatch.setattr(tracking, "_validate_metric", picky)
        monkeypatch.setattr("mlflow.utils.validation._validate_metric", picky)
        courier.deliver(*[point("a", float(n), n) for n in range(100)])
        assert courier.delivered == 98
        assert [letter.item.seq for letter in courier.dead] == [3, 77]
        assert all("Invalid value" in letter.error for letter in courier.dead)
        assert len(store.points()) == 98

    def test_two_runs_of_one_exporter(self, store: MlflowStore) -> None:
        courier = courier_to(store.uri)
        other = courier_to(store.uri)
        other.exporter, other.run = courier.exporter, dataclasses.replace(other.run, run_id="r-2")
        for n in range(3):
            courier.deliver(point("a", float(n), n))
            other.deliver(point("a", float(n), n))
        assert len(store.runs()) == 2
        assert len(store.points()) == 6
