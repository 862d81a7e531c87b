"""`tracelet.log` and its kin: what each makes of what it is given, in which run, and that nothing given can raise."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.figure
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import tracelet
from tests.support import runs
from tests.support.spool_points import points, records_of
from tracelet import api
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import Artifact, Media, Params, Tags


@pytest.fixture
def run(home: Path) -> Iterator[Experiment]:
    with runs.running(home) as one:
        yield one


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user: what the guard catches is said."""
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")


def logged(home: Path) -> list[tuple[str, float, int]]:
    return [(point.name, point.value, point.step) for point in points(home)]


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    captured = capfd.readouterr()
    assert captured.out == ""
    return [line.removeprefix("tracelet: ") for line in captured.err.splitlines()]


def test_numbers(run: Experiment, home: Path) -> None:
    values: dict[str, Any] = {
        "float": 0.1,
        "int": 3,
        "bool": True,
        "nan": math.nan,
        "inf": -math.inf,
        "float64": np.float64(0.3),
        "float32": np.float32(0.1),
        "int64": np.int64(-4),
        "array": np.array(5.5),
        "one": np.array([[6.5]]),
        "tensor": torch.tensor(0.7, requires_grad=True),
        "one tensor": torch.tensor([8]),
        "bfloat16": torch.tensor(1.5, dtype=torch.bfloat16),
        "decimal": Decimal("0.25"),
        "fraction": Fraction(1, 4),
    }
    wanted = [
        *(0.1, 3.0, 1.0, math.nan, -math.inf, 0.3, float(np.float32(0.1)), -4.0, 5.5, 6.5),
        *(float(torch.tensor(0.7)), 8.0, 1.5, 0.25, 0.25),
    ]
    tracelet.log(values, step=7)
    found = logged(home)
    assert [name for name, _, _ in found] == list(values)
    assert [step for _, _, step in found] == [7] * len(values)
    np.testing.assert_array_equal([value for _, value, _ in found], wanted)
    assert len({point.wall_time for point in points(home)}) == 1


def test_steps(run: Experiment, home: Path) -> None:
    for step in (None, None, 0, np.int64(5), torch.tensor(6), -1):
        tracelet.log({"loss": 0.5}, step)
    found = [(point.step, point.step_implied) for point in points(home)]
    assert found == [(0, True), (1, True), (0, False), (5, False), (6, False), (-1, False)]


def test_mappings_come_apart(run: Experiment, home: Path) -> None:
    tracelet.log({"train": {"loss": 0.5, "lr": {0: 0.1}}, "val/loss": 0.25, "empty": {}}, 1)
    assert logged(home) == [("train/loss", 0.5, 1), ("train/lr/0", 0.1, 1), ("val/loss", 0.25, 1)]


@pytest.mark.usefixtures("unguarded")
def test_a_mapping_that_holds_itself(run: Experiment, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = {"x": 1.0}
    values["me"] = values
    tracelet.log(values, 0)
    assert len(logged(home)) == 17
    assert said(capfd) == ["me is not recorded below 16 levels of mappings"]


def test_tensors_on_a_device_are_read_together(run: Experiment, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(api, "_is_on_device", lambda value: isinstance(value, torch.Tensor))
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: reads.append(len(tensors)) or stack(tensors))
    tracelet.log({"a": torch.tensor([0.5]), "b": 1.0, "c": torch.tensor(0.25), "d": torch.tensor(2)}, 3)
    assert reads == [3]
    assert logged(home) == [("b", 1.0, 3), ("a", 0.5, 3), ("c", 0.25, 3), ("d", 2.0, 3)]


def test_what_is_unmistakably_media(run: Experiment, home: Path) -> None:
    figure = matplotlib.figure.Figure()
    figure.add_subplot()
    values = {"fig": figure, "img": Image.new("RGB", (3, 2)), "tab": pandas.DataFrame({"a": [1]}), "loss": 0.5}
    tracelet.log({"eval": values}, 2)
    found = [(media.name, media.kind, media.step) for media in records_of(Media, home)]
    assert found == [("eval/fig", "figure", 2), ("eval/img", "image", 2), ("eval/tab", "table", 2)]
    assert logged(home) == [("eval/loss", 0.5, 2)]


@pytest.mark.usefixtures("unguarded")
def test_what_is_left_out_is_said_and_the_rest_is_recorded(
    run: Experiment, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Hostile:
        def __float__(self) -> float:
            raise RuntimeError("no")

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no attributes either")

    wrong: dict[str, Any] = {
        "text": "abc",
        "none": None,
        "array": np.zeros((2, 3)),
        "tensor": torch.zeros(2),
        "list": [1, 2],
        "object": SimpleNamespace(),
        "complex": 1j,
        "huge": 10**400,
        "hostile": Hostile(),
    }
    for _ in range(2):
        tracelet.log({"first": 1.0, **wrong, "last": 2.0}, 0)
    assert logged(home) == [("first", 1.0, 0), ("last", 2.0, 0)] * 2
    lines = said(capfd)
    assert lines[:6] == [
        "text is not recorded: a text is for log_text",
        "none is not recorded: NoneType is no number",
        "array is not recorded: an array of shape (2, 3) is for log_histogram, log_image or log_table",
        "tensor is not recorded: an array of shape (2,) is for log_histogram, log_image or log_table",
        "list is not recorded: a list is for log_histogram or log_table",
        "object is not recorded: SimpleNamespace is no number",
    ]
    assert all("recording values failed" in line or "is not recorded" in line for line in lines[6:])
    assert len(lines) == len(set(lines))


@pytest.mark.usefixtures("unguarded")
def test_no_mapping_no_step(run: Experiment, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracelet.log([("loss", 0.5)], 0)  # type: ignore[arg-type]
    tracelet.log({"loss": 0.5}, "first")  # type: ignore[arg-type]
    assert logged(home) == []
    first, second = said(capfd)
    assert first == "log takes a mapping of names to values, not list: nothing is recorded"
    assert second.startswith("recording values failed (ValueError: ")


def test_each_call_is_that_of_the_run(run: Experiment, home: Path, tmp_path: Path) -> None:
    figure = matplotlib.figure.Figure()
    (tmp_path / "a.txt").write_text("a")
    tracelet.log_image("image", np.zeros((4, 5)), step=1, dataformats="HW")
    tracelet.log_figure("figure", figure, step=2, close=False)
    tracelet.log_histogram("histogram", [1.0, 2.0], step=3, bins=2)
    tracelet.log_text("text", "words", 4)
    tracelet.log_table("table", [[1, 2]], step=5, columns=["a", "b"])
    tracelet.log_audio("audio", np.zeros(8), step=6, sample_rate=8000)
    tracelet.log_video("video", np.zeros((1, 2, 3, 4, 5)), step=7, fps=2)
    tracelet.log_artifact(tmp_path / "a.txt", "b.txt", type="notes", metadata={"n": 1})
    tracelet.log_params({"lr": 0.1})
    tracelet.set_tags(["good"])
    media = records_of(Media, home)
    assert [(each.name, each.step) for each in media] == [
        (name, at) for at, name in enumerate(("image", "figure", "histogram", "text", "table", "audio", "video"), 1)
    ]
    assert (media[0].metadata["width"], media[5].metadata["sample_rate"], media[6].metadata["fps"]) == (5, 8000, 2)
    assert json.loads(media[4].content) == {"columns": ["a", "b"], "data": [[1, 2]]}  # type: ignore[arg-type]
    (artifact,) = records_of(Artifact, home)
    assert (artifact.path, artifact.content, artifact.metadata) == ("b.txt", b"a", {"n": 1, "type": "notes"})
    assert [params.values for params in records_of(Params, home)] == [{"lr": 0.1}]
    assert [tags.values for tags in records_of(Tags, home)] == [{"good": "true"}]


def test_a_muted_context(run: Experiment, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with active.muted():
        tracelet.log({"loss": 0.5}, 0)
        tracelet.log_text("t", "t")
        tracelet.log_params({"a": 1})
    assert (logged(home), records_of(Media, home), records_of(Params, home), said(capfd)) == ([], [], [], [])


def test_a_plain_thread(run: Experiment, home: Path) -> None:
    thread = threading.Thread(target=tracelet.log, args=({"loss": 0.5}, 1))
    thread.start()
    thread.join()
    assert logged(home) == [("loss", 0.5, 1)]


def test_without_a_run(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracelet.log({"loss": 0.5}, 0)
    tracelet.log_text("t", "t")
    tracelet.set_tags(["a"])
    assert said(capfd) == ["no run: start_logging() first; what is logged before that is not recorded"]
    assert not list(home.rglob("*"))


def test_without_a_run_where_nothing_is_wanted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def unread() -> float:
        raise AssertionError("nobody reads it")

    with tracelet.start_logging(mode="disabled"):
        tracelet.log({"loss": SimpleNamespace(__float__=unread, item=unread, numel=unread)}, 0)
        tracelet.log_text("t", "t")
    monkeypatch.setenv("TRACELET_DISABLED", "1")
    tracelet.log({"loss": 0.5}, 0)
    assert said(capfd) == []
