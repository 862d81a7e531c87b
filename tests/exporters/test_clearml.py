"""What ClearML gets of a run, and what an offline session has of it, whoever is killed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.exporters.base import Paused, Retryable, Rewind, Run
from tracelet_collector.exporters.clearml import ClearmlExporter
from tracelet_collector.exporters.clearml_names import (
    SeriesBook,
    artifact_key,
    file_name,
    param_place,
    project_name,
    tag_word,
    task_name,
)
from tracelet_collector.exporters.clearml_offline import session_id

from tests.contract.samples import sample
from tests.support.clearml_offline import Session, sessions
from tests.support.exporting import Courier
from tracelet.core.metrics import (
    Artifact,
    Gap,
    Media,
    Metric,
    Params,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)

T0 = 1_700_000_000.0


def point(name: str, value: float, step: int, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, **{"tag": name} | more)


def media(kind: str, name: str, step: int = 0, seed: int = 1, **more: Any) -> Media:
    made = sample(kind, seed)
    return Media(name, kind, made.data, made.media_type, step, T0, **{"metadata": made.metadata, "tag": name} | more)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run("r-1", "a run", "proj/sub", f"offline:{tmp_path}/sessions", T0, blobs=str(tmp_path / "blobs"))


@pytest.fixture
def courier(run: Run) -> Courier:
    return Courier(ClearmlExporter, run)


def session(courier: Courier) -> Session:
    (found,) = sessions(Path(courier.run.target.removeprefix("offline:")))
    return found


def configuration(courier: Courier, name: str) -> Any:
    return json.loads(session(courier).task()["configuration"][name]["value"])


class TestNames:
    def places(self, *names: str, state: dict[str, Any] | None = None) -> list[tuple[str, str]]:
        book = SeriesBook({} if state is None else state)
        return [book.place(name) for name in names]

    def test_title_and_series(self) -> None:
        assert self.places("loss", "train/loss", "a/b/c", "/lead", "trail/", "", " ", "a//b") == [
            ("loss", "loss"),
            ("train", "loss"),
            ("a", "b/c"),
            ("/lead", "/lead"),
            ("trail/", "trail/"),
            ("_", "_"),
            ("_", "_~" + self.places("", " ")[1][1].partition("~")[2]),
            ("a", "/b"),
        ]

    def test_what_the_server_could_not_tell_apart(self) -> None:
        """It joins title and series with a dash."""
        for one, other in (("a-b/c", "a/b-c"), ("a", "a/a"), ("a/a-a", "a-a/a")):
            places = self.places(one, other)
            assert len({"-".join(place) for place in places}) == 2
            assert places[0] == self.places(one)[0]

    def test_a_second_value_of_a_step_meets_no_name(self) -> None:
        state: dict[str, Any] = {}
        book = SeriesBook(state)
        first = book.place("loss")
        numbered = [book.numbered(*first, number) for number in (1, 2, 3)]
        assert numbered == ["loss", "loss #2", "loss #3"]
        state = json.loads(json.dumps(state))
        again = SeriesBook(state)
        users = [again.place(name) for name in ("loss/loss #2", "loss/loss #3", "loss/loss #4")]
        assert users[2] == ("loss", "loss #4")
        assert len({*numbered, *(series for _, series in users)}) == 6
        blocked = again.numbered(*first, 4)
        assert blocked not in {*numbered, *(series for _, series in users)}
        assert SeriesBook(json.loads(json.dumps(state))).numbered(*first, 4) == blocked

    def test_long_names(self) -> None:
        places = self.places("x" * 300 + "/a", "x" * 301 + "/a", "y" * 40_000)
        assert len(set(places)) == 3
        assert all(len(title) <= 250 and len(series) <= 250 for title, series in places)

    def test_measurements_of_the_machine_are_where_clearml_has_its_own(self) -> None:
        book = SeriesBook({})
        assert book.place("system/cpu_percent", system=True) == (":monitor:machine", "cpu_percent")
        assert book.place("system/gpu0/memory", system=True) == (":monitor:gpu", "gpu0/memory")
        assert book.place("system/mine") == ("system", "mine")

    def test_params(self) -> None:
        names = (
            "lr",
            "optimizer/lr",
            "a/b/c",
            "General/lr",
            "/lr",
            "lr/",
            "properties/x",
            "Properties/x",
            "tracelet/run_id",
            " ",
        )
        places = [param_place(name) for name in names]
        assert places[:3] == [("General", "lr"), ("optimizer", "lr"), ("a", "b/c")]
        assert {section for section, _ in places[3:]} == {"General"}
        assert len(set(places)) == len(names)
        assert param_place("")[1]

    def test_tags(self) -> None:
        assert [tag_word("a", "b"), tag_word("a", "true"), tag_word("__$any", "x")] == ["a:b", "a", "___$any:x"]

    def test_names_that_are_too_short(self) -> None:
        assert task_name("ab", "r-1") == "ab (r-1)"
        assert task_name(" abc ", "r-1") == "abc"
        assert project_name("a/ b//cde") == "a__/b__/cde"
        assert project_name("/") == "default"
        assert len(project_name("/".join("abcdefghijklmn")).split("/")) == 10

    def test_files(self) -> None:
        names = ("a_b", "a/b", "a b", "ü", "u", "..", ".", "", "x" * 200, "x" * 201, "a\0", "%41", "A")
        found = [file_name(name) for name in names]
        assert len(set(found)) == len(names)
        assert all(
            name.isascii() and "/" not in name and name.strip(".") == name and 0 < len(name) <= 100 for name in found
        )
        assert found[0] == "a_b"

    def test_keys_of_artifacts_are_paths(self) -> None:
        paths = ("a.txt", "tracelet/x", "_tracelet/x", "__tracelet/x", "tracelet")
        keys = [artifact_key(path) for path in paths]
        assert (keys[0], keys[4]) == ("a.txt", "tracelet")
        assert len(set(keys)) == len(paths)
        assert not [key for key in keys if key.startswith("tracelet/")]


class TestPoints:
    def test_the_time_is_the_points(self, courier: Courier) -> None:
        courier.deliver(point("a", 1.5, 3, T0 + 0.25))
        (event,) = session(courier).events()
        assert event == {
            "type": "training_stats_scalar",
            "task": session_id("r-1"),
            "metric": "a",
            "variant": "a",
            "iter": 3,
            "timestamp": 1_700_000_000_250,
            "value": 1.5,
        }

    def test_numbers_that_are_none(self, courier: Courier) -> None:
        courier.deliver(
            *[point("a/b", value, step) for step, value in enumerate((math.nan, math.inf, -math.inf, 1e39, -1e300))]
        )
        most = 3.4028234663852886e38
        assert session(courier).scalars() == Counter(
            [
                ("a/b.nonfinite", 0.0, 0),
                ("a/b.nonfinite", 1.0, 1),
                ("a/b.nonfinite", -1.0, 2),
                ("a/b", most, 3),
                ("a/b", -most, 4),
            ]
        )
        assert (courier.delivered, courier.rerouted) == (0, 5)
        assert set(configuration(courier, "tracelet.metrics")["a/b"]) >= {"nonfinite", "beyond_float32"}

    def test_the_largest_number_of_32_bits_is_one(self, courier: Courier) -> None:
        courier.deliver(
            point("a", 3.4028234663852886e38, 0), point("a", math.nextafter(3.4028234663852886e38, math.inf), 1)
        )
        assert (courier.delivered, courier.rerouted) == (1, 1)

    def test_several_values_of_a_step(self, courier: Courier) -> None:
        courier.deliver(*[point("a", float(n), 7) for n in range(3)], point("a", 9.0, 8))
        courier.restart()
        courier.deliver(point("a", 3.0, 7))
        assert session(courier).scalars() == Counter(
            [("a/a", 0.0, 7), ("a/a #2", 1.0, 7), ("a/a #3", 2.0, 7), ("a/a #4", 3.0, 7), ("a/a", 9.0, 8)]
        )
        assert (courier.delivered, courier.rerouted) == (2, 3)

    def test_metadata(self, courier: Courier) -> None:
        said = {"n": 3, "ratio": 0.5, "phase": "tumble", "on": True, "huge": 10**400}
        courier.deliver(point("fit/best", 1.0, 1, type="fitness", metadata=said))
        assert session(courier).scalars() == Counter(
            [
                ("fit/best", 1.0, 1),
                ("fit/best.meta/n", 3.0, 1),
                ("fit/best.meta/ratio", 0.5, 1),
                ("fit/best.meta/huge.nonfinite", 1.0, 1),
            ]
        )
        told = configuration(courier, "tracelet.metrics")["fit/best"]
        assert (told["type"], told["metadata"]) == ("fitness", {"phase": "tumble", "on": True})
        courier.deliver(point("fit/best", 1.0, 2, metadata={"phase": "swim"}), RunEnd(RunStatus.FINISHED, "", T0))
        assert configuration(courier, "tracelet.metrics")["fit/best"]["varies"] == ["phase"]
        (artifact,) = session(courier).task()["execution"]["artifacts"]
        assert artifact["key"] == "tracelet/metadata/000001.jsonl"
        rows = [json.loads(line) for line in Path(artifact["uri"]).read_text().splitlines()]
        assert [row["metadata"]["phase"] for row in rows] == ["tumble", "swim"]
        assert courier.delivered == 2

    def test_what_the_run_says(self, courier: Courier) -> None:
        courier.run = dataclasses.replace(
            courier.run, group="g", notes="# note", parent="r-0", tags={"a": "1", "plain": "true"}
        )
        courier.deliver(
            WriterSeen("runs/a", "a"), Gap(3, "full", T0, T0), Gap(4, "full", T0, T0), Tags({"a": "2", "b": "x:y"}, T0)
        )
        task = session(courier).task()
        assert task["tags"] == ["a:2", "b:x:y", "group:g", "plain"]
        assert (task["comment"], task["name"], task["project_name"]) == ("# note", "a run", "proj/sub")
        assert task["hyperparams"]["tracelet"]["parent"]["value"] == "r-0"
        assert configuration(courier, "tracelet.run") == {"labels": {"runs/a": "a"}, "dropped_points": 7}
        courier.restart()
        courier.deliver(Tags({"a": "3", "git.commit": "a" * 40}, T0))
        assert session(courier).task()["tags"] == ["a:3", "b:x:y", "group:g", "plain"]
        assert session(courier).task()["hyperparams"]["tracelet"]["git.commit"]["value"] == "a" * 40

    def test_params(self, courier: Courier) -> None:
        courier.deliver(Params({"lr": 0.1, "opt/n": 3, "on": True, "word": ""}, T0))
        courier.restart()
        courier.deliver(Params({"lr": 0.2}, T0))
        sections = session(courier).task()["hyperparams"]
        assert {
            (s, n): (p["value"], p["type"])
            for s, params in sections.items()
            for n, p in params.items()
            if s != "tracelet"
        } == {
            ("General", "lr"): ("0.2", "float"),
            ("opt", "n"): ("3", "int"),
            ("General", "on"): ("True", "bool"),
            ("General", "word"): ("", "str"),
        }


class TestMedia:
    def test_where_each_is(self, courier: Courier) -> None:
        kinds = (
            "image",
            "figure",
            "histogram",
            "text",
            "audio",
            "video",
            "mesh",
            "embedding",
            "pr_curve",
            "table",
            "graph",
            "layout",
        )
        courier.deliver(*[media(kind, f"{kind}/x", 3) for kind in kinds])
        found = session(courier)
        samples = {event["metric"]: event["url"].rpartition(".")[2] for event in found.events("training_debug_image")}
        assert samples == {"image": "png", "text": "md", "audio": "wav", "video": "gif"}
        assert {event["metric"] for event in found.events("plot")} == {
            "figure",
            "histogram",
            "mesh",
            "pr_curve",
            "table",
        }
        assert {artifact["key"] for artifact in found.task()["execution"]["artifacts"]} == {
            "tracelet/mesh/mesh/x/step_3.npz",
            "tracelet/embedding/embedding/x/step_3.zip",
            "tracelet/graph/graph/x/step_3.pbtxt",
            "tracelet/layout/layout/x/step_3.json",
        }
        assert (courier.delivered, courier.rerouted, courier.dead) == (len(kinds), 0, [])

    def test_a_second_one_of_a_step(self, courier: Courier) -> None:
        courier.deliver(*[media(kind, "x", 3, seed) for kind in ("image", "graph") for seed in (1, 2)])
        found = session(courier)
        assert [event["variant"] for event in found.events()] == ["x", "x #2"]
        assert len({event["url"] for event in found.events()}) == 2
        assert {a["key"] for a in found.task()["execution"]["artifacts"]} == {
            "tracelet/graph/x/step_3.pbtxt",
            "tracelet/graph/x/step_3_2.pbtxt",
        }
        assert (courier.delivered, courier.rerouted) == (3, 1)

    def test_a_step_that_no_event_has(self, courier: Courier) -> None:
        courier.deliver(media("image", "x", 2**70), media("histogram", "x", -(2**70)))
        assert session(courier).events() == []
        assert {a["key"] for a in session(courier).task()["execution"]["artifacts"]} == {
            f"tracelet/image/x/step_{2**70}.png",
            f"tracelet/histogram/x/step_{-(2**70)}.json",
        }
        assert (courier.delivered, courier.rerouted, courier.dead) == (0, 2, [])

    def test_an_artifact(self, courier: Courier) -> None:
        courier.deliver(Artifact("a/ü.txt", b"abc", "text/plain", T0), Artifact("tracelet/x", b"y", "", T0))
        one, other = session(courier).task()["execution"]["artifacts"]
        assert (one["key"], one["content_size"], one["timestamp"]) == ("a/ü.txt", 3, 1_700_000_000)
        assert one["type_data"]["content_type"] == "text/plain"
        assert other["key"] == "_tracelet/x"
        assert Path(one["uri"]).read_bytes() == b"abc"


class TestSession:
    def test_nothing_is_twice_after_a_crash(self, courier: Courier) -> None:
        courier.deliver(point("a", 0.0, 0))
        items = courier.items([point("a", 1.0, 1), point("a", 1.5, 1), media("image", "i")])
        courier.deliver_uncommitted(items)
        courier.restart()
        courier.deliver_items(items[:1])
        courier.deliver_items(items[1:])
        assert [(e["variant"], e.get("value")) for e in session(courier).events()] == [
            ("a", 0.0),
            ("a", 1.0),
            ("a #2", 1.5),
            ("i", None),
        ]

    def test_half_a_line_of_a_crash_goes(self, courier: Courier) -> None:
        courier.deliver(point("a", 0.0, 0))
        with (session(courier).folder / "metrics.jsonl").open("ab") as file:
            file.write(b'[{"type": "training_st')
        courier.deliver(point("a", 1.0, 1))
        assert session(courier).scalars() == Counter([("a/a", 0.0, 0), ("a/a", 1.0, 1)])

    def test_the_zip_is_the_folder_when_the_run_has_ended(self, courier: Courier) -> None:
        courier.deliver(point("a", 0.0, 0), media("image", "i"))
        assert not session(courier).zip.exists()
        courier.deliver(RunEnd(RunStatus.FAILED, "exit code 3", T0))
        assert session(courier).packed() == session(courier).unpacked()
        task = session(courier).task()
        assert (task["status"], task["status_message"]) == ("failed", "exit code 3")
        assert task["hyperparams"]["tracelet"]["status"]["value"] == "failed"
        courier.restart()
        courier.deliver(point("late", 1.0, 1))
        assert session(courier).packed() == session(courier).unpacked()
        courier.deliver(RunEnd(RunStatus.RUNNING, "", T0))
        assert not session(courier).zip.exists()

    @pytest.mark.parametrize("harm", ["removed", "cut", "no task", "other task"])
    def test_a_session_that_was_harmed_is_made_anew(self, courier: Courier, harm: str) -> None:
        courier.deliver(point("a", 0.0, 0))
        folder = session(courier).folder
        if harm == "removed":
            folder.rename(folder.with_name("elsewhere"))
        elif harm == "cut":
            os.truncate(folder / "metrics.jsonl", 10)
        elif harm == "no task":
            (folder / "task.json").unlink()
        else:
            (folder / "task.json").write_text("{")
        with pytest.raises(Rewind):
            courier.exporter.export(courier.run, [], courier.state, courier.memory)

    def test_a_session_of_another_delivery_is_replaced(self, courier: Courier, run: Run) -> None:
        courier.deliver(point("a", 0.0, 0), Artifact("a", b"1", "", T0), RunEnd(RunStatus.FINISHED, "", T0))
        other = Courier(ClearmlExporter, run)
        other.deliver(point("a", 1.0, 1))
        assert session(other).scalars() == Counter([("a/a", 1.0, 1)])
        assert session(other).task()["execution"]["artifacts"] == []
        assert not session(other).zip.exists()

    def test_a_folder_that_cannot_be_written(self, courier: Courier, tmp_path: Path) -> None:
        (tmp_path / "sessions").write_text("a file")
        with pytest.raises(Paused, match="cannot be written"):
            courier.deliver(point("a", 0.0, 0))

    def test_a_full_disk(self, courier: Courier, monkeypatch: pytest.MonkeyPatch) -> None:
        courier.deliver(point("a", 0.0, 0))

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        items = courier.items([point("a", 1.0, 1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(Retryable, match="No space"):
                courier.deliver_uncommitted(items)
        courier.deliver_items(items)
        assert session(courier).scalars() == Counter([("a/a", 0.0, 0), ("a/a", 1.0, 1)])

    def test_where_it_is(self, courier: Courier) -> None:
        outcome = courier.deliver(point("a", 0.0, 0))
        assert outcome.state["link"] == f"{courier.run.target}#{session_id('r-1')}"
