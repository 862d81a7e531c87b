"""Schedulers act on what the optimizer does."""

from __future__ import annotations

import pytest
import torch

from tests.support.landscapes import sphere
from tracelet.optim import BFO, AdaptiveBFO, BFOScheduler


class SeedScheduler:
    """As scripts write it: only settings that `defaults` has."""

    def __init__(self, optimizer, schedule_fn) -> None:
        self.optimizer = optimizer
        self.schedule_fn = schedule_fn
        self.epoch = 0

    def step(self) -> None:
        for key, value in self.schedule_fn(self.epoch).items():
            if key in self.optimizer.defaults:
                self.optimizer.defaults[key] = value
        self.epoch += 1


@pytest.mark.parametrize("scheduler", [BFOScheduler, SeedScheduler])
def test_a_schedule_of_the_run_length_shortens_the_runs(scheduler: type) -> None:
    optimizer = BFO([torch.ones(4)], population_size=6, swim_length=0, seed=0)
    schedule = scheduler(
        optimizer, lambda epoch: {"step_size_max": 0.1 * 0.5**epoch, "elim_prob": min(0.5, 0.25 * 1.05**epoch)}
    )
    lengths = []
    for _ in range(3):
        optimizer.step(sphere)
        before = optimizer.population.clone()
        optimizer.step(sphere)
        lengths.append((optimizer.population - before).norm(dim=1).mean().item())
        schedule.step()
        if scheduler is SeedScheduler and len(lengths) == 1:
            schedule.step()
    assert lengths == pytest.approx([0.1, 0.05, 0.025], rel=1e-4)
    optimizer.step(sphere)
    assert optimizer.param_groups[0]["elim_prob"] == optimizer.defaults["elim_prob"] > 0.25


def test_torchs_schedulers_change_the_run_length() -> None:
    optimizer = BFO([torch.ones(4)], population_size=6, swim_length=0, seed=0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    optimizer.step(sphere)
    scheduler.step()
    before = optimizer.population.clone()
    optimizer.step(sphere)
    assert (optimizer.population - before).norm(dim=1).tolist() == pytest.approx([0.01] * 6, rel=1e-4)


def test_its_state_is_the_epoch() -> None:
    def schedule(epoch: int) -> dict[str, float]:
        return {"elim_prob": 0.1 * epoch}

    optimizer = AdaptiveBFO([torch.ones(4)])
    one = BFOScheduler(optimizer, schedule)
    one.step()
    one.step()
    other = BFOScheduler(AdaptiveBFO([torch.ones(4)]), schedule)
    other.load_state_dict(one.state_dict())
    assert other.epoch == 2
    assert other.optimizer.defaults["elim_prob"] == optimizer.defaults["elim_prob"] == 0.2
    assert other.get_last_lr() == [1.0]
    with pytest.raises(KeyError, match="nothing"):
        BFOScheduler(optimizer, lambda epoch: {"nothing": epoch})
