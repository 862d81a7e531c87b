"""`TraceletCallback`, in a script and by its name in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from formed.integrations.torch import SingleDeviceDistributor, TorchTrainer, TorchTrainingCallback
from formed.workflow.colt import COLT_BUILDER

import tracelet
from tests.nested.formed.training import Fails, History, Line, rows, steps, train, trainer
from tests.nested.formed.training import run as workflow
from tests.seeds.histories import arrived
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.errors import ConfigurationError
from tracelet.loggers.formed import TraceletCallback
from tracelet.testing import Captured


def test_beside_what_is_listened_to_each_value_arrives_once(cap: Captured) -> None:
    callback = TraceletCallback(project="other")
    history = train(callback)
    found = arrived(cap)
    assert {name: found[name] for name in history} == history
    assert len(found["epoch"]) == 3
    assert cap.runs == []  # there is one: that of the capture


def test_it_starts_a_run_and_ends_it(alone: Captured) -> None:
    callback = TraceletCallback(project="digits", name="first", tags={"a": "b"}, group="g", notes="n", run_id="an-id")
    assert not alone.runs
    history = train(callback)
    (run,) = alone.runs
    assert (run.name, run.project, run.id, run.status) == ("first", "digits", "an-id", RunStatus.FINISHED)
    assert (run.plan.tags, run.plan.group, run.plan.notes) == ({"a": "b"}, "g", "n")
    found = arrived(alone, run=run)
    assert {name: found[name] for name in history} == history
    assert alone.params["trainer/max_epochs"] == 3
    assert active.here() is None


def test_each_training_has_a_run_of_its_own(alone: Captured) -> None:
    made = trainer(TraceletCallback(name="again"), history := History())
    for _ in range(2):
        made.train(Line(), rows(), rows(6))
    first, second = alone.runs
    assert first.id != second.id
    assert len(history.points["train/loss"]) == 18
    for number, run in enumerate((first, second)):
        assert arrived(alone, run=run)["train/loss"] == history.points["train/loss"][9 * number :][:9]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, RunStatus.FAILED), (KeyboardInterrupt, RunStatus.KILLED)])
def test_its_run_ends_as_the_training_does(error: type[BaseException], status: RunStatus, alone: Captured) -> None:
    with pytest.raises(error, match="no more"):
        train(TraceletCallback(), Fails(5, error))
    (run,) = alone.runs
    assert run.status is status
    assert len(arrived(alone, run=run)["train/loss"]) == 5


def test_a_start_that_makes_no_sense_is_the_users_error(alone: Captured) -> None:
    with pytest.raises(ConfigurationError, match="no run"):
        train(TraceletCallback(run_id="nowhere", resume="must"))


def test_by_its_name(alone: Captured) -> None:
    given = {"type": "tracelet", "project": "digits", "name": "named", "tags": ["a"], "backend": ["mlflow"]}
    callback = COLT_BUILDER(given, TorchTrainingCallback)
    assert type(callback) is TraceletCallback
    history = train(callback)
    (run,) = alone.runs
    assert (run.name, run.project) == ("named", "digits")
    assert arrived(alone, run=run)["val/loss"] == history["val/loss"]


def test_in_a_workflow_around_which_there_is_no_run(alone: Captured, tmp_path: Path) -> None:
    """The training is recorded; the workflow and its other steps are nobody's."""
    config = steps()
    history = {"type": "tracelet_test_history", "file": str(tmp_path / "told")}
    config["trained"]["trainer"]["callbacks"] += [history, {"type": "tracelet", "name": "mine"}]
    for _ in range(2):
        workflow(config, tmp_path)
    (run,) = alone.runs  # the second time, formed has the model in its cache
    assert (run.name, run.status) == ("mine", RunStatus.FINISHED)
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert [
        [name, str(step), repr(value)]
        for name, points in arrived(alone, "train/", "val/", run=run).items()
        for step, value in points
    ] == sorted(told, key=lambda line: line[0])


def test_where_a_run_is_active_before_a_script_has_one(alone: Captured) -> None:
    """It was made before the run, and uses it."""
    callback = TraceletCallback(name="unused")
    with tracelet.start_logging("around") as run:
        history = train(callback)
        assert callback.experiment is run
        assert run.active
    assert alone.runs == [run]
    assert arrived(alone, run=run)["train/loss"] == history["train/loss"]


def test_on_other_ranks_it_starts_nothing(alone: Captured) -> None:
    class Second(SingleDeviceDistributor):
        is_main_process = False

    assert train(TraceletCallback(), distributor=Second())
    assert alone.runs == []


def test_disabled(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("TRACELET_DISABLED", "1")
    assert train(TraceletCallback())
    assert not list(home.iterdir())


def test_the_patches_go_with_the_last_callback(cap: Captured) -> None:
    callback: Any = TraceletCallback()
    tracelet.start_logging()
    tracelet.stop_logging()
    assert hasattr(TorchTrainer.__dict__["train"], "__wrapped__")
    del callback
    tracelet.start_logging()
    tracelet.stop_logging()
    assert not hasattr(TorchTrainer.__dict__["train"], "__wrapped__")
