"""AdaptiveBFO where the host may know who improved: only their rows are touched, and single numbers are plain ones."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from tracelet.optim import success_history
from tracelet.optim.adaptive_state import AdaptiveState

__all__ = ["count_swims", "select", "swim", "swim_probability"]

LEAST_SWIMS = 0.05
AVERAGING = 0.1


def select(state: AdaptiveState, points: Tensor, fitness: Tensor) -> None:
    """Foragers take what is better, and remember how they came there.

    Args:
        state: changed, much of it in place.
        points: where the foragers tumbled to, (n, D).
        fitness: there, (n,).
    """
    who = (fitness < state.fitness).nonzero().squeeze_(1)
    successes = who.shape[0]
    state.improved, state.gained, state.swum = float(successes), 0.0, 0
    state.moving = who
    gained = cast(float, state.tumble_gain)
    if not successes:
        state.tumble_gain = gained * (1 - AVERAGING)
        return
    swim_chance, archive_chance = state.chances.tolist()
    before = state.positions.index_select(0, who)
    now, known = points.index_select(0, who), fitness.index_select(0, who)
    gain = state.fitness.index_select(0, who).sub_(known)
    total = gain.sum().item()
    if total == math.inf:  # what was not known before is no gain
        gain = torch.nan_to_num_(gain, posinf=0.0)
        total = gain.sum().item()
    state.held = success_history.archived_few(state.archive, cast(int, state.held), before, archive_chance)
    used = state.used.index_select(1, who)
    state.slot = success_history.learnt_few(state.memory, cast(int, state.slot), used, gain, total)
    state.positions.index_copy_(0, who, now)
    state.fitness.index_copy_(0, who, known)
    state.improved_at.index_fill_(0, who, state.rounds + 1)
    state.tumble_gain = gained + AVERAGING * (total / fitness.shape[0] - gained)
    # All that improved swim in this round, or nobody: as many swims as if each had a chance of its own, in fewer batches.
    if swim_chance < swim_probability(state):
        state.places, state.direction = now, now - before
    else:
        state.moving = who[:0]


def swim(state: AdaptiveState, points: Tensor, fitness: Tensor) -> None:
    """Who still improves goes on.

    Args:
        state: changed, much of it in place.
        points: where the k that move swam to, (k, D).
        fitness: there, (k,).
    """
    moving = state.moving
    gain = state.fitness.index_select(0, moving).sub_(fitness)
    here = (gain > 0).nonzero().squeeze_(1)
    count = here.shape[0]
    state.swum += moving.shape[0]
    if count < moving.shape[0]:
        moving = state.moving = moving.index_select(0, here)
        if not count:
            return
        points, fitness, gain = points.index_select(0, here), fitness.index_select(0, here), gain.index_select(0, here)
        state.direction = state.direction.index_select(0, here)
    state.places = points
    state.gained += gain.sum().item()
    state.positions.index_copy_(0, moving, points)
    state.fitness.index_copy_(0, moving, fitness)


def count_swims(state: AdaptiveState) -> None:
    """What this round's swims brought is averaged with what others did."""
    if state.swum:
        gained, known = cast(float, state.gained), cast(float, state.swim_gain)
        paid = gained / state.swum if math.isfinite(gained) else 0.0
        state.swim_gain = known + AVERAGING * (cast(float, paid) - known)


def swim_probability(state: AdaptiveState) -> float:
    """How well an evaluation pays in a swim, relative to a tumble."""
    swims, tumbles = cast(float, state.swim_gain), cast(float, state.tumble_gain)
    if swims > 0 and tumbles > 0:
        return min(1.0, max(LEAST_SWIMS, swims / tumbles))
    return 1.0 if state.rounds < 20 else LEAST_SWIMS
