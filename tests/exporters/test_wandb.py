"""W&B offline: what its folders hold, what `wandb sync` makes of them, and what is done when they cannot be written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from tracelet_collector.exporters.base import Item, Paused, Retryable, Run
from tracelet_collector.exporters.wandb import WandbExporter
from tracelet_collector.exporters.wandb_folder import Audit
from tracelet_collector.exporters.wandb_media import artifact_path, drawn
from tracelet_collector.exporters.wandb_rows import Plan, run_tags
from tracelet_collector.exporters.wandb_server import Target

from tests.contract.samples import sample
from tests.support.exporting import Courier
from tests.support.processes import mounted
from tests.support.wandb_file import history, records
from tests.support.wandb_runs import OfflineRuns, config
from tests.support.wandb_server import KEY, WandbServer, serving
from tracelet.core import tables
from tracelet.core.links import Link
from tracelet.core.metrics import Artifact, Gap, Media, Metric, Params, RunEnd, RunStatus, Tags, WriterSeen

T0 = 1_700_000_000.0
END = RunEnd(RunStatus.FINISHED, "", T0 + 9)


@pytest.fixture
def runs(tmp_path: Path) -> OfflineRuns:
    return OfflineRuns(tmp_path)


@pytest.fixture
def courier(tmp_path: Path, runs: OfflineRuns) -> Iterator[Courier]:
    def make() -> WandbExporter:
        exporter = WandbExporter()
        runs.exporters.append(exporter)
        return exporter

    run = Run("r-1", "a run", "a project", f"offline:{tmp_path}", T0, parent="r-0", notes="why", group="g",
              tags={"a": "b"}, blobs=str(tmp_path / "blobs"))  # fmt: skip
    courier = Courier(make, run)
    yield courier
    courier.exporter.close()


def point(name: str, value: float, step: int, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, tag=name, **more)


def named(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what wandb-core adds."""
    return {key: value for key, value in row.items() if key not in ("_step", "_runtime")}


class TestRows:
    def rows(self, *batches: list[Metric]) -> list[dict[str, Any]]:
        items = [Item(lsn, seq, record) for lsn, batch in enumerate(batches) for seq, record in enumerate(batch)]
        plan = Plan.make(items, {}, Run("r", "r", "p", "offline:/x", T0))
        return [row.after(None) for row in plan.rows]

    def test_points_of_one_step_share_one(self) -> None:
        assert self.rows([point("a", 1.0, 1), point("b", 2.0, 1, T0 + 0.5), point("a", 3.0, 2)]) == [
            {"a": 1.0, "b": 2.0, "global_step": 1, "_timestamp": T0},
            {"a": 3.0, "global_step": 2, "_timestamp": T0},
        ]

    @pytest.mark.parametrize(
        "second",
        [point("a", 2.0, 1), point("b", 2.0, 2), point("b", 2.0, 1, T0 + 1.5), point("b", 2.0, 1, T0 - 1.5)],
        ids=["same key", "other step", "later", "earlier"],
    )
    def test_what_does_not_share_one(self, second: Metric) -> None:
        assert len(self.rows([point("a", 1.0, 1), second])) == 2

    def test_batches_of_the_log_share_none(self) -> None:
        assert len(self.rows([point("a", 1.0, 1)], [point("b", 1.0, 1)])) == 2

    def test_a_row_is_not_too_long(self) -> None:
        rows = self.rows([point(f"k{at}", 1.0, 1) for at in range(1200)])
        assert [len(row) - 2 for row in rows] == [500, 500, 200]

    def test_metadata_is_beside_its_point(self) -> None:
        (row,) = self.rows([point("fit", 1.0, 1, metadata={"phase": "swim", "n": 3, "bad": math.inf, "big": 2**70})])
        assert row["fit.meta/phase"] == "swim"
        assert (row["fit.meta/n"], row["fit.meta/bad"], row["fit.meta/big"]) == (3, "inf", str(2**70))

    def test_names_that_wandb_has_for_itself(self) -> None:
        names = ("_step", "_timestamp", "global_step", "", "a\tb", "a_b", "user/_step")
        keys = [next(iter(row)) for row in self.rows([point(name, 1.0, at) for at, name in enumerate(names)])]
        assert keys[0] == "user/_step"
        assert keys[2].startswith("global_step-")
        assert len(set(keys)) == len(names)
        assert not any(key.startswith("_") or not key for key in keys)


def test_what_is_in_a_folder(courier: Courier, runs: OfflineRuns) -> None:
    courier.deliver(
        Params({"lr": 0.1, "flag": True, "name": "bfo"}, T0),
        WriterSeen("runs/a", "a"),
        point("loss", 0.5, 7, type="loss", type_inferred=True, step_implied=True),
        Gap(3, "full", T0, T0),
        Tags({"stage": "one", "a": "c", "plain": "true"}, T0),
        Params({"lr": 0.2}, T0),
        RunEnd(RunStatus.FAILED, "exit code 3", T0 + 9),
    )
    (file,) = runs.files()
    assert [named(row) for row in history(file)] == [{"loss": 0.5, "global_step": 7, "_timestamp": T0}]
    assert runs.config() == {"lr": 0.2, "flag": True, "name": "bfo"}
    assert config(file)["_tracelet"] == {
        "run_id": "r-1",
        "parent": "r-0",
        "metrics": {"loss": {"type": "loss", "type_inferred": True, "step_implied": True}},
        "tags": {"a": "c", "stage": "one", "plain": "true"},
        "labels": {"runs/a": "a"},
        "dropped_points": 3,
        "end_reason": "exit code 3",
    }
    (first, *later) = [record.run for record in records(file) if record.WhichOneof("record_type") == "run"]
    assert (first.run_id, first.project, first.display_name, first.notes, first.run_group) == (
        "r-1", "a project", "a run", "why", "g"
    )  # fmt: skip
    assert list((later or [first])[-1].tags) == ["a:c", "stage:one", "plain"]
    assert runs.states() == ["1"]
    metrics = [record.metric for record in records(file) if record.WhichOneof("record_type") == "metric"]
    assert {(m.name, m.glob_name, m.step_metric) for m in metrics} >= {
        ("global_step", "", ""),
        ("", "*", "global_step"),
    }
    link = Link.read("wandb", courier.state["link"])
    assert (str(link), link.url) == (f"wandb sync {file.parent}", None)


def test_runs_within_one_are_a_group(tmp_path: Path, runs: OfflineRuns) -> None:
    run = Run("r-2", "fold", "p", f"offline:{tmp_path}", T0, parent="r-0", blobs=str(tmp_path / "blobs"))
    courier = Courier(WandbExporter, run)
    courier.deliver(point("loss", 0.5, 7), RunEnd(RunStatus.FINISHED, "", T0))
    courier.exporter.close()
    (file,) = runs.files()
    (first, *_) = [record.run for record in records(file) if record.WhichOneof("record_type") == "run"]
    assert first.run_group == "r-0"


def test_tags_are_words() -> None:
    words = run_tags({"a": "b", "c": "true", "d": "", "": "", "e" * 80: "true", "f": "x" * 80})
    assert words[:3] == ("a:b", "c", "d")
    assert all(0 < len(word) <= 64 for word in words)
    assert len(set(words)) == len(words) == 5
    assert run_tags({"git.commit": "a" * 40, "command": "python train.py", "a": "b"}) == ("a:b",), "no words to sort by"


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("offline:/a/b", ("", "", "/a/b")),
        ("https://api.wandb.ai", ("https://api.wandb.ai", "", "")),
        ("https://api.wandb.ai/team", ("https://api.wandb.ai", "team", "")),
        ("https://host:8080/wandb/", ("https://host:8080/wandb", "", "")),
        ("https://host/wandb/team", ("https://host/wandb", "team", "")),
    ],
)
def test_targets(target: str, read: tuple[str, str, str]) -> None:
    assert Target.read(target) == read


class TestMedia:
    @pytest.mark.parametrize("kind", ["image", "audio", "video", "histogram"])
    def test_it_is_what_wandbs_own_classes_make(self, kind: str, courier: Courier, tmp_path: Path) -> None:
        made = sample(kind, 3)
        path = tmp_path / f"content.{ {'image': 'png', 'audio': 'wav', 'video': 'gif'}.get(kind, 'json') }"
        path.write_bytes(made.data)
        courier.deliver(point("a", 1.0, 1))
        (session,) = courier.exporter._sessions.values()  # type: ignore[attr-defined]
        theirs: Any
        if kind == "histogram":
            said = json.loads(made.data)
            edges = [said["min"], *(min(max(limit, said["min"]), said["max"]) for limit in said["bucket_limit"])]
            counts = np.array(said["bucket"])
            theirs = wandb.Histogram(np_histogram=(counts, np.array(edges))).to_json()
        else:
            theirs = {"image": wandb.Image, "audio": wandb.Audio, "video": wandb.Video}[kind](str(path))
            theirs.bind_to_run(session._wandb, "x", 0)
            theirs = theirs.to_json(session._wandb)
        ours = drawn(Media("x", kind, made.data, made.media_type, 0, T0), "x", 0, made.data)
        assert {**ours.value, "path": ""} == {**theirs, "path": ""}
        if kind != "histogram":
            assert ours.value["path"].rpartition("/")[0] == theirs["path"].rpartition("/")[0]
            assert ours.files[0].path == ours.value["path"]

    def test_a_table_is_wandbs_own(self, tmp_path: Path) -> None:
        made = tables.table([["a", 1, None], ["ü", -2, 0.5]], ["word", "n", "x"], "t")
        value = drawn(Media("t", "table", made.data, made.media_type, 0, T0), "t", 7, made.data)
        theirs = wandb.Table(columns=["word", "n", "x"], data=[["a", 1, None], ["ü", -2, 0.5]])
        (tmp_path / "t.table.json").write_text(json.dumps(theirs._to_table_json()))
        assert json.loads(made.data) == json.loads((tmp_path / "t.table.json").read_text())
        assert {**value.value, "path": "", "sha256": "", "size": 0} == {
            **{"_type": "table-file", "path": "", "sha256": "", "size": 0, "ncols": 3, "nrows": 2}
        }
        assert (value.value["path"], value.files[0].content) == (value.files[0].path, made.data)
        assert value.value["path"].startswith("media/table/t_7_")

    def test_a_long_table_is_shown_in_part_and_kept_whole(self) -> None:
        made = tables.table(np.arange(30_000).reshape(15_000, 2), None, "t")
        drawing = drawn(Media("t", "table", made.data, made.media_type, 0, T0), "t", 7, made.data)
        assert drawing.value["nrows"] == 10_000
        assert [len(json.loads(file.content)["data"]) for file in drawing.files] == [10_000, 15_000]  # type: ignore[arg-type]

    def test_a_text_is_a_page(self) -> None:
        drawing = drawn(Media("a/b", "text", b"", "text/plain", 0, T0), "a/b", 4, "**ü** <b>".encode())
        assert drawing.value["_type"] == "html-file"
        assert "**ü** &lt;b&gt;" in drawing.files[0].content.decode()  # type: ignore[union-attr]
        assert drawing.value["path"].startswith("media/html/a/b_4_")

    def test_many_buckets_become_fewer(self) -> None:
        data = json.dumps({"min": 0, "max": 2000, "bucket_limit": list(range(1, 2001)), "bucket": [1] * 2000}).encode()
        value = drawn(Media("h", "histogram", b"", "", 0, T0), "h", 0, data).value
        assert len(value["values"]) <= 512
        assert (sum(value["values"]), value["bins"][0], value["bins"][-1]) == (2000, 0, 2000)
        assert len(value["bins"]) == len(value["values"]) + 1

    @pytest.mark.parametrize(
        ("path", "stored"),
        [
            ("model.pt", "model.pt"),
            ("a/b.txt", "a/b.txt"),
            ("config.yaml", "user/config.yaml"),
            ("media/x.png", "user/media/x.png"),
            ("wandb-summary.json", "user/wandb-summary.json"),
        ],
    )
    def test_where_artifacts_go(self, path: str, stored: str) -> None:
        assert artifact_path(path) == stored

    def test_an_artifact_that_is_logged_again_spares_the_blob(self, courier: Courier, runs: OfflineRuns) -> None:
        from tracelet_collector.blobs import blob_path

        from tests.support.uploading import content, digest
        from tracelet.core.metrics import BlobRef

        data = content(40_000)
        blob = blob_path(Path(courier.run.blobs), digest(data))
        blob.parent.mkdir(parents=True)
        blob.write_bytes(data)
        courier.deliver(Artifact("a", BlobRef(digest(data), len(data), ""), "", T0))
        courier.deliver(Artifact("a", b"other", "", T0), point("a", 1.0, 1))
        assert blob.read_bytes() == data
        assert runs.contents() == [b"other"]


class TestSync:
    @pytest.fixture
    def server(self) -> Iterator[WandbServer]:
        with serving() as server:
            yield server

    def sync(self, server: WandbServer, folder: Path) -> None:
        environment = {
            **os.environ,
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
        }
        done = subprocess.run(
            [Path(sys.executable).with_name("wandb"), "sync", str(folder)],
            cwd=folder.parent.parent, env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def values(self, server: WandbServer) -> Counter[tuple[int, float]]:
        return Counter((row["global_step"], row["loss"]) for row in server.runs["r-1"].rows() if "loss" in row)

    def test_all_of_it_is_uploaded(self, server: WandbServer, courier: Courier, runs: OfflineRuns) -> None:
        image = sample("image", 1)
        courier.deliver(
            Params({"lr": 0.1}, T0),
            *[point("loss", step / 7, step) for step in range(200)],
            Media("i", "image", image.data, image.media_type, 3, T0, tag="i"),
            Artifact("a/b.txt", b"hello", "", T0),
            END,
        )
        (file,) = runs.files()
        self.sync(server, file.parent)
        kept = server.runs["r-1"]
        assert self.values(server) == Counter((step, step / 7) for step in range(200))
        assert (kept.count, kept.state, kept.config["lr"]["value"]) == (201, "finished", 0.1)
        assert kept.files["a/b.txt"] == b"hello"
        assert image.data in kept.files.values()

    def test_what_comes_after_is_uploaded_too_and_nothing_twice(
        self, server: WandbServer, courier: Courier, runs: OfflineRuns
    ) -> None:
        """A folder that was uploaded is left as it is: what follows has its own."""
        courier.deliver(*[point("loss", step / 7, step) for step in range(50)], END)
        (first,) = runs.files()
        self.sync(server, first.parent)
        before = first.read_bytes()
        courier.restart()
        courier.deliver(
            RunEnd(RunStatus.RUNNING, "", T0), *[point("loss", step / 7, step) for step in range(50, 80)], END
        )
        assert first.read_bytes() == before
        (second,) = set(runs.files()) - {first}
        assert len(history(second)) == 30
        self.sync(server, second.parent)
        assert self.values(server) == Counter((step, step / 7) for step in range(80))
        assert not server.runs["r-1"].conflicts


class TestTrouble:
    def test_a_full_disk(self, courier: Courier, runs: OfflineRuns, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is handed over: wandb-core would lose it without a word."""
        courier.deliver(point("a", 1.0, 1))
        monkeypatch.setattr("tracelet_collector.exporters.wandb_session._ROOM", 2**60)
        items = courier.items([point("a", 2.0, 2)])
        with pytest.raises(Retryable, match="full"):
            courier.deliver_items(items)
        monkeypatch.undo()
        courier.deliver_items(items)
        assert [row["a"] for row in runs.rows()] == [1.0, 2.0]

    def test_rows_that_the_disk_had_no_room_for(
        self, courier: Courier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody else has filled it meanwhile: wandb-core says nothing, but the file is counted."""
        monkeypatch.setattr("tracelet_collector.exporters.wandb_session._ROOM", 0)
        monkeypatch.setattr("tracelet_collector.exporters.wandb_session._CLOSED", 2.0)
        with mounted(tmp_path / "disk", 8) as disk:
            courier.run = dataclasses.replace(courier.run, run_id="r-full", target=f"offline:{disk}")
            courier.deliver(point("a", 1.0, 1))
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while file.write(bytes(4096)) == 4096:
                    pass
            with pytest.raises(Retryable, match=r"rows|written"):
                courier.deliver(*[point(f"k{step}", 1.0, step) for step in range(2000)], END)

    def test_a_folder_that_cannot_be_made(self, courier: Courier, tmp_path: Path) -> None:
        (tmp_path / "wandb").write_text("in the way")
        with pytest.raises(Paused, match="cannot be written"):
            courier.deliver(point("a", 1.0, 1))

    def test_a_folder_that_somebody_removed_is_written_anew(self, courier: Courier, runs: OfflineRuns) -> None:
        import shutil

        courier.deliver(point("a", 1.0, 1))
        (file,) = runs.files()
        shutil.rmtree(file.parent)
        courier.deliver(point("a", 2.0, 2), END)
        assert courier.rewinds == 1
        assert [row["a"] for row in runs.rows()] == [1.0, 2.0]

    def test_a_file_that_lacks_rows_at_the_end_is_noticed(
        self, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        courier.deliver(point("a", 1.0, 1))
        (session,) = courier.exporter._sessions.values()  # type: ignore[attr-defined]
        session.handed += 1  # of which wandb-core wrote nothing
        with pytest.raises(Retryable, match="1 of 2 rows"):
            courier.deliver(END)
        assert getattr(courier.exporter, "spent", False)


class TestAudit:
    def test_it_counts_what_the_file_has(self, courier: Courier, runs: OfflineRuns, tmp_path: Path) -> None:
        rows = [point(f"k{step % 3}" * (1 + 20_000 * (step % 50 == 0)), 1.0, step) for step in range(700)]
        courier.deliver(*rows, END)
        (file,) = runs.files()
        audit = Audit(file)
        assert (audit.advance(), audit.ended) == (700, True)
        data = file.read_bytes()
        torn = tmp_path / "torn"
        growing = Audit(torn)
        assert growing.advance() == 0
        before = 0
        for end in range(0, len(data), 9973):
            torn.write_bytes(data[:end])
            there = growing.advance()
            assert before <= there == Audit(torn).advance()
            before = there
        torn.write_bytes(data)
        assert (growing.advance(), growing.ended) == (700, True)
        torn.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
        assert Audit(torn).advance() < 700
