"""Media, artifacts and metadata in MLflow: which file holds what, under which name, whatever is repeated or refused."""

from __future__ import annotations

import io
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image
from tracelet_collector.blobs import blob_path
from tracelet_collector.exporters.base import Paused, Run
from tracelet_collector.exporters.mlflow import MlflowExporter

from tests.support.exporting import Courier
from tests.support.mlflow_store import MlflowStore
from tests.support.uploading import content, digest
from tracelet.core import tables
from tracelet.core.metrics import (
    Artifact,
    BlobRef,
    Media,
    Metric,
    RunEnd,
    RunStatus,
    Tags,
)

T0 = 1_700_000_000.0
MS = 1_700_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return MlflowStore.fresh(tmp_path / "store")


@pytest.fixture
def courier(store: MlflowStore) -> Courier:
    return courier_to(store)


def courier_to(store: MlflowStore, run_id: str = "r-1", **more: Any) -> Courier:
    blobs = str(store.path.parent / "blobs")
    return Courier(MlflowExporter, Run(run_id, f"run {run_id}", "a project", store.uri, T0, **{"blobs": blobs} | more))


def stored(courier: Courier, data: bytes, media_type: str = "") -> BlobRef:
    """Content in the collector's store."""
    path = blob_path(Path(courier.run.blobs), digest(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return BlobRef(digest(data), len(data), media_type)


def png(side: int, color: str = "red") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (side, side // 2), color).save(made, "PNG")
    return made.getvalue()


def media(kind: str, name: str, data: bytes | BlobRef, media_type: str, step: int = 0, **more: Any) -> Media:
    return Media(name, kind, data, media_type, step, more.pop("at", T0), **more)


def artifact(path: str, data: bytes | BlobRef = b"x", **more: Any) -> Artifact:
    return Artifact(path, data, "", T0, **more)


def files(store: MlflowStore) -> dict[str, bytes]:
    """Artifacts of the only run."""
    root = store.artifacts()
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


HISTOGRAM = json.dumps(
    {"min": 0.0, "max": 4.0, "num": 4, "sum": 8.0, "sum_squares": 24.0, "bucket_limit": [2.0, 4.0], "bucket": [2, 2]}
).encode()


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "media_type", "path"),
        [
            ("histogram", "application/json", "histograms/train/x/step_7.json"),
            ("text", "text/plain", "texts/train/x/step_7.md"),
            ("audio", "audio/wav", "audio/train/x/step_7.wav"),
            ("video", "image/gif", "videos/train/x/step_7.gif"),
            ("mesh", "application/x-npz", "meshes/train/x/step_7.npz"),
            ("embedding", "application/zip", "embeddings/train/x/step_7.zip"),
            ("pr_curve", "application/json", "pr_curves/train/x/step_7.json"),
            ("table", "application/json", "tables/train/x/step_7.json"),
            ("graph", "text/x-protobuf", "graphs/train/x/step_7.pbtxt"),
            ("layout", "application/json", "layouts/train/x/step_7.json"),
            ("../of mine", "application/of-mine", "___of minesx"),
        ],
    )
    def test_each_has_its_place(
        self, store: MlflowStore, courier: Courier, kind: str, media_type: str, path: str
    ) -> None:
        small, large = b"small", content(50_000)
        courier.deliver(
            media(kind, "train/x", small, media_type, 7),
            media(kind, "train/x", stored(courier, large, media_type), media_type, 8),
        )
        found = files(store)
        if kind == "../of mine":
            assert sorted(found) == ["___of mines/train/x/step_7.bin", "___of mines/train/x/step_8.bin"]
        else:
            assert found == {path: small, path.replace("step_7", "step_8"): large}
        assert store.tags()["tracelet.metric.train/x.type"] == kind
        assert (courier.delivered, courier.dead) == (2, [])

    @pytest.mark.parametrize("kind", ["image", "figure"])
    def test_images_are_named_as_mlflow_names_its_own(self, store: MlflowStore, courier: Courier, kind: str) -> None:
        small, large = png(100), png(900)
        courier.deliver(
            media(kind, "train/x", small, "image/png", 7, at=T0 + 0.25),
            media(kind, "train/x", stored(courier, large), "image/png", -8),
        )
        names = files(store)
        uuid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
        by_step: dict[str, dict[str, bytes]] = {"7": {}, "-8": {}}
        for name, data in names.items():
            parsed = re.fullmatch(
                rf"images/train~x\+step\+(-?\d+)\+timestamp\+(\d+)\+{uuid}(\+compressed)?\.(png|webp)", name
            )
            assert parsed, name
            assert int(parsed[2]) == MS + (250 if parsed[1] == "7" else 0)
            by_step[parsed[1]][f"{parsed[4] or 'full'}.{parsed[5]}"] = data
        assert by_step["7"] == {"full.png": small, "+compressed.png": small}
        assert by_step["-8"]["full.png"] == large
        thumbnail = Image.open(io.BytesIO(by_step["-8"]["+compressed.webp"]))
        assert thumbnail.size == (256, 128)
        assert store.tags()["mlflow.loggedImages"] == "True"
        assert courier.delivered == 2

    def test_mlflow_itself_finds_the_tables(
        self, store: MlflowStore, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # load_table does not ask its client's store, but the process's.
        monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", store.uri)
        for step, frame in enumerate(({"a": [1, 2], "b": ["x", "y"]}, {"a": [3], "b": ["z"]})):
            made = tables.table(frame, None, "t")
            courier.deliver(media("table", "eval/t", made.data, made.media_type, step))
        paths = [f"tables/eval/t/step_{step}.json" for step in range(2)]
        told = json.loads(store.tags()["mlflow.loggedArtifacts"])
        assert told == [{"path": path, "type": "table"} for path in paths]
        client = MlflowClient(store.uri)
        run = client.get_run(store.run()["id"]).info
        shown = client.load_table(run.experiment_id, paths[0], [run.run_id])
        assert shown.to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}
        # MLflow's own call beside ours finds the tag as it would have left it.
        client.log_table(run.run_id, {"a": [9]}, "own.json")
        assert json.loads(store.tags()["mlflow.loggedArtifacts"]) == [*told, {"path": "own.json", "type": "table"}]

    def test_more_tables_than_the_tag_has_room_for(self, store: MlflowStore, courier: Courier) -> None:
        data = tables.table([[1]], ["a"], "t").data
        courier.deliver(*[media("table", "t", data, "application/json", step) for step in range(150)])
        tag = store.tags()["mlflow.loggedArtifacts"]
        told = [entry["path"] for entry in json.loads(tag)]
        assert len(tag) <= 5000
        assert told == [f"tables/t/step_{step}.json" for step in range(150 - len(told), 150)]
        assert len(files(store)) == 150

    def test_mlflow_itself_finds_the_images(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(media("image", "päö: x", png(10), "image/png", 3))
        client = MlflowClient(store.uri)
        listed = [file.path for file in client.list_artifacts(store.run()["id"], "images")]
        assert len(listed) == 2
        for path in listed:
            assert Path(client.download_artifacts(store.run()["id"], path)).read_bytes() == png(10)

    def test_what_is_no_image_is_stored_all_the_same(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(media("image", "x", b"no image", "image/png", 3))
        assert list(files(store).values()) == [b"no image", b"no image"]
        assert courier.delivered == 1

    def test_a_histogram_has_numbers_too(self, store: MlflowStore, courier: Courier) -> None:
        large = HISTOGRAM + b" " * 20_000
        courier.deliver(
            Metric("weights/mean", 99.0, 1, T0),  # the user's own
            media("histogram", "weights", HISTOGRAM, "application/json", 5),
            media("histogram", "biases", stored(courier, large), "application/json", 6),
            media("histogram", "broken", b"{}", "application/json", 6),
            media("histogram", "late", HISTOGRAM, "application/json", 2**70),
        )
        by_key = {point.key: (point.value, point.step) for point in store.points()}
        assert by_key["weights/mean"] == (99.0, 1)
        (renamed,) = [key for key in by_key if key.startswith("weights/mean-")]
        assert by_key[renamed] == (2.0, 5)
        assert by_key["weights/std"] == (pytest.approx(math.sqrt(2)), 5)
        assert (by_key["weights/min"], by_key["weights/max"]) == ((0.0, 5), (4.0, 5))
        assert [by_key[f"biases/p{n}"][0] for n in (5, 50, 95)] == pytest.approx([0.2, 2.0, 3.8])
        assert not any(key.startswith(("broken", "late")) for key in by_key)
        assert files(store)[f"histograms/late/step_{2**70}.json"] == HISTOGRAM
        assert (courier.delivered, courier.dead) == (5, []), "the numbers beside it are no points"


class TestNames:
    def test_a_second_one_of_a_step_takes_no_ones_place(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(media("text", "x", b"1", "text/plain"), media("text", "x", b"2", "text/plain"))
        courier.restart()
        courier.deliver(media("text", "x", b"3", "text/plain"), media("text", "x", b"4", "text/plain", 1))
        assert files(store) == {
            "texts/x/step_0.md": b"1",
            "texts/x/step_0_2.md": b"2",
            "texts/x/step_0_3.md": b"3",
            "texts/x/step_1.md": b"4",
        }

    def test_two_images_of_a_step(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(*[media("image", "x", png(10, color), "image/png") for color in ("red", "blue", "red")])
        assert len(files(store)) == 6

    def test_delivered_again_they_have_the_same_names(self, store: MlflowStore, courier: Courier) -> None:
        records = [
            media("image", "x", png(300), "image/png"),
            media("image", "x", png(300), "image/png"),
            media("text", "x", b"1", "text/plain"),
            media("text", "x", b"2", "text/plain"),
            media("histogram", "h", HISTOGRAM, "application/json"),
            artifact("a"),
            artifact("a/b"),
        ]
        courier.deliver(*records[:3])
        items = courier.items(records * 2)
        first = courier.deliver_uncommitted(items)
        before, points = files(store), store.count()
        courier.restart()
        assert courier.deliver_items(items) == first
        assert (files(store), store.count()) == (before, points)

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "x" * 300, "日" * 300, "a//b", "step_3.md", "con\0trol\n", "a+b%c#d", "🙂"]
    )
    @pytest.mark.parametrize("kind", ["text", "image"])
    def test_hostile_names(self, store: MlflowStore, courier: Courier, name: str, kind: str) -> None:
        courier.deliver(media(kind, name, b"1", "text/plain", 2**63 - 1), media(kind, name, b"2", "text/plain", 10**99))
        assert sorted(files(store).values())[:: 2 if kind == "image" else 1] == [b"1", b"2"]
        assert courier.delivered == 2
        assert all(len(os.fsencode(part)) <= 255 for path in files(store) for part in path.split("/"))

    def test_names_beside_each_other(self, store: MlflowStore, courier: Courier) -> None:
        names = ["a", "a/step_0.md", "a/b", "A", "loss#1", "loss_1", "loss%1"]
        courier.deliver(*[media("text", name, name.encode(), "text/plain") for name in names])
        assert sorted(files(store).values()) == sorted(name.encode() for name in names)


class TestArtifacts:
    def test_they_keep_their_paths(self, store: MlflowStore, courier: Courier) -> None:
        large = content(3_000_000)
        courier.deliver(
            artifact("config.yaml", b"a: 1"),
            artifact("model/weights 1.bin", stored(courier, large)),
            artifact("päö 日本/x", b""),
        )
        assert files(store) == {"config.yaml": b"a: 1", "model/weights 1.bin": large, "päö 日本/x": b""}
        assert courier.delivered == 3
        for path in files(store):
            assert (store.artifacts() / path).stat().st_mode & 0o444 == 0o444

    def test_a_later_one_takes_the_place_of_an_earlier_one(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(artifact("a", b"1"), artifact("a", b"2"))
        courier.deliver(artifact("a", b"3"))
        assert files(store) == {"a": b"3"}
        assert courier.delivered == 3

    def test_paths_that_mlflow_refuses_are_changed_and_told(self, store: MlflowStore, courier: Courier) -> None:
        paths = ["50%.txt", "50#.txt", "c:/windows", "x" * 400 + ".bin", ".artifact.uploading.x", "%2e%2e/up"]
        courier.deliver(*[artifact(path, path.encode()) for path in paths])
        found = files(store)
        assert sorted(found.values()) == sorted(path.encode() for path in paths)
        told = {json.loads(value)["path"]: json.loads(value)["stored"] for key, value in store.tags().items()
                if key.startswith("tracelet.artifact.")}  # fmt: skip
        assert {path: found[there] for path, there in told.items()} == {path: path.encode() for path in paths}
        client = MlflowClient(store.uri)
        for path in found:  # MLflow gives them back
            assert Path(client.download_artifacts(store.run()["id"], path)).read_bytes() == found[path]

    def test_a_file_and_a_folder_of_one_name(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(artifact("a", b"file"), artifact("a/b", b"below"))
        courier.restart()
        courier.deliver(artifact("c/d", b"below"), artifact("c", b"file"), artifact("texts", b"file"))
        courier.deliver(media("text", "x", b"text", "text/plain"))
        assert sorted(files(store).values()) == [b"below", b"below", b"file", b"file", b"file", b"text"]
        assert (courier.delivered, courier.dead) == (6, [])

    def test_content_that_is_gone_is_a_dead_letter(self, store: MlflowStore, courier: Courier) -> None:
        gone = BlobRef("0" * 64, 20_000, "")
        cut = stored(courier, content(20_000))
        os.truncate(blob_path(Path(courier.run.blobs), cut.sha256), 10)
        courier.deliver(
            artifact("a"), artifact("gone", gone), media("image", "x", cut, "image/png"), Metric("m", 1.0, 0, T0)
        )
        assert (courier.delivered, len(courier.dead)) == (2, 2)
        assert all("not in the collector's store" in letter.error for letter in courier.dead)
        assert list(files(store)) == ["a"]

    def test_a_folder_that_cannot_be_written_is_said(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(artifact("sub/a"))
        root = store.artifacts()
        (root / "sub" / "a").unlink()
        (root / "sub").rmdir()
        (root / "sub").write_text("somebody else's file")
        courier.deliver(artifact("sub/a"), artifact("b"))
        assert (courier.delivered, len(courier.dead)) == (2, 1)
        assert "cannot store it" in courier.dead[0].error

    def test_a_store_without_room_or_right_pauses(
        self, store: MlflowStore, courier: Courier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        courier.deliver(Metric("m", 1.0, 0, T0))

        def refuse(client: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
            raise PermissionError(13, "Permission denied", "/somewhere")

        monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
        with pytest.raises(Paused, match="/somewhere"):
            courier.deliver(Metric("m", 2.0, 1, T0), artifact("a"), RunEnd(RunStatus.FINISHED, "", T0))
        assert len(store.points("m")) == 2, "numbers do not wait for files"
        assert store.run()["status"] == "RUNNING"


class TestMetadata:
    def rows(self, store: MlflowStore) -> list[dict[str, Any]]:
        found = files(store)
        names = sorted(name for name in found if name.startswith("metadata/"))
        return [json.loads(line) for name in names for line in found[name].decode().splitlines()]

    def points(self, phases: list[str], start: int = 0) -> list[Metric]:
        return [
            Metric("fit", 1.0, start + n, T0 + start + n, metadata={"phase": phase, "n": n})
            for n, phase in enumerate(phases)
        ]

    def test_what_is_constant_has_no_rows(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(*self.points(["a"] * 50), RunEnd(RunStatus.FINISHED, "", T0))
        assert files(store) == {}
        assert store.tag_json("tracelet.metric.fit.metadata") == {"phase": "a"}

    def test_what_varies_has_a_row_for_each_point(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(*self.points(["a"] * 3))
        courier.deliver(*self.points(["b", "b", "a"], 3))
        courier.restart()
        courier.deliver(*self.points(["a"], 6), RunEnd(RunStatus.FINISHED, "", T0))
        assert self.rows(store) == [
            {"name": "fit", "step": 0, "wall_time": T0, "since": True, "metadata": {"phase": "a"}},
            {"name": "fit", "step": 3, "wall_time": T0 + 3, "metadata": {"phase": "b", "n": 0}},
            {"name": "fit", "step": 4, "wall_time": T0 + 4, "metadata": {"phase": "b", "n": 1}},
            {"name": "fit", "step": 5, "wall_time": T0 + 5, "metadata": {"phase": "a", "n": 2}},
            {"name": "fit", "step": 6, "wall_time": T0 + 6, "metadata": {"phase": "a", "n": 0}},
        ]
        assert store.tag_json("tracelet.metric.fit.metadata") == {"tracelet.varies": ["phase"], "phase": "a"}
        assert len(store.all_points("fit.meta/n")) == 7

    def test_rows_do_not_wait_for_ever(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(*self.points(["a", "b"]))
        assert files(store) == {}
        courier.deliver(*self.points(["b"], 100))  # more than a minute later
        assert len(self.rows(store)) == 3
        courier.deliver(*self.points(["x" * 3000] * 12, 101))
        assert len(self.rows(store)) == 15

    @pytest.mark.parametrize("first", [5, 40, 200])
    def test_cut_elsewhere_after_a_crash_they_are_complete_and_single(
        self, store: MlflowStore, courier: Courier, first: int
    ) -> None:
        items = courier.items(
            [*self.points([f"phase {n % 7} " * 30 for n in range(300)]), RunEnd(RunStatus.FINISHED, "", T0)]
        )
        courier.deliver_items(items[:first])
        courier.deliver_uncommitted(items[first : first + 150])
        courier.restart()
        courier.deliver_items(items[first : first + 20])
        courier.deliver_uncommitted(items[first + 20 :])
        courier.deliver_items(items[first + 20 :])
        assert [row["step"] for row in self.rows(store)] == [0, *range(1, 300)]

    def test_media_and_artifacts_have_metadata(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(
            media("audio", "a", b"1", "audio/wav", 0, metadata={"sample_rate": 44100}),
            media("audio", "b", b"1", "audio/wav", 0, metadata={"sample_rate": 44100, "bad": math.nan}),
            media("audio", "b", b"2", "audio/wav", 1, metadata={"sample_rate": 8000}),
            artifact("model.bin", metadata={"epoch": 3}),
            RunEnd(RunStatus.FINISHED, "", T0),
        )
        assert store.tag_json("tracelet.metric.a.metadata") == {"sample_rate": 44100}
        assert self.rows(store)[-2:] == [
            {"name": "b", "step": 1, "wall_time": T0, "metadata": {"sample_rate": 8000}},
            {"artifact": "model.bin", "wall_time": T0, "metadata": {"epoch": 3}},
        ]
        assert store.all_points() == []

    def test_beyond_a_thousand_names_rows_are_all_there_is(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(
            *[Metric(f"m{n}", 1.0, 0, T0, metadata={"a": "b"}) for n in range(1002)],
            RunEnd(RunStatus.FINISHED, "", T0),
        )
        assert [row["name"] for row in self.rows(store)] == ["m1000", "m1001"]
        assert "metadata/*.jsonl" in store.tags()["tracelet.metadata_left_out"]


class TestRun:
    def test_what_a_run_is_begun_with(self, store: MlflowStore) -> None:
        courier = courier_to(store, group="g", notes="# Notes", tags={"team": "blue", "tracelet.x": "y", "a#b": "c"})
        courier.deliver(Metric("m", 1.0, 0, T0))
        tags = store.tags()
        assert (tags["tracelet.group"], tags["mlflow.note.content"]) == ("g", "# Notes")
        assert (tags["team"], tags["user.tracelet.x"], tags["a_b"]) == ("blue", "y", "c")

    def test_later_words_stand_until_it_is_resumed_with_others(self, store: MlflowStore) -> None:
        courier = courier_to(store, tags={"team": "blue"})
        courier.deliver(Metric("m", 1.0, 0, T0), Tags({"team": "red"}, T0))
        courier.restart()
        courier.deliver(Metric("m", 2.0, 1, T0))
        assert store.tags()["team"] == "red"
        courier.run = courier_to(store, tags={"team": "green"}).run
        courier.deliver(Metric("m", 3.0, 2, T0))
        assert store.tags()["team"] == "green"

    def test_the_name_can_be_changed(self, store: MlflowStore, courier: Courier) -> None:
        courier.deliver(Tags({"mlflow.runName": "another name"}, T0))
        assert store.run()["name"] == "another name"

    def parent_of(self, store: MlflowStore, name: str) -> str | None:
        (run,) = [run for run in store.runs() if run["name"] == name]
        found: str | None = MlflowClient(store.uri).get_run(run["id"]).data.tags.get("mlflow.parentRunId")
        return found

    def id_of(self, store: MlflowStore, name: str) -> str:
        (run,) = [run for run in store.runs() if run["name"] == name]
        return str(run["id"])

    def test_a_parent_that_is_there(self, store: MlflowStore) -> None:
        parent = courier_to(store, "it's a parent")
        parent.deliver(Metric("m", 1.0, 0, T0))
        child = courier_to(store, "child", parent="it's a parent")
        child.deliver(Metric("m", 1.0, 0, T0))
        assert self.parent_of(store, "run child") == self.id_of(store, "run it's a parent")
        assert store.tags()["tracelet.parent"]

    def test_a_parent_that_comes_later(self, store: MlflowStore) -> None:
        child = courier_to(store, "child", parent="p")
        child.deliver(Metric("m", 1.0, 0, T0), RunEnd(RunStatus.FINISHED, "", T0))
        assert self.parent_of(store, "run child") is None
        courier_to(store, "p").deliver(Metric("m", 1.0, 0, T0))
        assert self.parent_of(store, "run child") == self.id_of(store, "run p")

    def test_nobody_is_their_own_parent(self, store: MlflowStore) -> None:
        courier = courier_to(store, "p", parent="p")
        courier.deliver(Metric("m", 1.0, 0, T0))
        courier.deliver(RunEnd(RunStatus.FINISHED, "", T0))
        assert self.parent_of(store, "run p") is None

    def test_a_parent_of_another_project(self, store: MlflowStore) -> None:
        parent = courier_to(store, "p")
        parent.run = Run("p", "run p", "another project", store.uri, T0)
        parent.deliver(Metric("m", 1.0, 0, T0))
        courier_to(store, "child", parent="p").deliver(Metric("m", 1.0, 0, T0))
        assert self.parent_of(store, "run child") == self.id_of(store, "run p")
