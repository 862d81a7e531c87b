"""fastai's own loggers beside tracelet: each value once, and each logger has what it has without."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from fastai.basics import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.callback.wandb import WandbCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.frameworks.fastai.learners import BATCHES, fit, floats, learner, points, values
from tests.support.processes import until
from tests.support.wandb_file import history, records
from tracelet.testing import Captured, capture


@pytest.fixture
def _wandb_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wandb.teardown()  # it keeps the settings that another test began it with
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.init(project="p", settings=wandb.Settings(x_disable_stats=True, console="off"))
    with monkeypatch.context() as patches:
        # What it gathers fails with today's fastcore, for any argument that has no __dict__.
        patches.setattr("fastai.learner.Learner.gather_args", lambda _: {})
        yield
    wandb.teardown()


def written(folder: str) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(folder).Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def of_wandb() -> list[dict[str, Any]]:
    """The rows of the run, which ends."""
    wandb.finish()
    (file,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    until(lambda: any(record.HasField("exit") for record in records(file)), 20, "the end of W&B's run")
    return history(file)


def tensorboard() -> Any:
    return TensorBoardCallback("events", trace_model=False, log_preds=False)


@pytest.mark.usefixtures("_wandb_offline")
def test_all_of_them_together(cap: Captured) -> None:
    made = learner(cbs=[tensorboard(), WandbCallback(log_preds=False), CSVLogger()])
    made.fit(1, 0.05)
    losses = floats(made.recorder.losses)
    made.fit(1, 0.1)
    losses += floats(made.recorder.losses)
    steps = list(range(1, 2 * BATCHES + 1))
    assert points(cap, "train_loss") == list(zip(steps, losses, strict=True))
    assert points(cap, "lr_0") == list(zip(steps, [0.05] * BATCHES + [0.1] * BATCHES, strict=True))
    assert [step for step, _ in points(cap, "valid_loss")] == [4, 8]
    assert [name for name in cap.names if "~" in name] == []
    # The file has its numbers; steps begin anew there, and those of validation batches are the last loss again.
    assert [step for step, _ in written("events")["train_loss"]] == [1, 2, 3, 4, 4, 1, 2, 3, 4, 4]
    rows = of_wandb()
    assert [row["train_loss"] for row in rows if "train_loss" in row] == losses
    assert [row["raw_loss"] for row in rows if "raw_loss" in row] == values(cap, "raw_loss")
    assert [row["valid_loss"] for row in rows if "valid_loss" in row] == values(cap, "valid_loss")
    with open("history.csv", newline="") as file:
        (last,) = csv.DictReader(file)
    assert float(last["valid_loss"]) == values(cap, "valid_loss")[-1]
    assert float(last["accuracy"]) == values(cap, "accuracy")[-1]


def test_what_a_tensorboard_callback_writes_besides(cap: Captured) -> None:
    class More(Callback):
        order = TensorBoardCallback.order + 1

        def after_epoch(self) -> None:
            writer = self.tensor_board.writer
            writer.add_scalar("own", 1.0, self.epoch)
            writer.add_scalar("valid_loss", 2.0, self.epoch)  # somebody else's, under the same name

    made = learner(cbs=[tensorboard(), More()])
    made.fit(2, 0.05)
    assert points(cap, "own") == [(0, 1.0), (1, 1.0)]
    assert values(cap, "valid_loss") == [each[1] for each in made.recorder.values]
    (other,) = [name for name in cap.names if name.startswith("valid_loss~")]
    assert points(cap, other) == [(0, 2.0), (1, 2.0)]


def test_a_tensorboard_callback_alone() -> None:
    """Where fastai is not listened to, it is a SummaryWriter as any."""
    import tracelet

    with capture() as captured:
        run: Any = tracelet.get_active_experiment()
        run._frameworks["fastai"].stop_tracking()
        fit(1, cbs=tensorboard())
    assert [step for step, _ in points(captured, "train_loss")] == [1, 2, 3, 4, 4]
    assert len(captured.points("valid_loss")) == 1
    assert "raw_loss" not in captured.names
