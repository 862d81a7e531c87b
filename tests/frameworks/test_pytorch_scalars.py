"""What a SummaryWriter is given arrives in the spool exactly; what it refuses does not, and the user sees its own exception."""

from __future__ import annotations

import math
import struct
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from tests.support import runs
from tests.support.spool_points import points, records_of
from tracelet.core.metrics import WriterSeen

# value as the user passes it -> the float64 that must arrive
VALUES: list[tuple[Any, float]] = [
    (1 / 3, 1 / 3),
    (1e300, 1e300),
    (5e-324, 5e-324),
    (math.nan, math.nan),
    (math.inf, math.inf),
    (-math.inf, -math.inf),
    (-0.0, -0.0),
    (7, 7.0),
    (2**53 + 1, float(2**53)),
    (2**70, float(2**70)),
    (True, 1.0),
    (np.float64(0.1), 0.1),
    (np.float32(0.1), float(np.float32(0.1))),
    (np.float16(0.1), float(np.float16(0.1))),
    (np.int64(-3), -3.0),
    (np.uint8(200), 200.0),
    (np.bool_(True), 1.0),
    (np.array(0.1), 0.1),
    (np.array([0.1]), 0.1),
    (np.array([[3]], dtype=np.int16), 3.0),
    (torch.tensor(0.1, dtype=torch.float64), 0.1),
    (torch.tensor([0.1], dtype=torch.float64), 0.1),
    (torch.tensor([[[0.1]]]), float(np.float32(0.1))),
    (torch.tensor(1e38, dtype=torch.bfloat16), float(torch.tensor(1e38, dtype=torch.bfloat16).item())),
    (torch.tensor(3), 3.0),
    (torch.tensor(True), 1.0),
    (torch.tensor(0.5, requires_grad=True), 0.5),
    (torch.nn.Parameter(torch.tensor([2.0])), 2.0),
    (Fraction(1, 3), 1 / 3),
    (Decimal("0.1"), 0.1),
    ("0.25", 0.25),
]
# step as the user passes it -> the step that must arrive
STEPS: list[tuple[Any, int]] = [
    (0, 0),
    (-5, -5),
    (2**53 + 1, 2**53 + 1),
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (np.int64(7), 7),
    (np.int32(-7), -7),
    (torch.tensor(9), 9),
    (torch.tensor([9]), 9),
    (3.9, 3),
    (-3.9, -3),
    (np.float32(2.5), 2),
    (torch.tensor(4.5), 4),
    (True, 1),
    ("12", 12),
]


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.fixture
def writer(tmp_path: Path) -> SummaryWriter:
    return SummaryWriter(str(tmp_path / "tb"))


def test_awkward_scalars_from_two_writers_arrive_exactly(tmp_path: Path, home: Path) -> None:
    sent: list[tuple[str, str, bytes, int, float]] = []
    with runs.running(home):
        train, val = SummaryWriter(str(tmp_path / "train")), SummaryWriter(str(tmp_path / "val"))
        for label, writer in (("train", train), ("val", val)):
            for number, (value, expected) in enumerate(VALUES):
                writer.add_scalar("value", value, number, walltime=1.5e9 + number / 3)
                sent.append((label, "value", bits(expected), number, 1.5e9 + number / 3))
            for given, step in STEPS:
                writer.add_scalar("step", 0.1, given, walltime=1e9)
                sent.append((label, "step", bits(0.1), step, 1e9))
            for step in (5, 3, 1, 3, 3, 3):
                writer.add_scalar("backward and again", 1.0, step, walltime=0.0)
                sent.append((label, "backward and again", bits(1.0), step, 0.0))
    arrived = [(p.name.split("/")[0], p.tag, bits(p.value), p.step, p.wall_time) for p in points(home)]
    assert arrived == sent
    assert {p.name for p in points(home)} == {f"{label}/{tag}" for label, tag, *_ in sent}


def test_no_step_counts_per_name_and_says_so(tmp_path: Path, home: Path) -> None:
    with runs.running(home):
        train, val = SummaryWriter(str(tmp_path / "train")), SummaryWriter(str(tmp_path / "val"))
        for value in (0.1, 0.2, 0.3):
            train.add_scalar("loss", value)
        val.add_scalar("loss", 0.4)
        val.add_scalar("loss", 0.5, 7)
        val.add_scalar("other", 0.6, None)
    got = [(p.name, p.step, p.step_implied) for p in points(home)]
    assert got == [
        *(("train/loss", step, True) for step in (0, 1, 2)),
        ("val/loss", 0, True),
        ("val/loss", 7, False),
        ("val/other", 0, True),
    ]


def test_wall_time_is_the_argument_or_the_clock(writer: SummaryWriter, home: Path) -> None:
    with runs.running(home):
        writer.add_scalar("by keyword", 1.0, walltime=np.float32(2.5), global_step=1)
        writer.add_scalar("by position", 1.0, 1, 1234567890.123456)
        writer.add_scalar("zero", 1.0, 1, 0)
        before = time.time()
        writer.add_scalar("now", 1.0, 1)
        after = time.time()
    by_name = {p.name: p.wall_time for p in points(home)}
    assert by_name["by keyword"] == 2.5
    assert by_name["by position"] == 1234567890.123456
    assert by_name["zero"] == 0.0
    assert before <= by_name["now"] <= after


def test_all_ways_to_pass_arguments(writer: SummaryWriter, home: Path) -> None:
    with runs.running(home):
        writer.add_scalar(tag="a", scalar_value=1.0, global_step=1)
        writer.add_scalar("a", scalar_value=2.0, global_step=2)
        SummaryWriter.add_scalar(writer, "a", 3.0, 3)
        writer.add_scalar("a", 4.0, 4, None, True, True)
        writer.add_scalar("a", 5.0, 5, new_style=True, double_precision=True)
        bound = writer.add_scalar
        bound("a", 6.0, 6)
    assert [(p.value, p.step) for p in points(home)] == [(float(n), n) for n in range(1, 7)]


@pytest.mark.parametrize(
    ("tag", "name"), [("ä/b c", "ä/b c"), (b"bytes", "bytes"), (np.str_("np"), "np"), ("", ""), (None, "")]
)
def test_tags_are_what_tensorboard_takes(writer: SummaryWriter, home: Path, tag: Any, name: str) -> None:
    with runs.running(home):
        writer.add_scalar(tag, 1.0, 1)
    (point,) = points(home)
    assert (point.tag, type(point.tag)) == (name, str)


REFUSED: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a", None), {}),
    (("a", "no number"), {}),
    (("a", [1.0]), {}),
    (("a", np.array([1.0, 2.0])), {}),
    (("a", np.array([])), {}),
    (("a", torch.tensor([1.0, 2.0])), {}),
    (("a", 10**400), {}),
    (("a", 1j), {}),
    (("a", object()), {}),
    (("a", 1.0, 2**63), {}),
    (("a", 1.0, math.nan), {}),
    (("a", 1.0, "step"), {}),
    (("a", 1.0), {"walltime": "noon"}),
    ((5, 1.0), {}),
    (("\ud800", 1.0), {}),
    (("a",), {}),
    (("a", 1.0), {"gobal_step": 1}),
]


@pytest.mark.parametrize(("args", "kwargs"), REFUSED, ids=range(len(REFUSED)))
def test_what_tensorboard_refuses_raises_as_without_us_and_is_not_recorded(
    writer: SummaryWriter, home: Path, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(Exception) as bare:
        writer.add_scalar(*args, **kwargs)
    with runs.running(home), pytest.raises(Exception) as patched:
        writer.add_scalar(*args, **kwargs)
    assert type(patched.value) is type(bare.value)
    assert str(patched.value) == str(bare.value)
    assert patched.value.__cause__ is None
    assert points(home) == []


def test_add_scalars_gives_a_point_for_each_entry(writer: SummaryWriter, tmp_path: Path, home: Path) -> None:
    with runs.running(home):
        writer.add_scalars("loss", {"train": torch.tensor(0.5), "val": np.float64(0.1)}, 3, walltime=12.5)
        writer.add_scalars(main_tag="a/b", tag_scalar_dict={"c": 1}, global_step=np.int64(4))
        writer.add_scalars("loss", {})
        writer.add_scalars("now", {"x": 1, "y": 2})
        writer.add_scalar("plain", 2.0, 5)
        writer.flush()
    got = points(home)
    assert [(p.name, p.value, p.step) for p in got] == [
        ("loss/train", 0.5, 3),
        ("loss/val", 0.1, 3),
        ("a/b/c", 1.0, 4),
        ("now/x", 1.0, 0),
        ("now/y", 2.0, 0),
        ("plain", 2.0, 5),
    ]
    assert [p.wall_time for p in got[:2]] == [12.5, 12.5]
    assert got[3].wall_time == got[4].wall_time
    # The folders of its children are TensorBoard's affair: the run has one writer, and it has no label.
    assert [(seen.log_dir, seen.label) for seen in records_of(WriterSeen, home)] == [(str(tmp_path / "tb"), "")]
    assert (tmp_path / "tb" / "loss_train").is_dir()


def test_add_scalars_that_fails_in_the_middle_is_not_recorded(writer: SummaryWriter, home: Path) -> None:
    with runs.running(home), pytest.raises(NotImplementedError):
        writer.add_scalars("loss", {"good": 1.0, "bad": None}, 1)
    assert points(home) == []


@pytest.mark.parametrize("run_name", [None, "trial", "absolute"])
def test_add_hparams_keeps_its_writer_to_itself(
    writer: SummaryWriter, tmp_path: Path, home: Path, run_name: str | None
) -> None:
    if run_name == "absolute":
        run_name = str(tmp_path / "elsewhere" / "hparams")
    with runs.running(home):
        writer.add_scalar("before", 1.0, 1)
        writer.add_hparams({"lr": 0.1, "act": "relu"}, {"hparam/accuracy": 0.9}, run_name=run_name)
        writer.add_scalar("after", 2.0, 2)
        with pytest.raises(TypeError):
            writer.add_hparams([], {})
        SummaryWriter(str(tmp_path / "second")).add_scalar("x", 3.0, 3)
    assert [p.name for p in points(home)] == ["before", "hparam/accuracy", "after", "second/x"]
    assert {seen.label for seen in records_of(WriterSeen, home)} == {"", "second"}


def test_event_files_are_what_they_are_without_us(tmp_path: Path, home: Path) -> None:
    def log(folder: Path) -> list[tuple[str, int, float, float]]:
        writer = SummaryWriter(str(folder))
        assert writer.add_scalar("a", 0.1, 3, walltime=5.0) is None
        assert writer.add_scalars("m", {"x": 1.0}, 4, walltime=6.0) is None
        assert writer.add_hparams({"lr": 0.1}, {"acc": 1.0}, run_name="h", global_step=1) is None
        writer.close()
        events = []
        for path in sorted({path.parent for path in folder.rglob("events.*")}):
            found = EventAccumulator(str(path)).Reload()
            for tag in found.Tags()["scalars"]:
                events += [(tag, e.step, e.value, min(e.wall_time, 1e9)) for e in found.Scalars(tag)]
        return events

    bare = log(tmp_path / "bare")
    with runs.running(home):
        assert log(tmp_path / "patched") == bare
    assert len(bare) == 3
