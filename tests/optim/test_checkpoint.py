"""A model and its search in one file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from tracelet.optim import BFO, AdaptiveBFO, PopulationObjective, load, save


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def test_serving_reads_the_model_and_what_it_is_told_of_it(tmp_path: Path) -> None:
    model = network(0)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    optimizer = AdaptiveBFO(model.parameters(), population_size=10, seed=0)
    objective = PopulationObjective(model, nn.functional.mse_loss)(x, y)
    for _ in range(5):
        optimizer.step(objective)
    save(model, optimizer, tmp_path / "model.pt")
    served = network(1)
    config = load(tmp_path / "model.pt", served)
    assert torch.equal(served(x), model(x))
    assert json.loads(json.dumps({"model_fitness": config["best_fitness"]}))["model_fitness"] == optimizer.best_fitness
    assert config["optimizer"] == "AdaptiveBFO"
    assert config["population_size"] == len(optimizer.population)
    assert torch.equal(config["best_params"], optimizer.best_params)
    further = network(2)
    other = AdaptiveBFO(further.parameters(), population_size=10)
    load(tmp_path / "model.pt", further, other, map_location="cpu")
    for _ in range(3):
        optimizer.step(objective)
        other.step(PopulationObjective(further, nn.functional.mse_loss)(x, y))
    # The other objective is another object: its positions are judged anew, which changes nothing but the count.
    torch.testing.assert_close(other.population, optimizer.population)


def test_a_file_written_by_hand_is_read_with_torchs_defaults(tmp_path: Path) -> None:
    """The helpers that documents of BFO write themselves."""
    model = network(0)
    optimizer = BFO(model.parameters(), population_size=6, seed=0)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    optimizer.step(lambda: nn.functional.mse_loss(model(x), y).item())
    torch.save(
        {
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "optimizer_config": {
                "population_size": optimizer.defaults["population_size"],
                "best_fitness": optimizer.best_fitness,
                "best_params": optimizer.best_params,
            },
        },
        tmp_path / "model.pth",
    )
    checkpoint = torch.load(tmp_path / "model.pth")
    model = network(1)
    model.load_state_dict(checkpoint["model_state_dict"])
    assert checkpoint["optimizer_config"]["best_fitness"] == optimizer.best_fitness
