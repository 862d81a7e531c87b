"""Population optimizers in fastai's loop."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from fastai.basics import Callback, OptimWrapper
from fastai.callback.training import GradientAccumulation
from torch import nn

from tests.frameworks.fastai.learners import BATCHES, fit, floats, learner, points, values
from tracelet.errors import ConfigurationError
from tracelet.frameworks import fastai
from tracelet.frameworks.fastai import PopulationCallback, population
from tracelet.optim import BFO, CMAES, HybridBFO, ParticleSwarm
from tracelet.testing import Captured

SETTINGS: dict[Any, dict[str, Any]] = {
    HybridBFO: {"population_size": 4, "chem_steps": 2, "seed": 0},
    BFO: {"population_size": 6, "chem_steps": 2, "swim_length": 0, "seed": 0},
    CMAES: {"population_size": 6, "seed": 0},
    ParticleSwarm: {"swarm_size": 6, "seed": 0},
}


def searching(kind: Any = HybridBFO, *callbacks: Any, **settings: Any) -> Any:
    """A Learner with a population optimizer."""
    return learner(opt_func=population(kind, **{**SETTINGS[kind], **settings}), cbs=[PopulationCallback(), *callbacks])


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_they_learn(kind: Any, cap: Captured) -> None:
    made = searching(kind)
    before = made.validate()[0]
    made.fit(2)
    assert values(cap, "train_loss") == floats(made.recorder.losses)
    assert made.validate()[0] < before
    name = f"optim/{kind.__name__}"
    found = points(cap, f"{name}/best_fitness")
    assert [step for step, _ in found] == list(range(1, 2 * BATCHES + 1))
    lr = made.opt.opt.defaults["lr"]
    assert values(cap, "lr_0") == [lr] * 2 * BATCHES
    assert made.opt.opt._objective is None


class Judging(Callback):
    """What the model's loss is on the batches that were just judged, right after the step."""

    run_valid = False

    def __init__(self) -> None:
        self.batches, self.told = [], []

    def before_backward(self) -> None:
        self.batches.append((self.xb[0], self.yb[0]))

    def after_step(self) -> None:
        inputs, targets = (torch.cat(each) for each in zip(*self.batches, strict=True))
        with torch.no_grad():
            self.told.append(nn.functional.cross_entropy(self.model(inputs), targets).item())
        self.batches = []


def test_it_judges_by_the_batch(cap: Captured) -> None:
    judging = Judging()
    searching(BFO, judging).fit(1)
    assert values(cap, "optim/BFO/best_fitness") == pytest.approx(judging.told, rel=1e-6)
    assert len(judging.told) == BATCHES


def test_it_judges_by_all_that_is_accumulated(cap: Captured) -> None:
    judging = Judging()
    made = searching(HybridBFO, judging, GradientAccumulation(32))
    made.fit(2)
    assert values(cap, "optim/HybridBFO/best_fitness") == pytest.approx(judging.told, rel=1e-5)
    assert len(judging.told) == 2 * BATCHES / 2
    assert len(cap.points("train_loss")) == 2 * BATCHES


def test_schedules(cap: Captured) -> None:
    """fit_one_cycle speaks of a momentum, which a swarm has not."""
    made = searching(ParticleSwarm)
    made.fit_one_cycle(1, 0.5)
    assert values(cap, "lr_0") == made.recorder.lrs
    assert made.opt.opt.param_groups[0]["lr"] == made.recorder.lrs[-1] < 0.5
    assert len(made.recorder.hps["mom"]) == BATCHES
    assert "mom" not in made.opt.opt.param_groups[0]


def test_a_search_goes_on_from_a_file() -> None:
    made = searching()
    made.fit(1)
    made.save("search")
    again = searching()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # fastai only warns when it cannot load an optimizer
        again.load("search")
    for each in (made, again):
        each.fit(1)
    assert torch.equal(made.model.weight, again.model.weight)
    assert made.opt.opt.best_fitness == again.opt.opt.best_fitness


def test_unfreezing_begins_a_new_search(cap: Captured) -> None:
    def splitter(model: Any) -> Any:
        return [list(each.parameters()) for each in model]

    def moves(do: Any) -> list[bool]:
        before = [parameter.clone() for parameter in made.model.parameters()]
        do()
        return [not torch.equal(one, other) for one, other in zip(before, made.model.parameters(), strict=True)]

    made = learner(
        nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)),
        splitter=splitter,
        opt_func=population(HybridBFO, **SETTINGS[HybridBFO]),
        cbs=PopulationCallback(),
    )
    made.freeze()
    assert moves(lambda: made.fit(1, slice(0.01, 0.05))) == [False, False, True, True]
    made.unfreeze()
    assert moves(lambda: made.fit(1)) == [True] * 4
    assert moves(lambda: made.fine_tune(1)) == [True] * 4
    searches = {name.split("/")[1] for name in cap.names if name.startswith("optim/")}
    assert len(searches) == 4


def test_mixed_precision() -> None:
    seen = []

    class Autocast(Callback):
        name = "mixed_precision"
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)

    class Linear(nn.Linear):
        def forward(self, x: Any) -> Any:
            result = super().forward(x)
            seen.append(result.dtype)
            return result

    made = learner(Linear(8, 2), opt_func=population(BFO, **SETTINGS[BFO]), cbs=[PopulationCallback(), Autocast()])
    made.fit(1)
    # fastai's own passes, which nothing puts under autocast here, and those of the bacteria.
    assert seen.count(torch.float32) == BATCHES + 1
    assert seen.count(torch.bfloat16) > 6 * BATCHES


def test_a_loss_of_ones_own() -> None:
    class Doubled(PopulationCallback):  # type: ignore[misc, valid-type]
        def loss(self, inputs: Any, targets: Any) -> Any:
            return 2 * super().loss(inputs, targets)

    judging = Judging()
    made = learner(opt_func=population(BFO, **SETTINGS[BFO]), cbs=[Doubled(), judging])
    made.fit(1)
    assert made.opt.opt.best_fitness == pytest.approx(2 * judging.told[-1])


def test_an_optimizer_that_is_already_there() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 2)
    search = HybridBFO(model.parameters(), **SETTINGS[HybridBFO])
    made = learner(model, opt_func=OptimWrapper(opt=search), cbs=PopulationCallback())
    made.fit(1, 0.01)
    assert made.opt.opt is search
    assert search.evaluations > 0


@pytest.mark.parametrize("opt_func", [None, partial(OptimWrapper, opt=torch.optim.SGD)], ids=["fastai's", "torch's"])
def test_an_optimizer_that_is_none(opt_func: Any) -> None:
    settings = {} if opt_func is None else {"opt_func": opt_func}
    with pytest.raises(ConfigurationError, match=r"takes no objective; give the Learner opt_func=population\("):
        fit(1, cbs=PopulationCallback(), **settings)


def test_a_class_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match=r"takes a class of tracelet\.optim, not .*SGD"):
        population(torch.optim.SGD)


def test_without_it_the_optimizer_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="set_objective"):
        fit(1, opt_func=population(BFO, **SETTINGS[BFO]))


def test_the_module_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PopulationCallbak'"):
        _ = fastai.PopulationCallbak
