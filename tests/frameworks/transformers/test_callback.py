"""`TraceletCallback`, by name and as an object: runs that it begins, ends and goes on with."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

import tracelet
from tests.frameworks.transformers.test_capture import Counting
from tests.frameworks.transformers.training import arrived, history, rows, trainer
from tracelet import testing
from tracelet.core import active
from tracelet.core.metrics import RunStatus
from tracelet.loggers.transformers import TraceletCallback


def test_it_starts_a_run_and_ends_it(alone: testing.Captured) -> None:
    callback = TraceletCallback(project="digits", tags={"a": "b"}, group="g", notes="n", run_id="an-id")
    assert isinstance(callback, TrainerCallback)
    assert callback.experiment is None
    ran = trainer(callbacks=[callback], run_name="first")
    assert not alone.runs
    ran.train()
    (run,) = alone.runs
    assert callback.experiment is run
    assert (run.name, run.project, run.id, run.status) == ("first", "digits", "an-id", RunStatus.FINISHED)
    assert active.here() is None
    ran.evaluate()
    predicted = ran.predict(rows(8))
    assert [each.id for each in alone.runs] == ["an-id"] * 3  # it went on
    assert [each.status for each in alone.runs] == [RunStatus.FINISHED] * 3
    assert arrived(alone) == history(ran, predicted.metrics)
    assert alone.tags["a"] == "b"
    assert alone.params["learning_rate"] == 5e-5


def test_by_name_it_starts_one_too(alone: testing.Captured) -> None:
    ran = trainer(report_to=["tensorboard", "tracelet"], max_steps=2)
    ran.evaluate()  # before it has trained
    ran.train()
    assert len({run.id for run in alone.runs}) == 1
    assert [run.status for run in alone.runs] == [RunStatus.FINISHED] * 2
    (first,) = [point for point in alone.points("eval/loss")]
    assert first.step == 0
    assert arrived(alone, alone.runs[1])[-len(history(ran)) :] == history(ran)


@pytest.mark.parametrize("report_to", [["none"], ["tracelet"], ["tensorboard", "tracelet"]], ids="+".join)
def test_it_uses_the_run_that_there_is(cap: testing.Captured, report_to: list[str]) -> None:
    with tracelet.start_logging("mine") as run:
        callback = TraceletCallback(project="other")
        ran = trainer(callbacks=[callback], report_to=report_to)
        ran.train()
        assert callback.experiment is run
        assert run.active
    assert cap.runs == [run]
    assert arrived(cap) == history(ran)


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("enough"), RunStatus.FAILED), (KeyboardInterrupt(), RunStatus.KILLED)],
    ids=["error", "interrupt"],
)
def test_a_training_that_breaks_off(alone: testing.Captured, error: BaseException, status: RunStatus) -> None:
    ran = trainer(callbacks=[TraceletCallback(), Counting(2, error)])
    with pytest.raises(type(error)):
        ran.train()
    (run,) = alone.runs
    assert run.status is status
    assert active.here() is None
    assert arrived(alone) == history(ran)


def test_another_callback_fails_at_the_end(alone: testing.Captured) -> None:
    class Failing(TrainerCallback):
        def on_train_end(self, *_: Any, **__: Any) -> None:
            raise OSError("the disk is full")

    ran = trainer(callbacks=[TraceletCallback(), Failing()])
    with pytest.raises(OSError, match="the disk is full"):
        ran.train()
    assert [run.status for run in alone.runs] == [RunStatus.FAILED]


@pytest.mark.parametrize("restored", [False, True], ids=["as it is", "with callbacks restored"])
def test_a_training_that_resumes_goes_on_in_its_run(alone: testing.Captured, restored: bool) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "restore_callback_states_from_checkpoint": restored}
    first = trainer(
        callbacks=[TraceletCallback(project="digits", backend=["mlflow"]), Counting(3, RuntimeError())], **saving
    )
    with pytest.raises(RuntimeError):
        first.train()
    kept = json.loads(Path("out/checkpoint-2/trainer_state.json").read_text())["stateful_callbacks"]
    assert kept["TraceletCallback"]["attributes"] == {"began": alone.runs[0].id}

    second = trainer(callbacks=[TraceletCallback()], **saving)
    second.train(resume_from_checkpoint=True)
    one, two = alone.runs
    assert (one.id, one.project) == (two.id, two.project)
    assert [one.status, two.status] == [RunStatus.FAILED, RunStatus.FINISHED]
    assert [point.step for point in alone.points("train/loss")] == [1, 2, 3, 3, 4]
    losses = [point.value for point in alone.points("train/loss")]
    assert losses[2] == losses[3]  # the same step again
    if not restored:  # then Transformers makes the callback as it was
        third = trainer(callbacks=[TraceletCallback(run_id="another")], **saving, max_steps=5)
        third.train(resume_from_checkpoint=True)
        assert alone.runs[-1].id == "another"


def test_a_checkpoint_of_a_trainer_without_it(alone: testing.Captured) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer(max_steps=2, **saving).train()
    ran = trainer(callbacks=[TraceletCallback()], **saving)
    ran.train(resume_from_checkpoint=True)
    (run,) = alone.runs
    kept = json.loads(Path("out/checkpoint-4/trainer_state.json").read_text())["stateful_callbacks"]
    assert kept["TraceletCallback"]["attributes"]["began"] == run.id
    assert [point.step for point in alone.points("train/loss")] == [3, 4]


def test_what_it_leaves_in_a_checkpoint_is_plain(alone: testing.Captured) -> None:
    callback = TraceletCallback(tags={"path": Path("here")}, backend=["mlflow"], name="n")  # type: ignore[dict-item]
    assert isinstance(callback, ExportableState)
    said = json.loads(json.dumps(callback.state()))
    again = TraceletCallback.from_state(said)  # type: ignore[attr-defined]
    assert again.state() == callback.state()
    assert pickle.loads(pickle.dumps(callback)).state() == callback.state()


def test_checkpoints_as_artifacts(cap: testing.Captured) -> None:
    with tracelet.start_logging():
        trainer(callbacks=[TraceletCallback(log_model=True)], save_strategy="steps", save_steps=4).train()
    assert "checkpoints/checkpoint-4/model.safetensors" in cap.artifacts


def test_two_trainers_have_runs_of_their_own(alone: testing.Captured) -> None:
    ran = [trainer(report_to=["tracelet"], max_steps=steps) for steps in (1, 2)]
    for each in ran:
        each.train()
    first, second = alone.runs
    assert first.id != second.id
    assert arrived(alone, first) == history(ran[0])
    assert arrived(alone, second) == history(ran[1])


def test_a_run_that_the_script_starts_later_is_not_stopped_by_it(alone: testing.Captured) -> None:
    ran = trainer(report_to=["tracelet"], max_steps=1)
    ran.train()
    with tracelet.start_logging("later") as later:
        ran.evaluate()
        assert later.active
    assert [point.step for point in alone.points("eval/loss", later)] == [1]


def test_where_nobody_listens(alone: testing.Captured) -> None:
    """The patches went with the last run of somebody else's: it records by itself, and ends what it begins."""
    ran = trainer(report_to=["tracelet"], max_steps=1)
    from tracelet.frameworks.transformers import TransformersFramework

    TransformersFramework.uninstall()
    ran.evaluate()
    predicted = ran.predict(rows(8))
    assert {run.status for run in alone.runs} == {RunStatus.FINISHED}
    assert active.here() is None
    assert arrived(alone) == history(ran, predicted.metrics)


def test_a_subclass_of_it(alone: testing.Captured) -> None:
    class Mine(TraceletCallback):  # type: ignore[valid-type, misc]
        def __init__(self, **_: Any) -> None:
            super().__init__(project="mine")

    ran = trainer(callbacks=[Mine], save_strategy="steps", save_steps=2)
    ran.train()
    assert alone.runs[0].project == "mine"
    assert arrived(alone) == history(ran)


def test_other_processes_begin_none(alone: testing.Captured) -> None:
    class Second(Trainer):
        def is_world_process_zero(self) -> bool:
            return False

    ran = trainer(Second, report_to=["tracelet"])
    ran.train()
    ran.evaluate()
    assert not alone.runs
