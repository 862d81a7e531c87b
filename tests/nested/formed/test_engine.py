"""Population optimizers in a TorchTrainer, by the engine `tracelet_population`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formed.integrations.torch import DefaultTorchTrainingEngine, TorchTrainingEngine
from formed.workflow.colt import COLT_BUILDER

from tests.nested.formed.training import Batch, History, Line, Output, collate, rows, sgd, train, trainer
from tests.seeds.histories import arrived
from tracelet.optim import AdaptiveBFO, HybridBFO
from tracelet.optim.formed import PopulationEngine
from tracelet.testing import Captured


def engine(kind: str, optimizer: dict[str, Any] | None = None, **more: Any) -> Any:
    """As a configuration names it."""
    search = {"type": f"tracelet.optim:{kind}", "population_size": 10, "seed": 3, **(optimizer or {})}
    return COLT_BUILDER({"type": "tracelet_population", "optimizer": search, **more}, TorchTrainingEngine)


def loss_of(model: Line, *batches: Batch) -> float:
    with torch.no_grad():
        return sum(model(batch).loss.item() for batch in batches) / len(batches)


@pytest.mark.parametrize("kind", ["BFO", "AdaptiveBFO", "HybridBFO", "CMAES", "DifferentialEvolution", "ParticleSwarm"])
def test_what_a_step_leaves_is_what_is_logged(kind: str, cap: Captured) -> None:
    history, made = History(), engine(kind, loss="loss")
    assert type(made) is PopulationEngine
    torch.manual_seed(0)
    model, data = Line(), collate(rows())
    before = loss_of(model, data)
    state = trainer(history, engine=made, max_epochs=4).train(model, rows(), rows(6))
    assert loss_of(model, data) < before * 0.75
    losses = [loss for _, loss in history.points["train/loss"]]
    assert losses[-1] == pytest.approx(state.optimizer.best_fitness, rel=1e-6)
    found = arrived(cap)
    assert {name: found[name] for name in history.points} == history.points
    assert ("gradient_norm" in found) == (kind == "HybridBFO")
    assert [step for step, _ in arrived(cap, "optim/")[f"optim/{kind}/best_fitness"]] == list(range(1, 13))
    assert cap.params[f"optim/{kind}/population_size"] == 10
    assert cap.params["trainer/engine/class"] == "tracelet.optim.formed.PopulationEngine"


@pytest.mark.parametrize("kind", [AdaptiveBFO, HybridBFO])
def test_accumulating_is_judging_by_the_mean(kind: type) -> None:
    made = PopulationEngine(
        lambda parameters: kind(parameters, population_size=8, seed=3), gradient_accumulation_steps=3
    )
    torch.manual_seed(0)
    model = Line()
    state = made.create_state(trainer(), model)
    batches = [collate(rows(count)) for count in (3, 4, 5)]
    before = loss_of(model, *batches)
    outputs: list[Output] = []
    for batch in batches:
        assert state.optimizer.evaluations == 0
        outputs.append(made.train_step(batch, state, trainer()))
    assert state.step == 3
    assert state.optimizer.best_fitness == pytest.approx(loss_of(model, *batches), rel=1e-6)
    assert loss_of(model, *batches) < before
    assert outputs[-1].loss.item() == pytest.approx(loss_of(model, batches[-1]), rel=1e-6)
    judged = state.optimizer.evaluations
    made.train_step(batches[0], state, trainer())
    assert state.optimizer.evaluations == judged


def test_clipping_is_of_the_gradients_that_there_are() -> None:
    norms = {}
    for limit in (None, 0.01):
        made = engine("HybridBFO", {"chem_steps": 1}, max_grad_norm=limit)
        torch.manual_seed(0)
        state = made.create_state(trainer(), Line())
        made.train_step(collate(rows()), state, trainer())
        norms[limit] = state.get_gradient_norm()
    assert norms[None] > 0.1
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)


def test_a_schedule_and_a_budget() -> None:
    schedule = {"type": "torch.optim.lr_scheduler:StepLR", "step_size": 1, "gamma": 0.5}
    made = engine("AdaptiveBFO", {"max_evaluations": 20}, lr_scheduler=schedule, dtype="bfloat16")
    history = History()
    state = trainer(history, engine=made, max_epochs=2).train(Line(), rows(), rows(6))
    assert state.optimizer.param_groups[0]["lr"] == 0.5**6
    assert state.optimizer.evaluations <= 20
    assert len(history.points["train/loss"]) == 6  # a search that is over goes on being evaluated


def test_with_another_optimizer_it_is_the_default_engine() -> None:
    kinds = (PopulationEngine, DefaultTorchTrainingEngine)
    one, other = (train(engine=kind(sgd, max_grad_norm=1.0, gradient_accumulation_steps=2)) for kind in kinds)
    assert one == other


def test_what_it_does_not_take() -> None:
    with pytest.raises(ValueError, match="grad_scaler"):
        train(engine=PopulationEngine(grad_scaler=torch.amp.GradScaler("cpu")))
    with pytest.raises(ValueError, match="no loss in what the model returns, a Output"):
        train(engine=engine("AdaptiveBFO", loss="cost"))
    none = PopulationEngine(lambda parameters: AdaptiveBFO(parameters, population_size=8), loss=lambda output: None)
    with pytest.raises(ValueError, match="None"):
        train(engine=none)
