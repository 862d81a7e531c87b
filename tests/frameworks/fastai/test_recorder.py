"""What a Recorder has arrives, number for number, and nothing else is changed."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from fastai.basics import Callback, CancelTrainException, Learner, OptimWrapper, Recorder, ValueMetric
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import ParamScheduler, SchedLin
from fastai.callback.training import GradientAccumulation, ShortEpochCallback
from torch import nn

import tracelet
from tests.frameworks.fastai.learners import BATCHES, accuracy, fit, floats, learner, points, values
from tracelet.testing import Captured, capture


class Losses(Callback):
    """The loss of each training batch, as any callback sees it."""

    run_valid = False

    def __init__(self) -> None:
        self.batch_losses: list[float] = []

    def after_batch(self) -> None:
        self.batch_losses.append(self.learn.loss.item())


def in_the_table(made: Any, epoch: int) -> dict[str, float]:
    """A line of what fastai prints, by its names."""
    names = list(made.recorder.metric_names)[1:]
    return dict(zip(names, made.recorder.values[epoch], strict=False))


def test_a_fit(cap: Captured) -> None:
    losses = Losses()
    made = fit(3, cbs=losses)
    steps = list(range(1, 3 * BATCHES + 1))
    assert points(cap, "train_loss") == list(zip(steps, floats(made.recorder.losses), strict=True))
    assert points(cap, "raw_loss") == list(zip(steps, losses.batch_losses, strict=True))
    assert points(cap, "lr_0") == list(zip(steps, made.recorder.lrs, strict=True))
    for name in ("valid_loss", "accuracy"):
        assert points(cap, name) == [(BATCHES * (epoch + 1), in_the_table(made, epoch)[name]) for epoch in range(3)]
    for epoch in range(3):  # the smoothed loss of an epoch is that of its last batch
        assert dict(points(cap, "train_loss"))[BATCHES * (epoch + 1)] == in_the_table(made, epoch)["train_loss"]
    assert points(cap, "epoch") == [(BATCHES, 0.0), (2 * BATCHES, 1.0), (3 * BATCHES, 2.0)]
    # What does not change is said once.
    assert {name: points(cap, name) for name in ("wd_0", "mom_0", "sqr_mom_0", "eps_0")} == {
        "wd_0": [(1, 0.01)],
        "mom_0": [(1, 0.9)],
        "sqr_mom_0": [(1, 0.99)],
        "eps_0": [(1, 1e-5)],
    }
    every = {"train_loss", "raw_loss", "lr_0", "valid_loss", "accuracy", "epoch", "wd_0", "mom_0", "sqr_mom_0", "eps_0"}
    assert set(cap.names) == every


def test_training_is_the_same_as_without_a_run() -> None:
    alone = fit()
    with capture():
        heard = fit()
    assert torch.equal(alone.model.weight, heard.model.weight)
    assert alone.recorder.values == heard.recorder.values
    assert [type(each) for each in alone.cbs] == [type(each) for each in heard.cbs]
    assert vars(alone).keys() == vars(heard).keys()
    assert vars(alone.recorder).keys() == vars(heard.recorder).keys()


def test_steps_go_on_over_fits_and_schedules_arrive(cap: Captured) -> None:
    made = learner()
    made.fit_one_cycle(2, 0.05)
    first = floats(made.recorder.hps["mom"]), list(made.recorder.lrs)
    made.fine_tune(1)
    second = list(made.recorder.lrs)
    assert [step for step, _ in points(cap, "train_loss")] == list(range(1, 4 * BATCHES + 1))
    assert values(cap, "lr_0")[: 2 * BATCHES] == first[1]
    assert values(cap, "lr_0")[-BATCHES:] == second
    moments, known = [], dict(points(cap, "mom_0"))
    for step in range(1, 2 * BATCHES + 1):
        moments.append(known.get(step, moments[-1] if moments else None))
    assert moments == first[0]
    assert points(cap, "epoch") == [(4, 0.0), (8, 1.0), (12, 0.0), (16, 0.0)]


def test_groups_have_numbers(cap: Captured) -> None:
    def splitter(model: Any) -> Any:
        return [list(each.parameters()) for each in model]

    made = learner(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), splitter=splitter)
    made.fit(1, slice(0.01, 0.1))
    assert values(cap, "lr_1") == made.recorder.lrs == [0.1] * BATCHES
    assert values(cap, "lr_0") == [0.01] * BATCHES


def test_an_optimizer_of_torch(cap: Captured) -> None:
    """Its own metrics are beside those of the Recorder."""
    made = fit(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
    assert values(cap, "train_loss") == floats(made.recorder.losses)
    assert points(cap, "mom_0") == [(1, 0.9)]
    assert points(cap, "optim/AdamW/lr/0") == [(1, 0.05)]
    assert values(cap, "optim/AdamW/loss") == values(cap, "raw_loss")[:1]
    assert not [name for name in cap.names if name.startswith("amsgrad")]  # a flag is no number


def test_metrics_that_are_no_numbers(cap: Captured) -> None:
    answers: dict[str, Any] = {
        "none": None,
        "text": "good",
        "many": torch.zeros(3),
        "nan": math.nan,
        "numpy": numpy.float32(0.5),
        "array": numpy.array([0.25]),
        "tensor": torch.tensor([2.0]),
        "flag": True,
        "lists": [1, 2],
        "parts": {"a": 1.5, "b": "text"},
    }
    asked: list[str] = []

    def metric(name: str) -> Any:
        return ValueMetric(lambda: asked.append(name) or answers[name], name)

    fit(1, metrics=[metric(name) for name in answers])
    found = {name: values(cap, name) for name in [*answers, "parts/a", "parts/b"] if name in cap.names}
    assert math.isnan(found.pop("nan")[0])
    assert found == {"numpy": [0.5], "array": [0.25], "tensor": [2.0], "flag": [1.0], "parts/a": [1.5]}
    assert asked.count("numpy") <= 2  # _maybe_item asks again where an item() fails; nobody else does
    assert asked.count("tensor") == 1


def test_two_metrics_of_one_function(cap: Captured) -> None:
    def share(output: torch.Tensor, target: torch.Tensor, factor: float) -> torch.Tensor:
        return accuracy(output, target) * factor

    made = fit(1, metrics=[partial(share, factor=1.0), partial(share, factor=0.5)])
    _, _, one, half = made.recorder.values[0]
    assert (values(cap, "share"), values(cap, "share_2")) == ([one], [half])


@pytest.mark.parametrize("valid", [True, False])
def test_metrics_of_training(valid: bool, cap: Captured) -> None:
    made = learner()
    made.remove_cb(Recorder)
    made.add_cb(Recorder(train_metrics=True, valid_metrics=valid, add_time=valid))
    made.fit(1, 0.05)
    line = in_the_table(made, 0)
    assert list(line) == (
        ["train_loss", "train_accuracy", "valid_loss", "valid_accuracy"] if valid else ["train_loss", "accuracy"]
    )
    assert values(cap, "train_loss")[-1:] == [line["train_loss"]]
    assert {name: values(cap, name) for name in list(line)[1:]} == {name: [line[name]] for name in list(line)[1:]}
    assert len(cap.points("train_loss")) == BATCHES


def updates() -> dict[str, int]:
    """Steps of torch's optimizers in the run."""
    run: Any = tracelet.get_active_experiment()
    counts: dict[str, int] = run._frameworks["optimizers"].updates
    return counts


class NoTraining(Callback):
    def before_train(self) -> None:
        raise CancelTrainException


def test_an_epoch_without_training_or_validation(cap: Captured) -> None:
    """fastai's line has no first number then, and its table puts the others under wrong names."""
    made = fit(1, cbs=NoTraining())
    loss, share = made.recorder.values[0]
    assert {name: points(cap, name) for name in cap.names} == {
        "valid_loss": [(0, loss)],
        "accuracy": [(0, share)],
        "epoch": [(0, 0.0)],
    }
    with capture() as other:
        made = fit(2, cbs=ShortEpochCallback(pct=0.5))
    # The callback leaves the third batch before the Recorder has seen it.
    assert points(other, "train_loss") == list(zip([1, 2, 4, 5], floats(made.recorder.losses), strict=True))
    assert points(other, "epoch") == [(3, 0.0), (6, 1.0)]
    assert values(other, "valid_loss") == [line[0] for line in made.recorder.values]


def test_accumulated_gradients_and_autocast(cap: Captured) -> None:
    losses = Losses()
    made = fit(1, cbs=[losses, GradientAccumulation(32)], opt_func=partial(OptimWrapper, opt=torch.optim.SGD))
    assert values(cap, "train_loss") == floats(made.recorder.losses)
    assert values(cap, "raw_loss") == losses.batch_losses
    assert updates() == {"SGD": 2}


class OnTheCPU(MixedPrecision):
    """MixedPrecision names CUDA, and does nothing without it."""

    name = "mixed_precision"

    def before_fit(self) -> None:
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        self.learn.scaler, self.scales = torch.amp.GradScaler("cpu", init_scale=2.0**127), []


def test_a_scaler_that_fastai_asks_with_a_stand_in(cap: Captured) -> None:
    made = fit(
        1,
        cbs=OnTheCPU(),
        loss_func=lambda output, target: 8 * nn.functional.cross_entropy(output, target),
        opt_func=partial(OptimWrapper, opt=torch.optim.SGD),
    )
    assert values(cap, "train_loss") == floats(made.recorder.losses)
    assert 0 < updates()["SGD"] < len(made.recorder.losses)
    assert {name.split("/")[1] for name in cap.names if name.startswith("optim/")} == {"SGD"}
    assert values(cap, "optim/SGD/loss")[0] in values(cap, "raw_loss")


def test_a_learner_of_ones_own(cap: Captured) -> None:
    """Its fit calls fastai's, and its Recorder has the numbers of the one below."""

    class Own(Learner):
        def fit(self, *args: Any, **kwargs: Any) -> None:
            super().fit(*args, **kwargs)

    class Slow(Recorder):
        def after_batch(self) -> None:
            super().after_batch()

    made = learner(kind=Own)
    made.remove_cb(Recorder)
    made.add_cb(Slow())
    made.recorder = made.slow  # where ParamScheduler looks for it
    made.fit(1, cbs=ParamScheduler({"lr": SchedLin(0.1, 0.2)}))
    assert values(cap, "train_loss") == floats(made.slow.losses)
    assert values(cap, "lr_0") == made.slow.lrs
    assert cap.params["learner/model"] == "torch.nn.modules.linear.Linear"
