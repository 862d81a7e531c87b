"""What every exporter owes: each point once, whatever is cut, repeated or broken off, and a true account of all of them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from tracelet_collector.exporters.base import Item

from tests.contract.samples import KINDS, sample
from tests.contract.tracker import Tracker
from tests.support.exporting import Courier
from tests.support.uploading import content
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
LAST = 2**63 - 1


def point(name: str, value: float, step: int, at: float = T0, **more: Any) -> Metric:
    return Metric(name, value, step, at, **{"tag": name} | more)


AWKWARD = [
    point("loss", 0.1 + 0.2, 0),
    point("loss", 0.1 + 0.2, 0),
    point("loss", 0.1 + 0.2, 0),
    point("loss", 5e-324, 1),
    point("loss", 1e308, 2**53 + 1),
    point("loss", 1.0, -7),
    point("loss", 1.0, LAST),
    point("loss", 1.0, -LAST - 1),
    point("loss", 3.0, 5),
    point("loss", 2.0, 4),  # backward
    point("zero", -0.0, 0),
    point("zero", 0.0, 0),
    point("none", math.nan, 0),
    point("none", math.nan, 0),
    point("none", 0.0, 0),
    point("train/loss", 1.25, 3, T0 - 1000),
]

Stored = tuple[str, float | str, int]


def stored(key: str, value: float, step: int) -> Stored:
    return key, "nan" if math.isnan(value) else value, step


def arrived(tracker: Tracker) -> Counter[Stored]:
    return Counter(stored(p.key, p.value, p.step) for p in tracker.arrived())


class Expected:
    """What must become of points with harmless names that are delivered in this order."""

    def __init__(self, tracker: Tracker, points: Sequence[Metric]) -> None:
        self.arrived: Counter[Stored] = Counter()
        self.delivered = self.rerouted = self.dead = 0
        first, last = tracker.steps
        again: Counter[tuple[str, int]] = Counter()
        for metric in points:
            if not first <= metric.step <= last:
                self.dead += 1
                continue
            shown = tracker.shown(metric)
            again[shown.key, metric.step] += 1
            key = tracker.again(shown.key, again[shown.key, metric.step])
            self.arrived[stored(key, shown.value, metric.step)] += 1
            moved = key != shown.key and tracker.again_is_rerouted
            if moved or shown.rerouted or not tracker.time_is_kept(metric.wall_time):
                self.rerouted += 1
            else:
                self.delivered += 1

    @property
    def account(self) -> tuple[int, int, int, int]:
        return self.delivered, 0, self.rerouted, self.dead


def account(courier: Courier) -> tuple[int, int, int, int]:
    return courier.delivered, courier.collapsed, courier.rerouted, len(courier.dead)


class TestPoints:
    def test_awkward_points_arrive_each_once(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(*AWKWARD)
        expected = Expected(tracker, AWKWARD)
        assert arrived(tracker) == expected.arrived
        assert account(courier) == expected.account

    def test_infinities_stand_apart_from_what_they_become(self, tracker: Tracker, courier: Courier) -> None:
        points = [point("a", math.inf, 0), point("a", -math.inf, 0), point("b", math.nan, 0)]
        points += [point("a", tracker.shown(metric).value, 0) for metric in points]
        courier.deliver(*points)
        expected = Expected(tracker, points)
        assert arrived(tracker) == expected.arrived
        assert account(courier) == expected.account

    def test_steps_that_it_cannot_hold_are_dead_letters(self, tracker: Tracker, courier: Courier) -> None:
        first, last = tracker.steps
        steps = [last, last + 1, 2**63, first, first - 1, -(2**63) - 1, 2**200]
        points = [point(f"k{at}", float(at), step) for at, step in enumerate(steps)]
        courier.deliver(*points)
        assert arrived(tracker) == Expected(tracker, points).arrived
        assert [letter.item.record for letter in courier.dead] == [points[at] for at in (1, 2, 4, 5, 6)]
        assert all("step" in letter.error for letter in courier.dead)

    def test_many_points_in_one_moment(self, tracker: Tracker, courier: Courier) -> None:
        points = [point("a", float(number % 2), number % 700) for number in range(2500)]
        for start in range(0, len(points), 700):
            courier.deliver(*points[start : start + 700])
        expected = Expected(tracker, points)
        assert arrived(tracker) == expected.arrived
        assert account(courier) == expected.account

    def test_equal_points_in_one_moment(self, tracker: Tracker, courier: Courier) -> None:
        points = [point("a", 1.0, 1) for _ in range(60)]
        for start in (0, 25, 50):
            courier.deliver(*points[start : start + 25])
        expected = Expected(tracker, points)
        assert arrived(tracker) == expected.arrived
        assert account(courier) == expected.account

    def test_steps_in_any_order(self, tracker: Tracker, courier: Courier) -> None:
        steps = list(range(0, 400, 2))
        random.Random(4).shuffle(steps)
        points = [point(name, step / 8, step) for step in steps for name in ("a", "b/c")]
        courier.deliver(*points[:150])
        courier.restart()
        courier.deliver(*points[150:])
        assert arrived(tracker) == Expected(tracker, points).arrived

    @pytest.mark.parametrize("wall_time", [-5.0, math.nan, math.inf, -math.inf, 1e300])
    def test_times_that_are_none(self, tracker: Tracker, courier: Courier, wall_time: float) -> None:
        points = [point("a", 1.0, 1, wall_time), point("a", 1.0, 1, wall_time), point("a", 2.0, 2)]
        courier.deliver(*points)
        expected = Expected(tracker, points)
        assert arrived(tracker) == expected.arrived
        assert account(courier) == expected.account

    def test_times_are_the_points(self, tracker: Tracker, courier: Courier) -> None:
        times = [T0, T0 + 0.123456, T0 - 86_400.5, 0.0, 1e9 + 1 / 3]
        courier.deliver(*[point("a", float(at), at, time) for at, time in enumerate(times)])
        found = sorted((p.step, p.wall_time) for p in tracker.arrived())
        assert [step for step, _ in found] == list(range(len(times)))
        for (_, time), said in zip(found, times, strict=True):
            assert (time is None) == (tracker.time_precision is None)
            assert time is None or abs(time - said) <= (tracker.time_precision or 0.0)

    def test_a_batch_larger_than_one_call(self, tracker: Tracker, courier: Courier) -> None:
        points = [point(f"k{step % 7}", step / 3, step) for step in range(3210)]
        courier.deliver(*points)
        assert arrived(tracker) == Expected(tracker, points).arrived


class TestNames:
    HOSTILE = ("loss#1", "a//b", "/lead", "trail/", "./x", "../../etc/passwd", "..", ".", "", " ", "tab\there", "x" * 300,
               "e\u0301tude", "x\u0302", "a=b,c[0]|(d)%", "null\0byte", "new\nline", "\u202eevil", "🙂", "\u200b", "loss #2",
               "_step", "_timestamp", "a.b", "a/b/c/d", "loss/", "LOSS")  # fmt: skip
    GOOD = ("loss", "train/loss", "päö 日本:1.2-3_4")

    def test_hostile_names_beside_good_ones(self, tracker: Tracker, courier: Courier) -> None:
        names = [*self.HOSTILE, *self.GOOD]
        points = [point(name, float(at), at) for at, name in enumerate(names)]
        courier.deliver(*points)
        found = tracker.arrived()
        assert sorted((p.value, p.step) for p in found) == [(float(at), at) for at in range(len(names))]
        assert len({p.key for p in found}) == len(names)
        good = {tracker.shown(metric).key for metric in points if metric.name in self.GOOD}
        assert good <= {p.key for p in found}
        assert (courier.delivered + courier.rerouted, courier.dead) == (len(names), [])

    def test_names_that_look_alike_stay_apart(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("loss#1", 1.0, 1), point("loss_1", 2.0, 2))
        courier.restart()
        courier.deliver(point("loss_1", 3.0, 3), point("loss%1", 4.0, 4), point("loss#1", 5.0, 5))
        by_key: dict[str, list[int]] = {}
        for p in tracker.arrived():
            by_key.setdefault(p.key, []).append(p.step)
        assert sorted(map(sorted, by_key.values())) == [[1, 5], [2, 3], [4]]

    def test_a_name_in_two_forms_of_unicode(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("\u00e9", 1.0, 1), point("e\u0301", 2.0, 2))
        assert len({p.key for p in tracker.arrived()}) == 2

    def test_two_writers_with_one_tag(self, tracker: Tracker, courier: Courier) -> None:
        writers = [("runs/train", "train"), ("runs/validation", "validation")]
        points = [
            point(f"{label}/Loss", value + step, step, tag="Loss", log_dir=log_dir)
            for step in range(3)
            for (log_dir, label), value in zip(writers, (0.25, 0.5), strict=True)
        ]
        courier.deliver(*[WriterSeen(*writer) for writer in writers], *points[:3])
        courier.restart()
        courier.deliver(*points[3:], point("alone", 1.0, 0))
        points.append(point("alone", 1.0, 0))
        assert arrived(tracker) == Expected(tracker, points).arrived
        assert len({p.key for p in tracker.arrived()}) == 3

    def test_ten_thousand_of_them(self, tracker: Tracker, courier: Courier) -> None:
        points = [point(f"layer{at // 100}/w{at % 100}", float(at), at) for at in range(10_000)]
        size = min(tracker.make().batch_points, 5000)
        for start in range(0, len(points), size):
            courier.deliver(*points[start : start + size])
        assert arrived(tracker) == Expected(tracker, points).arrived
        assert (courier.delivered, courier.dead) == (10_000, [])


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
        once = sorted(map(repr, tracker.arrived()))
        courier.restart()
        again = courier.deliver_items(items)
        assert (again.delivered, again.collapsed, again.rerouted, again.dead) == (
            first.delivered,
            first.collapsed,
            first.rerouted,
            first.dead,
        )
        assert again.stamps == first.stamps
        assert sorted(map(repr, tracker.arrived())) == once
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]

    @pytest.mark.parametrize("seed", range(3))
    def test_cut_elsewhere_after_a_crash(self, tracker: Tracker, courier: Courier, seed: int) -> None:
        chance = random.Random(seed)
        batches = courier.batches([*self.RECORDS, *self.RECORDS], chance)
        courier.deliver_crashing(batches, chance, restarts=0.5)
        points = [record for record in self.RECORDS * 2 if isinstance(record, Metric)]
        expected = Expected(tracker, points)
        assert account(courier) == expected.account
        plain = Expected(tracker, [metric for metric in points if metric.name != "loss#1"])
        found = arrived(tracker)
        assert not plain.arrived - found
        assert sorted((value, step) for (_, value, step), n in (found - plain.arrived).items() for _ in range(n)) == [
            (1.0, 1),
            (1.0, 1),
        ]
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]
        assert dict(tracker.params()) | {"lr": "0.2", "name": "bfo"} == dict(tracker.params())

    def test_an_equal_point_long_after(self, tracker: Tracker, courier: Courier) -> None:
        points = [point("a", 1.0, 1), point("a", 1.0, 1), *[point("b", float(n), n) for n in range(50)]]
        points += [point("a", 1.0, 1), point("a", 1.0, 1, T0 - 10), point("a", 1.0, 1, T0 + 0.001)]
        courier.deliver(*points[:2])
        courier.deliver(*points[2:52])
        courier.restart()
        courier.deliver(*points[52:])
        assert arrived(tracker) == Expected(tracker, points).arrived


class TestWords:
    """Params and tags."""

    def test_params_that_change(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(Params({"lr": 0.1, "name": "bfo", "n": 3, "flag": True}, T0), point("a", 1.0, 1))
        courier.deliver(Params({"lr": 0.2}, T0))
        courier.restart()
        courier.deliver(Params({"lr": 0.3, "late": "x", "name": "bfo"}, T0))
        assert within(tracker.params(), {"lr": "0.3", "name": "bfo", "n": "3", "flag": "True", "late": "x"})

    def test_tags_that_change(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(Tags({"stage": "one", "kept": "yes"}, T0), point("a", 1.0, 1))
        courier.restart()
        courier.deliver(Tags({"stage": "two"}, T0))
        assert within(tracker.tags(), {"stage": "two", "kept": "yes"})

    def test_what_was_said_at_the_start(self, tracker: Tracker, courier: Courier) -> None:
        courier.run = dataclasses.replace(courier.run, group="g", notes="**why**", tags={"of": "the start"})
        courier.deliver(point("a", 1.0, 1))
        courier.deliver(Tags({"later": "x"}, T0))
        assert within(tracker.tags(), {"of": "the start", "later": "x"})

    def test_hostile_ones(self, tracker: Tracker, courier: Courier) -> None:
        names = (*TestNames.HOSTILE, *TestNames.GOOD, "tracelet.run_id", "wandb", "x.y")
        courier.deliver(Params({name: f"param {at}" for at, name in enumerate(names)}, T0))
        courier.deliver(Tags({name: f"tag {at}" for at, name in enumerate(names)}, T0), point("a", 1.0, 1))
        assert Counter(tracker.params().values()) >= Counter(f"param {at}" for at in range(len(names)))
        assert Counter(tracker.tags().values()) >= Counter(f"tag {at}" for at in range(len(names)))
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]


def within(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all that is wanted is there, as it is wanted; what is not is shown when this is asserted."""
    assert {name: found.get(name) for name in wanted} == wanted
    return True


def media(kind: str, name: str, seed: int, step: int = 0) -> Media:
    made = sample(kind, seed)
    return Media(name, kind, made.data, made.media_type, step, T0, made.metadata, tag=name)


class Everything:
    """Records of every kind, inline and not, with hints of what a tracker must have of them."""

    def __init__(self, tracker: Tracker, keep: Callable[[bytes], BlobRef]) -> None:
        self.records: list[Record] = []
        for at, kind in enumerate(KINDS):
            self.records += [media(kind, f"{kind}/x", seed, seed // 2) for seed in range(4)]  # two of each step
            large = sample(kind, 10 + at, large=True)
            ref = keep(large.data)
            self.records.append(Media(f"{kind}/x", kind, ref, large.media_type, 2, T0, large.metadata, tag=f"{kind}/x"))
        self.records += [Artifact(path, path.encode(), "", T0) for path in ("a.txt", "b/c.txt", "b/d e.txt")]
        self.records.append(Artifact("b/large.bin", keep(content(300_000)), "", T0))
        self._blobs = tracker.run

    def exact(self, tracker: Tracker) -> list[bytes]:
        """What the tracker's files must be."""
        return sorted(
            self._blobs.read(record.content)
            for record in self.records
            if isinstance(record, Artifact) or (isinstance(record, Media) and is_exact(tracker, record.kind))
        )

    def counted(self, tracker: Tracker) -> Counter[str]:
        """How many there must be of what it keeps in a form of its own."""
        kinds = (record.kind for record in self.records if isinstance(record, Media))
        return Counter(tracker.shown_by(kind) for kind in kinds if not is_exact(tracker, kind))


def is_exact(tracker: Tracker, kind: str) -> bool:
    return tracker.exact_kinds is None or kind in tracker.exact_kinds


class TestMedia:
    def test_each_arrives_once(self, tracker: Tracker, courier: Courier, keep: Callable[[bytes], BlobRef]) -> None:
        everything = Everything(tracker, keep)
        courier.deliver(*everything.records, point("loss", 1.0, 1))
        assert tracker.files() == everything.exact(tracker)
        assert tracker.media() == everything.counted(tracker)
        loss = point("loss", 1.0, 1)
        assert [(p.value, p.step) for p in tracker.arrived() if p.key == tracker.shown(loss).key] == [(1.0, 1)]
        assert (courier.delivered + courier.rerouted, courier.dead) == (len(everything.records) + 1, [])

    @pytest.mark.parametrize("seed", range(2))
    def test_cut_elsewhere_after_a_crash(
        self, tracker: Tracker, courier: Courier, keep: Callable[[bytes], BlobRef], seed: int
    ) -> None:
        chance = random.Random(seed)
        everything = Everything(tracker, keep)
        chance.shuffle(everything.records)
        courier.deliver_crashing(courier.batches(everything.records, chance), chance, restarts=0.3)
        assert tracker.files() == everything.exact(tracker)
        assert tracker.media() == everything.counted(tracker)
        assert (courier.delivered + courier.rerouted, courier.dead) == (len(everything.records), [])

    def test_artifacts_of_one_path(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(Artifact("a", b"1", "", T0), Artifact("a", b"2", "", T0))
        courier.restart()
        courier.deliver(Artifact("a", b"3", "", T0))
        assert tracker.files() == ([b"3"] if tracker.replaces else [b"1", b"2", b"3"])
        assert (courier.delivered + courier.collapsed + courier.rerouted, courier.dead) == (3, [])

    def test_content_that_is_gone_costs_its_record_only(self, tracker: Tracker, courier: Courier) -> None:
        gone = BlobRef("0" * 64, 20_000, "")
        image = Media("x", "image", gone, "image/png", 0, T0, tag="x")
        courier.deliver(image, Artifact("a", gone, "", T0), Artifact("b", b"b", "", T0), point("loss", 1.0, 1))
        assert tracker.files() == [b"b"]
        assert not tracker.media()
        assert len(tracker.arrived()) == 1
        assert [letter.item.seq for letter in courier.dead] == [0, 1]

    def test_content_of_each_kind_that_is_gone_or_cut(
        self, tracker: Tracker, courier: Courier, keep: Callable[[bytes], BlobRef]
    ) -> None:
        cut = dataclasses.replace(keep(b"half"), size=20_000)
        refs = [BlobRef("0" * 64, 20_000, ""), cut]
        lost = [
            Media(f"{kind}/{at}", kind, ref, sample(kind, 0).media_type, at, T0, tag=f"{kind}/{at}")
            for kind in KINDS
            for at, ref in enumerate(refs)
        ]
        courier.deliver(*lost, *(Artifact(f"a{at}", ref, "", T0) for at, ref in enumerate(refs)), point("loss", 1.0, 1))
        assert (tracker.files(), tracker.media().total(), len(tracker.arrived())) == ([], 0, 1)
        assert len(courier.dead) == len(lost) + len(refs)
        assert all("20000 bytes" in letter.error for letter in courier.dead)

    def test_content_that_is_not_what_it_says_costs_its_record_at_most(
        self, tracker: Tracker, courier: Courier
    ) -> None:
        wrong = [
            Media(f"{kind}/{at}", kind, data, sample(kind, 0).media_type, at, T0, tag=f"{kind}/{at}")
            for kind in KINDS
            for at, data in enumerate((b"", b"{}", b"\xff\x00 is no content", b'{"min": "x"}', b"\x89PNG\r\n\x1a\n"))
        ]
        courier.deliver(*wrong, media("image", "good", 1), point("loss", 1.0, 1))
        assert len(tracker.arrived()) == 1
        assert courier.delivered + courier.rerouted + courier.collapsed + len(courier.dead) == len(wrong) + 2
        dead = [letter.item.record for letter in courier.dead]
        assert not [record for record in dead if record not in wrong]
        # What is not in the dead letters is in the tracker.
        assert len(tracker.files()) + tracker.media().total() == len(wrong) + 1 - len(dead)

    def test_hostile_names(self, tracker: Tracker, courier: Courier) -> None:
        names = [*TestNames.HOSTILE, *TestNames.GOOD]
        records = [media("image", name, at) for at, name in enumerate(names)]
        courier.deliver(*records, *[Artifact(name, name.encode(), "", T0) for name in ("ü 日本/🙂.txt", "a#b?c%d")])
        found = len(tracker.files()) + tracker.media().total()
        assert found == len(names) + 2
        assert (courier.delivered + courier.rerouted, courier.dead) == (len(names) + 2, [])


class TestRun:
    def test_a_new_worker_goes_on_with_the_run(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(point("a", 1.0, 1))
        courier.restart()
        courier.deliver(point("a", 2.0, 2))
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]
        assert len(tracker.arrived()) == 2

    def test_a_run_made_just_before_a_crash_is_found_again(self, tracker: Tracker, courier: Courier) -> None:
        items: list[Item] = courier.items([point("a", 1.0, 1)])
        courier.deliver_uncommitted(items)
        courier.restart()
        assert courier.state == {}
        courier.deliver_items(items)
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]
        assert arrived(tracker) == Expected(tracker, [point("a", 1.0, 1)]).arrived

    def test_runs_of_one_name_stay_apart(self, tracker: Tracker, courier: Courier) -> None:
        other = Courier(tracker.make, dataclasses.replace(tracker.run, run_id="r-2"))
        for one in (courier, other):
            one.deliver(point("a", 1.0, 1))
        assert len(tracker.runs()) == 2
        assert len(tracker.arrived()) == 2
        other.exporter.close()

    @pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED])
    def test_how_it_ended(self, tracker: Tracker, courier: Courier, status: RunStatus) -> None:
        courier.deliver(point("a", 1.0, 1), RunEnd(status, "exit code 3", T0 + 9))
        assert tracker.runs() == [tracker.words[status]]
        courier.deliver(point("a", 2.0, 2))  # a late writer
        assert tracker.runs() == [tracker.words[status]]
        courier.restart()
        courier.deliver(point("a", 3.0, 3))
        assert tracker.runs() == [tracker.words[status]]
        assert len(tracker.arrived()) == 3

    @pytest.mark.parametrize("status", [RunStatus.KILLED, RunStatus.FINISHED])
    @pytest.mark.parametrize("restart", [False, True])
    def test_a_run_that_comes_back(self, tracker: Tracker, courier: Courier, status: RunStatus, restart: bool) -> None:
        """One that was lost, or is resumed."""
        courier.deliver(point("a", 1.0, 1), RunEnd(status, "", T0 + 9))
        if restart:
            courier.restart()
        courier.deliver(RunEnd(RunStatus.RUNNING, "", T0 + 10), point("a", 2.0, 2))
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]
        courier.deliver(point("a", 2.5, 1), RunEnd(RunStatus.FINISHED, "", T0 + 11))
        assert tracker.runs() == [tracker.words[RunStatus.FINISHED]]
        points = [point("a", 1.0, 1), point("a", 2.0, 2), point("a", 2.5, 1)]
        assert arrived(tracker) == Expected(tracker, points).arrived

    def test_a_chunk_without_points(self, tracker: Tracker, courier: Courier) -> None:
        courier.deliver(WriterSeen("runs/a", ""), Params({}, T0), Tags({}, T0))
        assert tracker.runs() == [tracker.words[RunStatus.RUNNING]]
        assert tracker.arrived() == []

    def test_a_hundred_at_once(self, tracker: Tracker) -> None:
        """One worker has them all, each gets its turn, and the worker is ended in between."""
        chance = random.Random(1)
        worker = [tracker.make()]
        couriers = [
            Courier(lambda: worker[0], dataclasses.replace(tracker.run, run_id=f"r-{at}", name=f"run {at % 3}"))
            for at in range(100)
        ]
        points: list[Metric] = []
        for turn in range(2):
            order = list(range(len(couriers)))
            chance.shuffle(order)
            for at in order:
                couriers[at].exporter = worker[0]
                mine = [point("a", float(at), turn), point("b", at + turn / 8, turn)]
                end = [RunEnd(RunStatus.FINISHED, "", T0 + 9)] if turn == 1 else []
                couriers[at].deliver(*mine, *end)
                points += mine
            worker[0].close()
            worker[0] = tracker.make()
        worker[0].close()
        expected: Counter[Stored] = Counter()
        for at in range(len(couriers)):
            expected += Expected(tracker, points_of(points, at)).arrived
        assert arrived(tracker) == expected
        assert tracker.runs() == [tracker.words[RunStatus.FINISHED]] * 100
        assert {account(courier) for courier in couriers} == {(4, 0, 0, 0)}


def points_of(points: Sequence[Metric], run: int) -> list[Metric]:
    """Of many runs' points those of one; their values say whose they are."""
    return [metric for metric in points if int(metric.value) == run]
