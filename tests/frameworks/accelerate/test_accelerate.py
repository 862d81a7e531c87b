"""What `Accelerator.log` is given arrives once, whatever trackers there are; and `TraceletTracker`."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import accelerate.tracking
import numpy
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.tracking import GeneralTracker

import tracelet
from tests.frameworks.lightning.training import events
from tracelet import testing
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.loggers.accelerate import TraceletTracker
from tracelet.settings import TraceletSettings

Point = tuple[str, float, int | None]
BY_NAME = hasattr(accelerate.tracking, "register_tracker_class")  # 1.1 has no place for trackers of others


class Keeping(GeneralTracker):
    """A tracker of somebody else's: it keeps what it is given."""

    name = "keeping"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[dict[str, Any], int | None]] = []

    @property
    def tracker(self) -> Any:
        return self.given

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        self.given.append((dict(values), step))


def train(log_with: Any, **given: Any) -> Accelerator:
    """Three steps that log a number, a number on a tensor, and two in one another."""
    named = log_with if BY_NAME else _objects(log_with)
    accelerator = Accelerator(cpu=True, log_with=named, project_dir="logs")
    accelerator.init_trackers("digits", config={"lr": 0.1, "layers": 3, "api_key": "averysecretword"}, **given)
    for step in range(3):
        accelerator.log({"loss": 1 / (step + 1), "gain": torch.tensor(step / 3)}, step=step)
        accelerator.log({"parts": {"a": float(step), "b": 2.0}}, step=10 * step)
    return accelerator


def _objects(log_with: Any) -> Any:
    if isinstance(log_with, list):
        return [_objects(each) for each in log_with]
    return TraceletTracker() if log_with == "tracelet" else log_with


EXPECTED: list[Point] = [
    each
    for step in range(3)
    for each in (
        ("loss", 1 / (step + 1), step),
        ("gain", float(torch.tensor(step / 3)), step),
        ("parts/a", float(step), 10 * step),
        ("parts/b", 2.0, 10 * step),
    )
]


def arrived(cap: testing.Captured, run: Any = None) -> list[Point]:
    return [(p.name, p.value, p.step) for p in cap.points(run=run) if not p.name.startswith("optim/")]


@pytest.mark.parametrize(
    "log_with",
    [None, ["tensorboard"], ["tracelet"], ["tensorboard", "tracelet"], ["tracelet", "tensorboard"]],
    ids=lambda names: "+".join(names or ["none"]),
)
def test_each_value_once(cap: testing.Captured, log_with: list[str] | None) -> None:
    with tracelet.start_logging():
        train(log_with).end_training()
        assert active.here() is cap.runs[0]
    assert arrived(cap) == EXPECTED
    assert cap.params["lr"] == 0.1
    assert cap.params["layers"] == 3
    if "tensorboard" in (log_with or []):
        assert len(events("logs")) == len(EXPECTED)
    assert (cap.status, len(cap.runs)) == (RunStatus.FINISHED, 1)


@pytest.mark.parametrize("beside", ["another", "ours", "tensorboard"])
def test_beside_a_tracker_of_somebody_elses(cap: testing.Captured, beside: str) -> None:
    keeping = Keeping()
    other = {"another": Keeping(), "ours": TraceletTracker(), "tensorboard": "tensorboard"}[beside]
    with tracelet.start_logging():
        train([keeping, other])
    assert arrived(cap) == EXPECTED
    assert len(keeping.given) == 6


def test_values_of_all_kinds(cap: testing.Captured) -> None:
    with tracelet.start_logging():
        accelerator = Accelerator(cpu=True, log_with=[Keeping()])
        accelerator.init_trackers("p")
        values: dict[str, Any] = {
            "nan": math.nan,
            "numpy": numpy.float32(0.5),
            "flag": True,
            "note": "halfway",
            "several": torch.ones(3),
            "nothing": None,
        }
        accelerator.log(values, step=4)
        accelerator.log({"counted": 1.0})
        accelerator.log({"counted": 2.0})
        values.clear()
    found = {name: (value, step) for name, value, step in arrived(cap)}
    assert found.keys() == {"nan", "numpy", "flag", "counted"}
    assert math.isnan(found["nan"][0])
    assert (found["numpy"], found["flag"]) == ((0.5, 4), (1.0, 4))
    assert [point.step for point in cap.points("counted")] == [0, 1]
    (note,) = cap.media("note")
    assert (note.content, note.step) == (b"halfway", 4)


def test_secrets_are_hidden(cap: testing.Captured) -> None:
    with tracelet.start_logging():
        train(None)
    assert "averysecretword" not in str(cap.params)
    assert "api_key" in cap.params


def test_a_tracker_that_fails(cap: testing.Captured) -> None:
    class Failing(Keeping):
        def log(self, *_: Any, **__: Any) -> None:
            raise OSError("the disk is full")

    with tracelet.start_logging(), pytest.raises(OSError, match="the disk is full"):
        train([Failing()])
    assert arrived(cap) == EXPECTED[:2]


def test_before_and_after_a_run_and_where_nothing_is_to_be_recorded(cap: testing.Captured) -> None:
    with active.muted():
        train(["tensorboard"])
    with tracelet.start_logging() as run:
        accelerator = train(None)
        with active.muted():
            accelerator.log({"loss": 5.0}, step=5)
    accelerator.log({"loss": 6.0}, step=6)
    assert arrived(cap, run) == EXPECTED


def test_other_processes_record_nothing(cap: testing.Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracelet.start_logging():
        accelerator = Accelerator(cpu=True)
        with monkeypatch.context() as patching:
            patching.setitem(PartialState._shared_state, "process_index", 1)
            assert not accelerator.is_main_process
            accelerator.init_trackers("p", config={"lr": 0.1})
            accelerator.log({"loss": 1.0}, step=0)
    assert not cap.points()
    assert "lr" not in cap.params


@pytest.mark.parametrize("log_with", [None, ["tracelet"], ["tracelet", "tensorboard"]], ids=str)
def test_without_capture(cap: testing.Captured, log_with: list[str] | None) -> None:
    settings = TraceletSettings(accelerate={"capture": False})  # type: ignore[arg-type]
    with tracelet.start_logging(settings=settings):
        train(log_with)
    assert arrived(cap) == (EXPECTED if log_with else [])


def test_disabled(alone: testing.Captured) -> None:
    run = tracelet.start_logging(mode="disabled")
    accelerator = train(["tracelet"])
    assert accelerator.get_tracker("tracelet", unwrap=True) is run
    accelerator.end_training()
    tracelet.stop_logging()
    assert not alone.runs
    assert not alone.points()


# -- our tracker


@pytest.mark.parametrize("how", ["by name", "as an object"] if BY_NAME else ["as an object"])
def test_it_starts_a_run_and_ends_it(alone: testing.Captured, how: str) -> None:
    said: dict[str, Any] = {"name": "first", "tags": {"a": "b"}, "run_id": "an-id"}
    if how == "by name":
        accelerator = train("tracelet", init_kwargs={"tracelet": said})
    else:
        accelerator = train(TraceletTracker("digits", **said))
    (run,) = alone.runs
    assert (run.name, run.project, run.id, run.status) == ("first", "digits", "an-id", RunStatus.RUNNING)
    accelerator.end_training()
    assert run.status is RunStatus.FINISHED
    assert active.here() is None
    assert arrived(alone) == EXPECTED
    assert alone.params["lr"] == 0.1
    assert alone.tags["a"] == "b"


def test_it_is_a_tracker(cap: testing.Captured) -> None:
    """What is given to it alone, images and tables."""
    with tracelet.start_logging() as run:
        accelerator = train("tracelet")
        tracker = accelerator.get_tracker("tracelet")
        assert isinstance(tracker, GeneralTracker)
        assert tracker.tracker is accelerator.get_tracker("tracelet", unwrap=True) is run
        tracker.log({"alone": 0.5, "note": "by hand"}, step=7, more="ignored")
        tracker.store_init_configuration({"optimizer": {"lr": 0.1}})
        tracker.log_images({"one": [numpy.zeros((4, 4, 3), numpy.uint8)], "two": torch.zeros(2, 3, 4, 4)}, step=1)
        tracker.log_table("rows", columns=["a", "b"], data=[[1, "x"], [2, "y"]], step=2)
        tracker.finish()
        assert run.active
    assert arrived(cap)[-1] == ("alone", 0.5, 7)
    assert cap.params["optimizer/lr"] == 0.1
    assert [(media.name, media.step) for media in cap.media()] == [
        ("note", 7),
        ("one", 1),
        ("two/0", 1),
        ("two/1", 1),
        ("rows", 2),
    ]


def test_two_in_a_row(alone: testing.Captured) -> None:
    for number in range(2):
        accelerator = train(TraceletTracker(name=f"number {number}"))
        accelerator.end_training()
    assert [run.name for run in alone.runs] == ["number 0", "number 1"]
    assert [arrived(alone, run) for run in alone.runs] == [EXPECTED, EXPECTED]
    # What is logged after the end goes on in the run that the tracker had.
    accelerator.log({"late": 1.0}, step=3)
    accelerator.end_training()
    assert (len(alone.runs), alone.runs[2].id) == (3, alone.runs[1].id)


def test_it_pickles(alone: testing.Captured) -> None:
    tracker = pickle.loads(pickle.dumps(TraceletTracker("digits")))
    assert isinstance(tracker, TraceletTracker)
    assert tracker.tracker.project == "digits"
    tracker.finish()


def test_optimizers_are_counted_once(cap: testing.Captured) -> None:
    with tracelet.start_logging(settings=TraceletSettings(optimizer_every=1)):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        layer = torch.nn.Linear(2, 1)
        model, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
        for step in range(4):
            with accelerator.accumulate(model):
                loss = model(torch.ones(2)).pow(2).mean()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            accelerator.log({"loss": loss.item()}, step=step)
    assert [point.step for point in cap.points("optim/SGD/loss")] == [1, 2]
    assert [point.step for point in cap.points("loss")] == [0, 1, 2, 3]


LATER = """
import json, sys
from tracelet import lifetime, testing

with testing.capture() as cap:
    lifetime.deactivate(cap._captor.stand_in)
    import tracelet.loggers.accelerate

    assert "accelerate" not in sys.modules
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tracelet")
    accelerator.init_trackers("digits")
    accelerator.log({"loss": 0.5}, step=3)
    accelerator.end_training()
    print(json.dumps([[run.project for run in cap.runs], [[point.value, point.step] for point in cap.points()]]))
"""


@pytest.mark.skipif(not BY_NAME, reason="this Accelerate has no place for trackers of others")
def test_it_is_imported_later() -> None:
    """No run is there: the name is known by our module alone, which does not import Accelerate."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LATER], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["digits"], [[0.5, 3]]]
