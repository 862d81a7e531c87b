"""The pure update functions under torch.compile: the same way, and no break in their graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.landscapes import rastrigin
from tracelet import optim


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("BFO", {"use_swarming": True, "population_size": 6}),
        ("AdaptiveBFO", {"population_size": 10}),
        ("CMAES", {"population_size": 6}),
        ("DifferentialEvolution", {"population_size": 6}),
        ("ParticleSwarm", {"swarm_size": 6}),
    ],
)
def test_compiled_updates_take_the_same_way(name: str, settings: dict[str, Any]) -> None:
    torch._dynamo.reset()
    found = []
    for compiled in ({}, {"compile_mode": "default", "compile_kwargs": {"backend": "eager", "fullgraph": True}}):
        optimizer = getattr(optim, name)(
            [torch.full((4,), 1.5)], bounds=(-5.12, 5.12), seed=2, decisions="device", **settings, **compiled
        )
        for _ in range(3):
            optimizer.step(rastrigin)
        found.append(optimizer.population)
    torch.testing.assert_close(*found)
