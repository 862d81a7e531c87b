"""On a CUDA device: a step reads nothing on the host, and a checkpoint moves between devices."""

from __future__ import annotations

import pytest
import torch

from tests.support.landscapes import rastrigin
from tracelet import optim

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", ["BFO", "AdaptiveBFO", "HybridBFO", "CMAES", "DifferentialEvolution", "ParticleSwarm"])
def test_a_step_does_not_wait_for_the_device(name: str) -> None:
    optimizer = getattr(optim, name)([torch.ones(8, device="cuda")], population_size=16, bounds=(-5.12, 5.12), seed=0)
    optimizer.step(rastrigin)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            optimizer.step(rastrigin)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert optimizer.population.is_cuda
    assert optimizer.best_fitness < 8 * 1.0 + 1e-3


@pytest.mark.parametrize("name", ["BFO", "AdaptiveBFO", "HybridBFO", "CMAES"])
def test_a_checkpoint_moves_between_devices(name: str) -> None:
    one = getattr(optim, name)([torch.ones(8, device="cuda")], population_size=16, seed=0)
    one.step(rastrigin)
    other = getattr(optim, name)([torch.ones(8)], population_size=16)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other.population, one.population.cpu())
    other.step(rastrigin)
