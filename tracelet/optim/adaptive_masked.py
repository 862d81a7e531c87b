"""AdaptiveBFO where the host may not read: everybody is computed, and masks choose; shapes are fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from tracelet.optim import success_history
from tracelet.optim.adaptive_compact import AVERAGING, LEAST_SWIMS
from tracelet.optim.adaptive_state import AdaptiveState

__all__ = ["count_swims", "select", "swim", "swim_probability"]


def select(
    state: AdaptiveState,
    points: Tensor,
    fitness: Tensor,
    update: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Foragers take what is better, and remember how they came there.

    Args:
        state: changed.
        points: where the foragers tumbled to, (n, D).
        fitness: there, (n,).
        update: compiles pure functions where that was asked for.
    """
    better = fitness < state.fitness
    # What was not known before is no gain.
    gain = torch.nan_to_num(state.fitness - fitness, nan=0.0, posinf=0.0, neginf=0.0).clamp_(min=0.0)
    state.archive, state.held = update(success_history.archived)(
        state.archive, state.held, state.positions, better, state.chances[1]
    )
    state.memory, state.slot = update(success_history.learnt)(state.memory, state.slot, state.used, gain)
    state.direction = points - state.positions
    state.positions = torch.where(better.unsqueeze(1), points, state.positions)
    state.fitness = torch.where(better, fitness, state.fitness)
    state.improved_at = state.improved_at.masked_fill(better, state.rounds + 1)
    state.tumble_gain = torch.lerp(cast(Tensor, state.tumble_gain), gain.mean(), AVERAGING)
    state.improved = better.sum().to(gain.dtype)
    state.gained, state.swum = torch.zeros_like(state.nonfinite), torch.zeros_like(state.nonfinite)
    state.moving = better & (state.chances[0] < swim_probability(state))


def swim(state: AdaptiveState, points: Tensor, fitness: Tensor) -> None:
    """Who still improves goes on.

    Args:
        state: changed.
        points: (n, D), of which those of `moving` count.
        fitness: there, (n,).
    """
    moving = state.moving
    better = moving & (fitness < state.fitness)
    gain = torch.where(better, state.fitness - fitness, 0.0)
    state.positions = torch.where(better.unsqueeze(1), points, state.positions)
    state.fitness = torch.where(better, fitness, state.fitness)
    state.moving = better
    state.swum = state.swum + moving.sum()
    state.gained = state.gained + gain.sum()


def count_swims(state: AdaptiveState) -> None:
    """What this round's swims brought is averaged with what others did."""
    gained, swum = cast(Tensor, state.gained), cast(Tensor, state.swum)
    paid = torch.where(torch.isinf(gained), 0.0, gained) / swum.clamp(min=1)
    share = (swum > 0).to(paid.dtype) * AVERAGING
    state.swim_gain = torch.lerp(cast(Tensor, state.swim_gain), paid, share)


def swim_probability(state: AdaptiveState) -> Tensor:
    """How well an evaluation pays in a swim, relative to a tumble."""
    swims, tumbles = cast(Tensor, state.swim_gain), cast(Tensor, state.tumble_gain)
    ratio = (swims / tumbles).clamp(LEAST_SWIMS, 1.0)
    return torch.where((swims > 0) & (tumbles > 0), ratio, 1.0 if state.rounds < 20 else LEAST_SWIMS)
