"""What a TorchTrainer logs arrives as its callbacks are told it, once, and the trainer is as it was."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from formed.integrations.torch import (
    DefaultTorchTrainingEngine,
    EarlyStoppingCallback,
    SingleDeviceDistributor,
    TorchTrainer,
    TorchTrainingCallback,
)
from torch.utils.tensorboard import SummaryWriter

import tracelet
from tests.nested.formed.training import Fails, History, Line, MeanLoss, Points, rows, sgd, train, trainer
from tests.seeds.histories import arrived
from tracelet.frameworks import once
from tracelet.testing import Captured, capture

OF_STATE = ("learning_rate", "gradient_norm", "epoch")


class Told(TorchTrainingCallback):
    """What formed's MlflowCallback reads of the state when values are logged, with formed's own methods."""

    def __init__(self) -> None:
        self.points: Points = {name: [] for name in OF_STATE}

    def on_log(self, trainer: Any, model: Any, state: Any, metrics: Any, prefix: str = "") -> None:
        for name, value in zip(OF_STATE, (state.get_learning_rate(), state.get_gradient_norm()), strict=False):
            if (point := (int(state.step), value)) not in self.points[name]:
                self.points[name].append(point)

    def on_epoch_end(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
        self.points["epoch"].append((int(state.step), float(epoch)))


def test_what_is_logged_arrives(cap: Captured) -> None:
    told = Told()
    history = train(told)
    assert [len(history[name]) for name in ("train/loss", "val/loss")] == [9, 3]
    assert arrived(cap) == {**history, **told.points}
    assert [len(told.points[name]) for name in OF_STATE] == [9, 9, 3]


def test_steps_and_prefixes_are_the_trainers(cap: Captured) -> None:
    more = {"train_prefix": "t.", "val_prefix": "", "logging_strategy": "epoch", "logging_interval": 2}
    history = train(**more, eval_strategy="step", eval_interval=4, max_epochs=4)
    assert {name: [step for step, _ in points] for name, points in history.items()} == {
        "t.loss": [1, 6, 12],
        "loss": [4, 8, 12],
    }
    assert {name: points for name, points in arrived(cap).items() if name in history} == history


def test_several_trainers_and_a_callback_that_has_none(cap: Captured) -> None:
    first, second = train(), train(max_epochs=1)
    found = arrived(cap)
    assert found["train/loss"] == first["train/loss"] + second["train/loss"]
    bare = TorchTrainer(train_dataloader=trainer()._train_dataloader, max_epochs=1)
    bare.train(Line(), rows())
    assert arrived(cap)["train/loss"] == found["train/loss"]  # without an evaluator formed logs nothing


@pytest.mark.parametrize("where", ["on_log", "on_eval_end"])
def test_what_a_summary_writer_has_written_arrives_once(where: str, cap: Captured, tmp_path: Path) -> None:
    """The very value is one point; another value under its name is the writer's own metric."""

    def write(trainer: Any, model: Any, state: Any, metrics: Any, prefix: str = "") -> None:
        if where == "on_log" or prefix == "val/":
            factor = 2 if prefix == "val/" else 1
            writer.add_scalar(f"{prefix}loss", metrics["loss"] * factor, int(state.step))

    with SummaryWriter(str(tmp_path / "logs")) as writer:
        callback = TorchTrainingCallback()
        setattr(callback, where, write)
        history = train(callback)
    found = arrived(cap)
    assert {name: found.pop(name) for name in history} == history
    (other,) = [name for name in found if "loss" in name and not name.startswith("optim/")]
    assert found[other] == [(step, value * 2) for step, value in history["val/loss"]]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_raises(error: type[BaseException], cap: Captured) -> None:
    history = History()
    made = trainer(history, Fails(4, error))
    callbacks = made._callbacks
    with pytest.raises(error):
        made.train(Line(), rows(), rows(6))
    assert made._callbacks is callbacks
    found = arrived(cap)
    assert {name: found[name] for name in history.points} == history.points
    assert [len(points) for points in history.points.values()] == [4, 1]
    made._callbacks = callbacks[:-1]
    made.train(Line(), rows(), rows(6))
    assert {name: arrived(cap)[name] for name in history.points} == history.points


def test_a_callback_that_raises_while_values_are_logged(cap: Captured) -> None:
    class Raises(TorchTrainingCallback):
        def on_log(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("no more")

    history = History()
    with pytest.raises(RuntimeError, match="no more"):
        trainer(history, Raises()).train(Line(), rows(), rows(6))
    assert arrived(cap)["train/loss"] == history.points["train/loss"]
    assert once.here() is None


def test_stopping_early(cap: Captured) -> None:
    history = train(EarlyStoppingCallback(patience=1, metric="+val/loss"), max_epochs=9)
    assert len(history["val/loss"]) == 2  # the loss falls, and is to rise
    found = arrived(cap)
    assert {name: found[name] for name in history} == history


def test_what_is_written_after_stopping_early_takes_no_place(cap: Captured, tmp_path: Path) -> None:
    """The callback that stops is the last that hears of the values; another writes one of that name at the end."""

    class Writes(TorchTrainingCallback):
        def on_training_end(self, trainer: Any, model: Any, state: Any) -> Any:
            writer.add_scalar("val/loss", -1.0, 99)
            return state

    with SummaryWriter(str(tmp_path / "logs")) as writer:
        history = train(Writes(), EarlyStoppingCallback(patience=1, metric="+val/loss"), max_epochs=9)
    found = arrived(cap)
    assert found["val/loss"] == history["val/loss"]
    assert [points for name, points in found.items() if name.startswith("val/loss~")] == [[(99, -1.0)]]


def test_callbacks_find_themselves_where_they_were(cap: Captured) -> None:
    """Also one that changes the list, and a tuple."""

    class Adds(TorchTrainingCallback):
        def on_epoch_end(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
            if epoch == 1:
                trainer._callbacks.append(added)

    added, made = History(), trainer(Adds())
    given = list(made._callbacks)
    made.train(Line(), rows(), rows(6))
    assert made._callbacks == [*given, added]
    assert arrived(cap)["train/loss"][3:] == added.points["train/loss"]
    made._callbacks = tuple(made._callbacks[:1])
    callbacks = made._callbacks
    made.train(Line(), rows(), rows(6))
    assert made._callbacks is callbacks


def test_callbacks_that_one_of_them_copies(cap: Captured) -> None:
    """As into a file, while values are logged. The copies train by themselves, and need no tracelet to be read."""

    class Copies(TorchTrainingCallback):
        def on_log(self, trainer: Any, model: Any, state: Any, metrics: Any, prefix: str = "") -> None:
            pickled.append(pickle.dumps(trainer._callbacks[:1] + trainer._callbacks[-1:]))
            copied.append(copy.deepcopy(trainer._callbacks))

    pickled: list[bytes] = []
    copied: list[Any] = []
    train(Copies(), max_epochs=1)
    assert len(pickled) == 4
    assert {type(each) for each in pickle.loads(pickled[0])} == {TorchTrainingCallback}
    assert b"tracelet" not in pickled[0]
    found = arrived(cap)
    tracelet.stop_logging()
    made = trainer()
    made._callbacks = copied[0]
    made.train(Line(), rows(), rows(6))
    assert arrived(cap) == found


def test_without_a_run_nothing_is_touched() -> None:
    class Looks(TorchTrainingCallback):
        def on_epoch_end(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
            seen.append(list(trainer._callbacks))

    seen: list[list[Any]] = []
    looks = Looks()
    for mode in (None, "disabled"):
        if mode:
            tracelet.start_logging(mode="disabled")
        made = trainer(looks)
        made.train(Line(), rows(), rows(6))
        assert seen[-1] == list(made._callbacks)
        assert "__wrapped__" not in dir(TorchTrainer.__dict__["train"])
    tracelet.stop_logging()


def test_a_run_that_begins_and_ends_while_it_trains(alone: Captured) -> None:
    """What formed logs belongs to the run that is active then; the second training finds the patches of the second run."""

    class Changes(TorchTrainingCallback):
        def on_epoch_start(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
            if epoch == 2:
                tracelet.start_logging("second")
            if epoch == 3:
                tracelet.stop_logging()

    tracelet.start_logging("first")
    history = train(Changes())
    first, second = alone.runs
    assert arrived(alone, run=first)["train/loss"] == history["train/loss"][:3]
    assert arrived(alone, run=second)["train/loss"] == history["train/loss"][3:6]


def test_values_that_are_no_floats(cap: Captured) -> None:
    class Odd(MeanLoss):
        def compute(self) -> dict[str, Any]:
            found = super().compute()
            more = {"nan": math.nan, "tensor": torch.tensor(2.0), "count": 3, "yes": True}
            return {**found, **more} if found else {}

        def clone(self) -> Odd:
            return Odd()

    made = trainer(max_epochs=1, logging_strategy="epoch", logging_first_step=False)
    made._callbacks[0]._evaluator = Odd()
    made.train(Line(), rows())
    found = arrived(cap)
    assert math.isnan(found["train/nan"][0][1])
    assert [found[f"train/{name}"] for name in ("tensor", "count", "yes")] == [[(3, 2.0)], [(3, 3.0)], [(3, 1.0)]]


def test_a_state_of_the_scripts_own(cap: Captured) -> None:
    """It has what formed's trainer needs of one, and no more: the values arrive all the same."""

    class State:
        def __init__(self, model: Any, optimizer: Any) -> None:
            self.model, self.optimizer, self.lr_scheduler, self.grad_scaler, self.step = model, optimizer, None, None, 0

    class Engine(DefaultTorchTrainingEngine):
        def create_state(self, trainer: Any, model: Any) -> Any:
            return State(model, sgd(model.parameters()))

    history = train(engine=Engine())
    found = arrived(cap)
    assert {name: found[name] for name in history} == history


def test_parameters(cap: Captured) -> None:
    engine = DefaultTorchTrainingEngine(
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01, betas=(0.5, 0.9)),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 4),
        max_grad_norm=0.5,
        gradient_accumulation_steps=2,
        dtype="bfloat16",
    )
    told = Told()
    train(told, engine=engine)
    said = cap.params
    assert {name.removeprefix("trainer/"): value for name, value in said.items() if name.startswith("trainer/")} == {
        "max_epochs": 3,
        "eval_strategy": "epoch",
        "eval_interval": 1,
        "logging_strategy": "step",
        "logging_interval": 1,
        "logging_first_step": True,
        "engine/class": "formed.integrations.torch.training.engine.DefaultTorchTrainingEngine",
        "engine/gradient_accumulation_steps": 2,
        "engine/max_grad_norm": 0.5,
        "engine/dtype": "torch.bfloat16",
        "engine/loss": "loss",
        "engine/optimizer/class": "torch.optim.adam.Adam",
        "engine/lr_scheduler/class": "torch.optim.lr_scheduler.StepLR",
        "distributor/class": "formed.integrations.torch.distributors.SingleDeviceDistributor",
        "train_dataloader/batch_size": 4,
        "val_dataloader/batch_size": 6,
    }
    assert (said["model/parameters"], said["model/trainable_parameters"]) == (3, 3)
    assert said["model/class"].endswith("training.Line")
    assert (said["optim/Adam/lr"], said["optim/Adam/betas"]) == (0.01, "(0.5, 0.9)")
    assert arrived(cap)["learning_rate"] == told.points["learning_rate"]
    assert len({rate for _, rate in told.points["learning_rate"]}) == 2


def test_the_optimizers_settings_where_nobody_else_records_them(cap: Captured) -> None:
    run = tracelet.get_active_experiment()
    assert run is not None
    run._frameworks["optimizers"].stop_tracking()
    train()
    assert (cap.params["trainer/engine/optimizer/lr"], cap.params["trainer/engine/optimizer/dimensions"]) == (0.1, 3)
    assert "optim/SGD/lr" not in cap.params


def test_ranks_other_than_the_first_record_nothing() -> None:
    class Second(SingleDeviceDistributor):
        is_main_process = False

    with capture() as cap:
        assert train(distributor=Second())
    assert arrived(cap) == {}
    assert not [name for name in cap.params if name.startswith("trainer/")]
