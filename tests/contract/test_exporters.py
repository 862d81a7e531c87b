"""What every exporter owes: each point once, whatever is cut, repeated or broken off, and a true account of all of them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.blobs import blob_path
from tracelet_collector.exporters.base import Item

from tests.contract.conftest import Arrived, Tracker
from tests.support.exporting import Courier
from tests.support.uploading import content, digest
from tracelet.core.metrics import (
    Artifact,
    BlobRef,
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

T0 = 1_700_000_000.0


def point(name: str, value: float, step: int, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, tag=name, **more)


@pytest.fixture
def courier(tracker: Tracker) -> Courier:
    return Courier(tracker.make, tracker.run)


AWKWARD = [
    point("loss", 0.1 + 0.2, 0),
    point("loss", 0.1 + 0.2, 0),
    point("loss", 0.1 + 0.2, 0),
    point("loss", 5e-324, 1),
    point("loss", 1e308, 2**53 + 1),
    point("loss", 1.0, -7),
    point("loss", 1.0, 2**63 - 1),
    point("loss", 1.0, -(2**63)),
    point("loss", 3.0, 5),
    point("loss", 2.0, 4),  # backward
    point("zero", -0.0, 0),
    point("zero", 0.0, 0),
    point("none", math.nan, 0),
    point("none", math.nan, 0),
    point("none", 0.0, 0),
    point("train/loss", 1.25, 3, T0 - 1000),
]


def same(value: float) -> float | str:
    return "nan" if math.isnan(value) else value


def arrived(tracker: Tracker, key: str | None = None) -> Counter[tuple[str, float | str, int]]:
    return Counter((p.key, same(p.value), p.step) for p in tracker.arrived() if key in (None, p.key))


def expected(points: Sequence[Metric]) -> Counter[tuple[str, float | str, int]]:
    return Counter((p.name, same(p.value), p.step) for p in points)


class TestPoints:
    def test_awkward_points_arrive_each_once(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(*AWKWARD)
        assert arrived(tracker) == expected(AWKWARD)
        assert (courier.delivered, courier.collapsed, courier.rerouted, courier.dead) == (len(AWKWARD), 0, 0, [])

    def test_infinities_are_rerouted(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("a", math.inf, 0), point("a", -math.inf, 0), point("a", tracker.infinity, 0))
        most = tracker.infinity
        assert arrived(tracker) == Counter({("a", most, 0): 2, ("a", -most, 0): 1})
        assert (courier.delivered, courier.rerouted) == (1, 2)

    def test_steps_that_nothing_can_hold_are_dead_letters(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 2**63), point("a", 2.0, 1), point("b", 3.0, -(2**63) - 1))
        assert tracker.arrived() == [Arrived("a", 2.0, 1)]
        assert [letter.item.record.step for letter in courier.dead] == [2**63, -(2**63) - 1]  # type: ignore[union-attr]
        assert all("step" in letter.error for letter in courier.dead)

    def test_many_points_in_one_millisecond(self, tracker: Tracker, courier: Courier) -> None:
        points = [point("a", 1.0, 1) for _ in range(2500)]
        for start in range(0, len(points), 700):
            courier.deliver(*points[start : start + 700])
        assert arrived(tracker) == expected(points)
        assert courier.delivered == 2500

    @pytest.mark.parametrize("wall_time", [-5.0, math.nan, math.inf, -math.inf, 1e300])
    def test_times_that_are_none(self, tracker: Tracker, courier: Courier, wall_time: float) -> None:
        courier.deliver(point("a", 1.0, 1, wall_time), point("a", 1.0, 1, wall_time), point("a", 2.0, 2))
        assert arrived(tracker) == Counter({("a", 1.0, 1): 2, ("a", 2.0, 2): 1})
        assert (courier.delivered, courier.rerouted) == (1, 2)

    def test_a_batch_larger_than_one_call(self, tracker: Tracker, courier: Courier) -> None:
        points = [point(f"k{step % 7}", step / 3, step) for step in range(3210)]
        courier.deliver(*points)
        assert arrived(tracker) == expected(points)


class TestNames:
    HOSTILE = ("loss#1", "a//b", "/lead", "trail/", "./x", "../../etc/passwd", "..", ".", "", " ", "tab\there", "x" * 300,
               "e\u0301tude", "x\u0302", "a=b,c[0]|(d)%", "null\0byte", "new\nline", "\u202eevil", "🙂", "\u200b")  # fmt: skip
    GOOD = ("loss", "train/loss", "päö 日本:1.2-3_4")

    def test_hostile_names_beside_good_ones(self, tracker: Tracker, courier: Courier) -> None:
        names = [*self.HOSTILE, *self.GOOD]
        courier.deliver(*[point(name, float(at), at) for at, name in enumerate(names)])
        assert sorted(p.step for p in tracker.arrived()) == list(range(len(names)))
        assert len({p.key for p in tracker.arrived()}) == len(names)
        assert set(self.GOOD) <= {p.key for p in tracker.arrived()}
        assert courier.delivered == len(names)

    def test_names_that_sanitise_to_one_stay_two(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("loss#1", 1.0, 1), point("loss_1", 2.0, 2))
        courier.restart()
        courier.deliver(point("loss_1", 3.0, 3), point("loss%1", 4.0, 4), point("loss#1", 5.0, 5))
        by_key: dict[str, list[int]] = {}
        for p in tracker.arrived():
            by_key.setdefault(p.key, []).append(p.step)
        assert sorted(by_key.values()) == [[1, 5], [2, 3], [4]]

    def test_a_name_in_two_forms_of_unicode(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("\u00e9", 1.0, 1), point("e\u0301", 2.0, 2))
        assert len({p.key for p in tracker.arrived()}) == 2


class TestAgain:
    RECORDS: tuple[Record, ...] = (
        Params({"lr": 0.1, "name": "bfo"}, T0),
        WriterSeen("runs/a", ""),
        *AWKWARD,
        point("loss#1", 1.0, 1),
        point("inf", math.inf, 1),
        Params({"lr": 0.2}, T0),
        Tags({"stage": "one"}, T0),
        point("fit", 1.0, 1, type="fitness", metadata={"phase": "tumble", "n": 3}),
        point("fit", 1.0, 1, type="fitness", metadata={"phase": "swim", "n": 3}),
        Gap(3, "full", T0, T0),
        *AWKWARD,
    )

    def test_the_same_chunk_again(self, tracker: Tracker, courier: Courier) -> None:
        items = courier.items(self.RECORDS)
        first = courier.deliver_uncommitted(items)
        once = tracker.arrived()
        courier.restart()
        assert courier.deliver_items(items) == first
        assert tracker.arrived() == once
        assert tracker.runs() == ["RUNNING"]

    @pytest.mark.parametrize("seed", range(3))
    def test_cut_elsewhere_after_a_crash(self, tracker: Tracker, courier: Courier, seed: int) -> None:
        chance = random.Random(seed)
        items = courier.items([*self.RECORDS, *self.RECORDS])
        at = 0
        while at < len(items):
            for _ in range(chance.randrange(3)):  # crashes between delivery and commit
                courier.deliver_uncommitted(items[at : at + chance.randint(1, 40)])
                if chance.random() < 0.5:
                    courier.restart()
            end = at + chance.randint(1, 40)
            courier.deliver_items(items[at:end])
            at = end
        points = [item.record for item in items if isinstance(item.record, Metric)]
        assert len(tracker.arrived()) == len(points) == courier.delivered + courier.rerouted
        plain = [p for p in points if p.name not in ("inf", "loss#1")]
        assert arrived(tracker) - expected(plain) == Counter({("inf", tracker.infinity, 1): 2, ("loss_1", 1.0, 1): 2})
        assert tracker.runs() == ["RUNNING"]

    def test_an_equal_point_long_after(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1), point("a", 1.0, 1))
        courier.deliver(*[point("b", float(n), n) for n in range(50)])
        courier.restart()
        courier.deliver(point("a", 1.0, 1), point("a", 1.0, 1, T0 - 10), point("a", 1.0, 1, T0 + 0.001))
        assert arrived(tracker, "a") == Counter({("a", 1.0, 1): 5})


KINDS = {
    "image": "image/png",
    "figure": "image/png",
    "text": "text/plain",
    "audio": "audio/wav",
    "video": "image/gif",
    "mesh": "application/x-npz",
    "embedding": "application/zip",
    "pr_curve": "application/json",
    "graph": "text/x-protobuf",
    "layout": "application/json",
    "of a later version": "application/of-later",
}
HISTOGRAM = b'{"min":0,"max":2,"num":2,"sum":2,"sum_squares":4,"bucket_limit":[1,2],"bucket":[1,1]}'


def media(kind: str, name: str, content: bytes | BlobRef, step: int = 0) -> Media:
    return Media(name, kind, content, KINDS.get(kind, "application/json"), step, T0, tag=name)


@pytest.fixture
def keep(tracker: Tracker) -> Callable[[bytes], BlobRef]:
    """Puts content where an exporter finds it."""

    def put(data: bytes) -> BlobRef:
        path = blob_path(Path(tracker.run.blobs), digest(data))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return BlobRef(digest(data), len(data), "")

    return put


class TestMedia:
    def everything(self, keep: Callable[[bytes], BlobRef]) -> tuple[list[Record], list[bytes]]:
        """Records of every kind, inline and not, and the content that a tracker must have of them."""
        records: list[Record] = []
        contents: list[bytes] = []

        def large(data: bytes) -> BlobRef:
            contents.append(data)
            return keep(data)

        for kind in KINDS:
            records += [media(kind, f"{kind}/x", f"{kind} {n}".encode(), n // 2) for n in range(4)]  # two of each step
            records.append(media(kind, f"{kind}/x", large(content(20_000, seed=len(kind))), 2))
        records += [Artifact(path, path.encode(), "", T0) for path in ("a.txt", "b/c.txt", "b/d e.txt")]
        records.append(Artifact("b/large.bin", large(content(300_000)), "", T0))
        contents += [
            record.content
            for record in records
            if isinstance(record, Media | Artifact) and isinstance(record.content, bytes)
        ]
        return records, sorted(contents)

    def test_each_arrives_once(self, tracker: Tracker, courier: Courier, keep: Callable[[bytes], BlobRef]) -> None:
        records, contents = self.everything(keep)
        courier.deliver(*records, point("loss", 1.0, 1))
        assert tracker.files() == contents
        assert (courier.delivered + courier.rerouted, courier.dead) == (len(records) + 1, [])

    @pytest.mark.parametrize("seed", range(2))
    def test_cut_elsewhere_after_a_crash(
        self, tracker: Tracker, courier: Courier, keep: Callable[[bytes], BlobRef], seed: int
    ) -> None:
        chance = random.Random(seed)
        records, contents = self.everything(keep)
        records += [media("histogram", "h", HISTOGRAM, step) for step in range(5)]
        chance.shuffle(records)
        items = courier.items(records)
        at = 0
        while at < len(items):
            for _ in range(chance.randrange(3)):
                courier.deliver_uncommitted(items[at : at + chance.randint(1, 20)])
                if chance.random() < 0.3:
                    courier.restart()
            end = at + chance.randint(1, 20)
            courier.deliver_items(items[at:end])
            at = end
        assert tracker.files() == sorted([*contents, *[HISTOGRAM] * 5])
        assert courier.delivered + courier.rerouted == len(items)

    def test_the_last_artifact_of_a_path_stays(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(Artifact("a", b"1", "", T0), Artifact("a", b"2", "", T0))
        courier.restart()
        courier.deliver(Artifact("a", b"3", "", T0))
        assert tracker.files() == [b"3"]
        assert courier.delivered + courier.collapsed == 3

    def test_content_that_is_gone_costs_its_record_only(self, tracker: Tracker, courier: Courier) -> None:
        gone = BlobRef("0" * 64, 20_000, "")
        courier.deliver(media("image", "x", gone), Artifact("a", gone, "", T0), Artifact("b", b"b", "", T0))
        assert tracker.files() == [b"b"]
        assert [letter.item.seq for letter in courier.dead] == [0, 1]

    def test_hostile_names(self, tracker: Tracker, courier: Courier) -> None:
        names = [*TestNames.HOSTILE, *TestNames.GOOD]
        courier.deliver(*[media("text", name, str(at).encode()) for at, name in enumerate(names)])
        assert tracker.files() == sorted(str(at).encode() for at in range(len(names)))
        assert courier.delivered + courier.rerouted == len(names)


class TestRun:
    def test_a_new_worker_goes_on_with_the_run(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1))
        courier.restart()
        courier.deliver(point("a", 2.0, 2))
        assert tracker.runs() == ["RUNNING"]

    def test_a_run_made_just_before_a_crash_is_found_again(self, tracker: Tracker, courier: Courier) -> None:
        items: list[Item] = courier.items([point("a", 1.0, 1)])
        courier.deliver_uncommitted(items)
        courier.restart()
        assert courier.state == {}
        courier.deliver_items(items)
        assert tracker.runs() == ["RUNNING"]
        assert tracker.arrived() == [Arrived("a", 1.0, 1)]

    def test_runs_of_one_name_stay_apart(self, tracker: Tracker, courier: Courier) -> None:
        import dataclasses

        other = Courier(tracker.make, dataclasses.replace(tracker.run, run_id="r-2"))
        for one in (courier, other):
            one.deliver(point("a", 1.0, 1))
        assert len(tracker.runs()) == 2
        assert len(tracker.arrived()) == 2

    @pytest.mark.parametrize(
        ("status", "word"),
        [(RunStatus.FINISHED, "FINISHED"), (RunStatus.FAILED, "FAILED"), (RunStatus.KILLED, "KILLED")],
    )
    def test_how_it_ended(self, tracker: Tracker, courier: Courier, status: RunStatus, word: str) -> None:
        courier.deliver(point("a", 1.0, 1), RunEnd(status, "exit code 3", T0 + 9))
        assert tracker.runs() == [word]
        courier.deliver(point("a", 2.0, 2))  # a late writer
        assert tracker.runs() == [word]
        assert len(tracker.arrived()) == 2

    def test_a_run_that_was_lost_and_came_back(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1), RunEnd(RunStatus.KILLED, "lost", T0 + 9))
        courier.deliver(RunEnd(RunStatus.RUNNING, "", T0 + 10), point("a", 2.0, 2))
        assert tracker.runs() == ["RUNNING"]
        courier.deliver(RunEnd(RunStatus.FINISHED, "", T0 + 11))
        assert tracker.runs() == ["FINISHED"]

    def test_a_chunk_without_points(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(WriterSeen("runs/a", ""), Params({}, T0), Tags({}, T0))
        assert tracker.runs() == ["RUNNING"]
        assert tracker.arrived() == []
