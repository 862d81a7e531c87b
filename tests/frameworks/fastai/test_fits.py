"""Which fits are recorded, as which Learner's, and how they may begin and end."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai.basics import Callback, CancelFitException, OptimWrapper, load_learner
from fastai.callback.schedule import LRFinder
from torch.utils.tensorboard import SummaryWriter

import tracelet
from tests.frameworks.fastai.learners import BATCHES, accuracy, fit, floats, learner, points, values
from tracelet.frameworks.fastai import FastaiFramework
from tracelet.frameworks.table import FRAMEWORKS
from tracelet.testing import Captured, capture


class At(Callback):
    """Does something before a training batch with a number."""

    run_valid = False

    def __init__(self, batch: int, do: Any) -> None:
        self.batch, self.do = batch, do

    def before_batch(self) -> None:
        if self.train_iter == self.batch:
            self.do()


def raises(error: type[BaseException]) -> Any:
    def do() -> None:
        raise error("user's")

    return do


# -- tries


def test_a_search_for_a_learning_rate_is_no_training(cap: Captured) -> None:
    writer = SummaryWriter("events")

    class Telling(Callback):
        def after_batch(self) -> None:
            writer.add_scalar("own", 1.0, self.train_iter)

    made = learner(opt_func=partial(OptimWrapper, opt=torch.optim.SGD), cbs=Telling())
    before = made.model.weight.clone()
    found = made.lr_find(num_it=20, show_plot=False)
    made.fit(1, cbs=LRFinder(num_it=6))
    assert (cap.points(), cap.params) == ([], {})
    assert 0 < found.valley < 10
    assert torch.equal(made.model.weight, before)
    made.fit(1, found.valley)
    assert [step for step, _ in points(cap, "train_loss")] == [1, 2, 3, 4]
    assert len(cap.points("own")) == BATCHES + 1
    assert points(cap, "optim/SGD/lr/0") == [(1, found.valley)]


def test_predictions_and_single_batches_are_none(cap: Captured) -> None:
    made = fit(1)
    before = len(cap.points())
    made.get_preds()
    made.summary()
    with made:
        made.one_batch(0, made.dls.one_batch())
    made.show_training_loop()
    assert len(cap.points()) == before


def test_a_validation_is_where_the_training_stands(cap: Captured) -> None:
    made = learner()
    first = made.validate()
    made.fit(1, 0.05)
    second = made.validate(dl=made.dls.valid)
    third = made.validate(ds_idx=0)
    fourth = made.validate(dl=made.dls.valid.new())
    made.fit(1, 0.05)
    fifth = made.recorder.values[0]
    for place, name in enumerate(("valid_loss", "accuracy")):
        assert points(cap, name) == [(0, first[place]), (4, second[place]), (4, second[place]), (8, fifth[1 + place])]
        assert points(cap, f"{name}/ds_0") == [(4, third[place])]
        assert points(cap, f"{name}/dl") == [(4, fourth[place])]
    assert [step for step, _ in points(cap, "train_loss")] == list(range(1, 9))


def test_a_validation_in_the_middle_of_a_fit(cap: Captured) -> None:
    """fastai forgets then how far the fit was, and that it trained; the next fit's steps go on."""
    made = learner()
    made.fit(1, 0.05, cbs=At(2, lambda: made.validate(ds_idx=0)))
    assert made.recorder.losses == []
    made.fit(1, 0.05)
    assert [step for step, _ in points(cap, "train_loss")] == [1, 2, 3, 4, 5, 6]
    assert len(cap.points("valid_loss/ds_0")) == 1


# -- ends


def test_fits_that_break_off(cap: Captured) -> None:
    made = learner()
    made.fit(3, 0.05, cbs=At(6, raises(CancelFitException)))  # no failure: fastai's own way out
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error, match="user's"):
            made.fit(3, 0.05, cbs=At(2, raises(error)))
    made.fit(1, 0.05)
    assert [step for step, _ in points(cap, "train_loss")] == list(range(1, 6 + 2 + 2 + 4 + 1))
    assert points(cap, "epoch") == [(4, 0.0), (14, 0.0)]
    assert values(cap, "train_loss")[-BATCHES:] == floats(made.recorder.losses)


def test_a_fit_that_goes_on(cap: Captured) -> None:
    fit(2).save("here")
    with capture() as later:  # another process, say
        made = learner()
        made.load("here")
        made.fit(4, 0.05, start_epoch=2)
        made.fit(4, 0.05, start_epoch=3)  # and once more here
    assert [step for step, _ in points(later, "train_loss")] == [*range(9, 17), *range(17, 21)]
    assert points(later, "epoch") == [(12, 2.0), (16, 3.0), (20, 3.0)]
    assert later.params["fit/start_epoch"] == 2


# -- several


def test_two_learners_are_two(cap: Captured) -> None:
    one, other = learner(), learner()
    other.lr_find(num_it=6, show_plot=False)  # records nothing, and so does not count
    one.fit(1, 0.05)
    other.fit(1, 0.1)
    one.fit(1, 0.05)
    assert [step for step, _ in points(cap, "train_loss")] == list(range(1, 9))
    assert values(cap, "learner_2/train_loss") == floats(other.recorder.losses)
    assert [step for step, _ in points(cap, "learner_2/valid_loss")] == [4]
    assert values(cap, "learner_2/lr_0") == [0.1] * BATCHES
    assert cap.params["learner_2/fit/lr"] == 0.1
    assert (cap.params["fit/lr"], cap.params["fit_2/lr"]) == (0.05, 0.05)
    assert cap.params["learner_2/batch_size"] == 16


def test_runs_have_their_own(cap: Captured) -> None:
    made = learner()
    with tracelet.start_logging("one"):
        made.fit(1, 0.05)
        with tracelet.start_logging("within", nested=True):
            made.fit(1, 0.05)
    made.fit(1, 0.05)  # no run
    one, within = cap.runs
    for run in (one, within):
        assert [point.step for point in cap.points("train_loss", run)] == [1, 2, 3, 4]
    assert len(cap.points("train_loss")) == 2 * BATCHES


# -- begins, and where nothing is recorded


def test_a_run_that_a_callback_starts_and_stops(cap: Captured) -> None:
    made = learner()
    made.fit(2, 0.05, cbs=[At(2, tracelet.start_logging), At(6, tracelet.stop_logging)])
    (run,) = cap.runs
    assert [point.step for point in cap.points("train_loss", run)] == [3, 4, 5, 6]
    assert [point.step for point in cap.points("valid_loss", run)] == [4]
    # The one of capture() was replaced by that.
    assert [point.step for point in cap.points("train_loss")] == [1, 2, 3, 4, 5, 6]


def test_no_run_no_patch() -> None:
    from fastai.learner import Recorder

    bare = Recorder.__dict__["after_batch"]
    fit(1)
    with capture() as captured:
        assert Recorder.__dict__["after_batch"] is not bare
        run: Any = tracelet.get_active_experiment()
        run._frameworks["fastai"].stop_tracking()
        fit(1)
        run._frameworks["fastai"].start_tracking()
        fit(1)
    assert Recorder.__dict__["after_batch"] is bare
    assert len(captured.points("train_loss")) == BATCHES
    with capture() as captured, tracelet.start_logging(mode="disabled"):
        fit(1)
    assert captured.points() == []


def test_other_ranks_record_nothing(cap: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a notebook are forked while the run is under way: the environment says which this is, to fastai too."""
    made = learner()
    monkeypatch.setenv("RANK", "1")
    made.fit(1, 0.05)
    assert (cap.points(), cap.params) == ([], {})
    monkeypatch.setenv("RANK", "0")
    made.fit(1, 0.05)
    assert len(cap.points("train_loss")) == BATCHES


def test_a_learner_is_exported_under_a_run(cap: Captured) -> None:
    made = fit(1)
    made.export("learner.pkl")
    with pytest.warns(UserWarning, match="insecure pickle"):
        loaded = load_learner(Path("learner.pkl"))
    assert torch.equal(loaded.model.weight, made.model.weight)
    assert os.path.getsize("learner.pkl") < 100_000


def test_an_error_of_ours_stays_ours(cap: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")

    class Odd:
        """No metric, but fastai needs no more of it."""

        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError(name)

    made = learner()
    monkeypatch.setattr(FastaiFramework, "learning", Odd().__getattr__)
    made.fit(1, 0.05)
    assert len(made.recorder.losses) == BATCHES
    assert "train_loss" not in cap.names


# -- parameters


def test_parameters(cap: Captured) -> None:
    made = learner(
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW), loss_func=torch.nn.CrossEntropyLoss(), wd=0.1, lr=0.01
    )
    made.fit_one_cycle(1, slice(0.001, 0.01))
    made.fit(1)
    learners = {name: value for name, value in cap.params.items() if name.startswith("learner/")}
    assert learners == {
        "learner/model": "torch.nn.modules.linear.Linear",
        "learner/loss_func": "torch.nn.modules.loss.CrossEntropyLoss",
        "learner/opt_func": "fastai.optimizer.OptimWrapper(opt=torch.optim.adamw.AdamW)",
        "learner/lr": 0.01,
        "learner/wd": 0.1,
        "learner/moms": "0.95, 0.85, 0.95",
        "learner/train_bn": True,
        "learner/wd_bn_bias": False,
        "learner/metrics": accuracy.__name__,
        "learner/callbacks": "TrainEvalCallback, Recorder, CastToTensor, ParamScheduler",
        "learner/parameters": 18,
        "learner/frozen_idx": 0,
        "learner/batch_size": 16,
        "learner/device": "cpu",
        "learner/batches": BATCHES,
    }
    assert cap.params["fit_one_cycle/lr_max"] == "slice(0.001, 0.01, None)"
    assert (cap.params["fit_one_cycle/n_epoch"], cap.params["fit_one_cycle/pct_start"]) == (1, 0.25)
    assert cap.params["fit/n_epoch"] == 1  # what fit_one_cycle calls is not told again
    assert "fit_2/n_epoch" not in cap.params
    for _ in range(20):
        made.fit(0)
    assert {"fit_20/n_epoch", "fit_21/n_epoch"} & cap.params.keys() == {"fit_20/n_epoch"}


def test_a_wrong_call_raises_what_fastai_raises(cap: Captured) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        learner().fit(epochs=1)


def test_it_is_in_the_table() -> None:
    module, name = FRAMEWORKS["fastai"]
    assert (module, name) == (FastaiFramework.__module__, FastaiFramework.__name__)
