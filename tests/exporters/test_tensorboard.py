"""The TensorBoard exporter beyond the contract: what is where, byte for byte, and what happens to its folder."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto import event_pb2
from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tracelet_collector.exporters.base import Paused, Retryable, Rewind, Run
from tracelet_collector.exporters.tensorboard import TensorBoardExporter
from tracelet_collector.exporters.tensorboard_events import as_float32
from tracelet_collector.exporters.tensorboard_names import component, folder_of_run

from tests.contract.samples import KINDS, sample
from tests.support.exporting import Courier
from tests.support.tensorboard_folder import TensorBoardFolder
from tracelet.core.metrics import (
    Artifact,
    Gap,
    Media,
    Metric,
    Params,
    Record,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)

T0 = 1_700_000_000.5


@pytest.fixture
def folder(tmp_path: Path) -> TensorBoardFolder:
    return TensorBoardFolder(tmp_path / "tb")


@pytest.fixture
def courier(folder: TensorBoardFolder) -> Courier:
    return courier_to(folder)


def courier_to(folder: TensorBoardFolder, run_id: str = "r-1", **more: Any) -> Courier:
    blobs = str(folder.path.parent / "blobs")
    said = {"name": "a run", "project": "vision", "created": T0, "blobs": blobs} | more
    return Courier(TensorBoardExporter, Run(run_id=run_id, target=folder.uri, **said))


def point(name: str, value: float = 1.0, step: int = 0, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, **{"tag": name} | more)


def media(kind: str, name: str, seed: int = 0, step: int = 0, **more: Any) -> Media:
    made = sample(kind, seed)
    return Media(name, kind, made.data, made.media_type, step, T0, made.metadata, **{"tag": name} | more)


def tree(path: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(found.relative_to(path)): found.read_bytes() for found in sorted(path.rglob("*")) if found.is_file()}


EVERYTHING: tuple[Record, ...] = (
    Params({"lr": 0.1, "name": "bfo"}, T0),
    WriterSeen("runs/train", "train"),
    *[point("loss", step / 7, step) for step in range(20)],
    *[point("train/loss", step / 3, step, tag="loss", log_dir="runs/train") for step in range(20)],
    point("fitness", 1.0, 1, type="fitness", metadata={"phase": "tumble", "depth": math.inf}),
    point("big", 1e300, 1),
    *[media(kind, f"{kind}/x", seed, seed // 2) for kind in KINDS for seed in range(3)],
    media("image", "loss"),  # a tag that has scalars
    Artifact("a/b.txt", b"content", "", T0, {"by": "me"}),
    Tags({"stage": "one"}, T0),
    Gap(3, "full", T0, T0),
    Params({"lr": 0.2}, T0),
    *[point("loss", step / 9, step) for step in range(10)],
    RunEnd(RunStatus.FAILED, "exit code 3", T0 + 9),
)


class TestPlaces:
    def test_what_is_where(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(*EVERYTHING)
        (run,) = folder.runs()
        assert str(run.relative_to(folder.path)) == "vision/a run-r-1"
        assert {str(path.relative_to(run)) for path in folder.event_folders()} == {".", "train"}
        assert {path.name for path in run.iterdir()} == {
            "events.out.tfevents.1700000000.tracelet",
            "events.out.tfevents.0000000000.hparams",
            "run.json",
            "metadata.jsonl",
            "projector_config.pbtxt",
            "embeddings",
            "artifacts",
            "media",
            "train",
        }
        assert folder.files("artifacts") == {"a/b.txt": b"content"}
        assert courier.state["link"] == f"{folder.uri}#vision/a%20run-r-1"

    def test_a_label_is_a_folder_and_the_tag_the_users(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(
            point("a/b/loss", tag="b/loss", log_dir="runs/a"),
            point("loss~1f2e", 2.0, tag="loss", log_dir="runs/b"),  # a name that is no label and tag
            point("x/loss", 3.0, tag="loss"),  # by no writer
        )
        assert {(p.run.removeprefix("vision/a run-r-1"), p.tag, p.value) for p in folder.points()} == {
            ("/a", "b/loss", 1.0),
            ("", "loss~1f2e", 2.0),
            ("", "x/loss", 3.0),
        }

    @pytest.mark.parametrize(
        "label",
        [
            "artifacts",
            "media",
            "run.json",
            "embeddings",
            ".hidden",
            "..",
            "a//b",
            "x" * 300,
            "\n",
            "tab\t",
            "a\\b",
            "events.out.tfevents.1",
            "my-tfevents",
            "tftfeventsevents",
            "#?%",
            "日本 é",
            " ",
            "C:",
            "metadata.jsonl",
            "rank_1/train",
        ],
    )
    def test_hostile_labels(self, folder: TensorBoardFolder, courier: Courier, label: str) -> None:
        courier.deliver(
            Artifact("a", b"1", "", T0),
            point(f"{label}/loss", 1.0, tag="loss", log_dir="runs/x"),
            point("loss", 2.0),
            media("of a later version", "m"),
        )
        courier.restart()
        courier.deliver(point(f"{label}/loss", 3.0, 1, tag="loss", log_dir="runs/x"))
        (run,) = folder.runs()
        by_run: dict[str, list[float]] = {}
        for p in folder.points():
            assert p.tag == "loss"
            by_run.setdefault(p.run, []).append(p.value)
        assert sorted(by_run.values()) == [[1.0, 3.0], [2.0]]
        assert all(Path(name).parts[:2] == run.relative_to(folder.path).parts for name in by_run)
        assert folder.files("artifacts") == {"a": b"1"}

    def test_labels_that_look_alike_stay_apart(self) -> None:
        labels = ["a:b", "a_b", "a\\b", "a#b", "a?b", ".a", "a", "", " ", "  ", "_", "x" * 200, "x" * 201]
        assert len({component(label) for label in labels}) == len(labels)
        assert component("train") == "train"

    @pytest.mark.parametrize(
        "name", ["", "..", "../../x", "a/b", "x" * 500, "\n", "日本", ".hidden", "r-1", " ", "tfevents"]
    )
    @pytest.mark.parametrize("project", ["", "..", "team/vision", "/abs", "x" * 500, "artifacts"])
    def test_hostile_names_of_runs_and_projects(
        self, folder: TensorBoardFolder, name: str, project: str, tmp_path: Path
    ) -> None:
        courier = courier_to(folder, name=name, project=project)
        courier.deliver(point("a"))
        (run,) = folder.runs()
        assert run.relative_to(folder.path).parts == tuple(folder_of_run(courier.run).split("/"))
        assert len(folder.points()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["tb"]

    def test_the_longest_id(self, folder: TensorBoardFolder) -> None:
        for run_id in ("x" * 128, "é" * 64, "a b?c#d%e", "tfevents", "tf_events", "r-1", "run.json"):
            courier_to(folder, run_id, name="n" * 500).deliver(point("a"))
        assert len(folder.runs()) == 7
        assert len(folder.points()) == 7


class TestTags:
    def test_a_tag_belongs_to_one_kind_of_data(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(point("x"), media("image", "x"), media("histogram", "x"))
        courier.restart()
        courier.deliver(media("image", "x", 1, 1), point("x", 2.0, 1), media("figure", "x", 2, 2))
        ((_, accumulator),) = folder.accumulators()
        tags = accumulator.Tags()
        assert (tags["scalars"], tags["images"], tags["histograms"]) == (["x"], ["x (images)"], ["x (histograms)"])
        assert len(accumulator.Images("x (images)")) == 3
        told = {(row["name"], row.get("stored")) for row in folder.rows()}
        assert told == {("x", "x (images)"), ("x", "x (histograms)")}

    def test_tags_that_stand_for_a_plugins_own(self, folder: TensorBoardFolder, courier: Courier) -> None:
        names = ["_hparams_/session_start_info", "__graph__", "__run_graph__", "custom_scalars__config__"]
        courier.deliver(Params({"a": 1}, T0), *[point(name) for name in names], media("layout", "l"))
        assert sorted(p.tag for p in folder.points()) == sorted(f"{name} (scalars)" for name in names)
        assert folder.hparams() == {"a": 1.0}
        assert folder.media() == {"custom_scalars": 1}

    def test_what_a_plugin_puts_behind_a_tag(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(point("x/text_summary"), media("text", "x"), media("mesh", "y"), point("y_FACE"))
        assert sorted(p.tag for p in folder.points()) == ["x/text_summary", "y_FACE (scalars)"]
        tags = {value.tag for event in folder.events() for value in event.summary.value}
        assert {"x (text)/text_summary", "y_VERTEX", "y_FACE"} <= tags

    def test_the_type_is_said_once(self, folder: TensorBoardFolder, courier: Courier) -> None:
        for step in range(3):
            courier.deliver(point("f", 1.0, step, type="fitness"), point("g", 1.0, step, step_implied=True))
            courier.restart()
        courier.deliver(point("f", 1.0, 3, type="diversity"), point("f", 1.0, 4, type="diversity"))
        courier.deliver(point("f", 1.0, 5), point("f", 1.0, 6))
        rows = [{name: row[name] for name in row if name != "wall_time"} for row in folder.rows()]
        assert rows == [
            {"name": "f", "since": 0, "type": "fitness", "inferred": False},
            {"name": "g", "since": 0, "step_implied": True},
            {"name": "f", "since": 3, "type": "diversity", "inferred": False},
            {"name": "f", "since": 5},
        ]
        said = [v.metadata.summary_description for e in folder.events() for v in e.summary.value if v.tag == "f"]
        assert said[0] == "type: `fitness`"


class TestValues:
    @pytest.mark.parametrize(
        ("value", "near"),
        [
            (0.1, True),
            (-1e38, True),
            (1e39, False),
            (-1e308, False),
            (0.0, True),
            (-0.0, True),
            (1e-37, True),
            (5e-324, False),
            (2.0 ** (-149), True),
            (1e-40, False),
            (math.inf, True),
            (2**24 + 1, True),
        ],
    )
    def test_what_a_float32_holds(self, value: float, near: bool) -> None:
        stored, said = as_float32(value)
        assert said is near
        if near and math.isfinite(value) and value:
            assert abs(stored / value - 1) <= 2**-24

    def test_what_it_does_not_hold_is_beside(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(point("a", 1e39, 1), point("a", 5e-324, 2), point("a", 0.1, 3), point("a", 1, 4, math.nan))
        assert [p.value for p in folder.points()] == [math.inf, 0.0, pytest.approx(0.1), 1.0]
        assert [(row["step"], row.get("value"), row["wall_time"]) for row in folder.rows()] == [
            (1, 1e39, T0),
            (2, 5e-324, T0),
            (4, None, "nan"),
        ]
        assert (courier.delivered, courier.rerouted) == (1, 3)
        assert folder.points()[-1].wall_time == T0

    def test_metadata_is_a_row_for_each_point(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(*[point("a", 1.0, n, metadata={"phase": "swim", "n": n, "bad": math.nan}) for n in range(2)])
        rows = folder.rows()
        assert [row["metadata"] for row in rows] == [{"phase": "swim", "n": n, "bad": "nan"} for n in range(2)]


class TestRun:
    def test_the_card(self, folder: TensorBoardFolder) -> None:
        courier = courier_to(folder, parent="p", group="g", notes="**why**", tags={"a": "1", "b": "2"})
        courier.deliver(*EVERYTHING, Tags({"a": "3"}, T0))
        courier.deliver(point("late"))
        (card,) = folder.cards()
        assert card == {
            "run_id": "r-1",
            "name": "a run",
            "project": "vision",
            "created": T0,
            "status": "failed",
            "reason": "exit code 3",
            "ended": T0 + 9,
            "parent": "p",
            "group": "g",
            "notes": "**why**",
            "tags": {"a": "3", "b": "2", "stage": "one"},
            "params": {"lr": 0.2, "name": "bfo"},
            "labels": {"runs/train": "train"},
            "dropped_points": 3,
        }

    def test_hyperparameters_of_every_form(self, folder: TensorBoardFolder, courier: Courier) -> None:
        values = {"f": 0.1, "i": 3, "s": "x", "b": True, "nan": math.nan, "inf": -math.inf, "huge": 2**53 + 1, "": ""}
        courier.deliver(Params({**values, "wide": 2**5000}, T0))
        assert folder.hparams() == {
            **{"f": 0.1, "i": 3.0, "s": "x", "b": True, "nan": "nan", "inf": "-inf", "huge": str(2**53 + 1), "": ""},
            "wide": str(2**5000),
        }


class TestFiles:
    def test_the_bytes_are_the_records_alone(self, tmp_path: Path) -> None:
        """However chunks are cut and crashes fall, the folder is the same to the byte."""
        found = []
        for seed in range(8):
            folder = TensorBoardFolder(tmp_path / str(seed) / "tb")
            courier, chance = courier_to(folder), random.Random(seed)
            batches = courier.batches(list(EVERYTHING) * 2, chance, 1 + 5 * seed)
            courier.deliver_crashing(batches, chance, restarts=0.5)
            found.append(tree(folder.path))
        assert all(other == found[0] for other in found[1:])

    def test_every_event_passes_its_checksum(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(*EVERYTHING)
        for path in folder.path.rglob("*tfevents*"):
            reader = PyRecordReader_New(str(path))
            count = 0
            with contextlib.suppress(OutOfRangeError):
                while True:
                    reader.GetNext()
                    event_pb2.Event.FromString(reader.record())
                    count += 1
            assert count > 1

    def test_what_a_crash_left_is_cut_off(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(*[point("a", float(n), n) for n in range(5)])
        (run,) = folder.runs()
        file = run / "events.out.tfevents.1700000000.tracelet"
        with file.open("ab") as tail:
            tail.write(b"\x22\0\0\0 torn" + bytes(5000))
        courier.restart()
        courier.deliver(point("a", 5.0, 5))
        assert [p.step for p in folder.points()] == list(range(6))
        items = courier.items([point("a", float(n), n) for n in range(6, 90)])
        courier.deliver_uncommitted(items)
        courier.restart()
        courier.deliver_items(items[:3])
        assert [p.step for p in folder.points()] == list(range(9))

    @pytest.mark.parametrize("what", ["the run", "everything", "the file", "its end", "a label", "rows"])
    def test_what_was_deleted_is_written_again(self, folder: TensorBoardFolder, courier: Courier, what: str) -> None:
        courier.deliver(*EVERYTHING)
        (run,) = folder.runs()
        before = tree(folder.path)
        file = run / "events.out.tfevents.1700000000.tracelet"
        match what:
            case "the run":
                shutil.rmtree(run)
            case "everything":
                shutil.rmtree(folder.path)
            case "the file":
                file.unlink()
            case "its end":
                os.truncate(file, file.stat().st_size - 1)
            case "a label":
                shutil.rmtree(run / "train")
            case "rows":
                (run / "metadata.jsonl").unlink()
        with pytest.raises(Rewind, match=r"was deleted|has \d+ bytes of"):
            courier.exporter.export(courier.run, courier.items([point("late")]), courier.state, courier.memory)
        account = courier.delivered, courier.rerouted, len(courier.dead)
        courier.deliver(Tags({}, T0))
        assert courier.rewinds == 1
        assert (courier.delivered, courier.rerouted, len(courier.dead)) == account
        after = tree(folder.path)
        assert {name: after[name] for name in before} == before

    def test_a_card_that_was_deleted_is_written_again(self, folder: TensorBoardFolder, courier: Courier) -> None:
        courier.deliver(*EVERYTHING)
        (card,) = folder.cards()
        for path in (*folder.path.rglob("run.json"), *folder.path.rglob("*.hparams")):
            path.unlink()
        courier.deliver(point("late"))
        assert folder.cards() == [card]
        assert folder.hparams() == {"lr": 0.2, "name": "bfo"}
        assert courier.rewinds == 0

    def test_a_run_keeps_its_folder_when_it_is_called_otherwise(self, folder: TensorBoardFolder) -> None:
        courier = courier_to(folder)
        courier.deliver(point("a"))
        courier.run = Run("r-1", "another", "elsewhere", folder.uri, T0 + 100)
        courier.deliver(point("a", 2.0, 1))
        assert len(folder.runs()) == 1
        assert [p.step for p in folder.points()] == [0, 1]

    def test_artifacts_that_cannot_lie_side_by_side(self, folder: TensorBoardFolder, courier: Courier) -> None:
        paths = ["a", "a/b", "a/b/c", "x" * 300, "日本/é.txt", "#%?", ".tracelet-draft"]
        for path in paths:
            courier.deliver(Artifact(path, path.encode(), "", T0))
            courier.restart()
        found = folder.files("artifacts")
        assert sorted(found.values()) == sorted(path.encode() for path in paths)
        assert found["a"] == b"a"
        assert found["日本/é.txt"]
        assert not courier.dead

    def test_media_that_are_no_media_are_files(self, folder: TensorBoardFolder, courier: Courier) -> None:
        names = ["x", "../x", "a/b", "a//b", "", "step_1", "x" * 400, "m/" * 400]
        for name in names:
            courier.deliver(*[Media(name, "image", b"no image", "image/png", 1, T0, tag=name) for _ in range(2)])
        assert len(folder.files("media")) == 2 * len(names)
        assert courier.rerouted == 2 * len(names)
        assert len({row["stored"] for row in folder.rows()}) == 2 * len(names)


class TestTrouble:
    """What the folder's disk does."""

    @pytest.fixture
    def disk(self, small_disk: Path) -> Iterator[TensorBoardFolder]:
        return TensorBoardFolder(small_disk / "tb")

    def test_a_full_disk_then_room(self, disk: TensorBoardFolder, tmp_path: Path) -> None:
        reference = TensorBoardFolder(tmp_path / "reference" / "tb")
        couriers = courier_to(disk, blobs=""), courier_to(reference, blobs="")
        ballast = disk.path.parent / "ballast"
        chunks = [
            [point("loss", step / 7, step) for step in range(start, start + 300)]
            + [Media("big", "text", bytes([97 + start // 300]) * 900_000, "text/plain", start, T0, tag="big")]
            + [Artifact(f"a{start}", b"x" * 300_000, "", T0), Params({"start": start}, T0)]
            for start in range(0, 1500, 300)
        ]
        for at, chunk in enumerate(chunks):
            if at == 2:
                fill(ballast)
                before = tree(disk.path)
                items = couriers[0].items(chunk)
                for _ in range(3):
                    with pytest.raises(Retryable, match="No space left on device"):
                        couriers[0].deliver_uncommitted(items)
                    after = tree(disk.path)
                    assert {name: after[name] for name in before} == before
                    couriers[0].restart()
                ballast.unlink()
                couriers[0].deliver_items(items)
            else:
                couriers[0].deliver(*chunk)
            couriers[1].deliver(*chunk)
        assert tree(disk.path) == tree(reference.path)

    def test_a_folder_that_is_read_only(self, disk: TensorBoardFolder) -> None:
        courier = courier_to(disk)
        courier.deliver(point("a"))
        remount(disk.path.parent, "ro")
        items = courier.items([point("a", 2.0, 1)])
        with pytest.raises(Paused, match=r"Read-only file system.*TRACELET_TENSORBOARD_DIR"):
            courier.deliver_uncommitted(items)
        with pytest.raises(Paused, match="cannot be written"):
            courier_to(disk, "r-2").deliver(point("a"))
        remount(disk.path.parent, "rw")
        courier.deliver_items(items)
        assert [p.step for p in disk.points()] == [0, 1]

    @pytest.mark.parametrize("where", ["tb", "tb/vision", "tb/vision/a run-r-1"])
    def test_a_file_in_the_folders_place(self, folder: TensorBoardFolder, courier: Courier, where: str) -> None:
        place = folder.path.parent / where
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        with pytest.raises(Paused, match="Move away what is there"):
            courier.deliver(point("a"))
        place.unlink()
        courier.deliver(point("a"))
        assert len(folder.points()) == 1

    def test_one_artifact_that_cannot_be_stored_costs_itself_only(
        self, folder: TensorBoardFolder, courier: Courier
    ) -> None:
        courier.deliver(Artifact("a", b"1", "", T0))
        (run,) = folder.runs()
        (run / "artifacts/taken").mkdir()  # by somebody else
        courier.deliver(Artifact("taken", b"1", "", T0), Artifact("b", b"2", "", T0), point("x"))
        assert [letter.item.record.path for letter in courier.dead] == ["taken"]  # type: ignore[union-attr]
        assert folder.files("artifacts") == {"a": b"1", "b": b"2"}
        assert len(folder.points()) == 1


def fill(ballast: Path) -> None:
    """Take all that is left of a disk."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)):
            pass


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_importing_it_loads_neither_torch_nor_tensorflow() -> None:
    import sys

    code = (
        "import sys; sys.modules['tensorflow'] = None; import tracelet_collector.exporters.tensorboard; "
        "print(*[m for m in ('torch', 'tensorflow.python', 'tensorboard.summary', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
