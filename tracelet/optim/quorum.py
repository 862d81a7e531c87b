"""The swarm of AdaptiveBFO: its distribution follows its better half until it has nothing new to tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from tracelet.optim import separable_cma
from tracelet.optim.adaptive_state import AdaptiveState

__all__ = ["follow", "follow_few", "has_nothing_new", "release"]


def follow(
    state: AdaptiveState,
    points: Tensor,
    fitness: Tensor,
    update: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Take the samples' fitness into the distribution.

    Args:
        state: changed: mean, sigma, variances, paths, and the swarm's best.
        points: the samples, clipped to the bounds, (S, D).
        fitness: (S,).
        update: compiles pure functions where that was asked for.
    """
    rate, ranked = separable_cma.rates(state.swarm, points.shape[1], separable=True), _ranked(state, points, fitness)
    weights = _weights(rate.weights, points.dtype, points.device)
    state.mean, state.sigma, state.variances, state.path_sigma, state.path = update(separable_cma.separable_update)(
        state.mean,
        state.sigma,
        state.variances,
        state.path_sigma,
        state.path,
        state.draws,
        ranked,
        weights,
        rate,
        state.swarm_rounds,
    )
    state.swarm_rounds += 1
    value, index = fitness.min(0, keepdim=True)
    better = value < state.swarm_best
    state.swarm_best = torch.minimum(value, cast(Tensor, state.swarm_best)).squeeze(0)
    state.swarm_stale = cast(Tensor, state.swarm_stale + 1).masked_fill_(better.squeeze(0), 0)
    state.swarm_place = torch.where(better, points.index_select(0, index).squeeze(0), state.swarm_place)


def follow_few(state: AdaptiveState, points: Tensor, fitness: Tensor) -> None:
    """`follow` in place, where the host may read numbers."""
    rate, ranked = separable_cma.rates(state.swarm, points.shape[1], separable=True), _ranked(state, points, fitness)
    state.sigma = separable_cma.separable_update_few(
        state.mean,
        cast(float, state.sigma),
        state.variances,
        state.path_sigma,
        state.path,
        state.draws,
        ranked,
        _weights(rate.weights, points.dtype, points.device),
        rate,
        state.swarm_rounds,
    )
    state.swarm_rounds += 1
    state.swarm_stale += 1
    best = fitness.min().item()
    if best < state.swarm_best:
        state.swarm_best, state.swarm_stale = best, 0
        state.swarm_place = points[int(fitness.argmin())].clone()


def _ranked(state: AdaptiveState, points: Tensor, fitness: Tensor) -> Tensor:
    """The better half of the samples, the best first, (S // 2,)."""
    rank = fitness
    if state.clipped:
        deviation = state.sigma * state.variances.sqrt()
        off = (points - state.mean).div_(deviation).sub_(state.draws)
        rank = separable_cma.bound_penalty(fitness, off.square_().mean(1).to(fitness.dtype))
    return rank.topk(state.swarm // 2, largest=False).indices


@lru_cache(maxsize=64)
def _weights(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(weights, dtype=dtype, device=device)


def has_nothing_new(state: AdaptiveState, least: int) -> bool:
    """Whether the swarm found nothing better in `least` + 3 sqrt(D) rounds, or has collapsed. Reads from a device."""
    patience = least + 3 * math.sqrt(state.mean.shape[0])
    tiny = torch.finfo(state.mean.dtype).eps * 1e-3
    collapsed = state.sigma * state.variances.sqrt().max() < tiny * (state.mean.abs().max() + 1e-12)
    return bool((state.swarm_stale >= patience) | collapsed)


def release(state: AdaptiveState) -> None:
    """The swarm hands its best to the least healthy forager, and its evaluations to all."""
    worst = state.health.argmax(keepdim=True)
    best = torch.as_tensor(state.swarm_best, dtype=state.fitness.dtype, device=state.fitness.device)
    state.positions = state.positions.index_copy(0, worst, state.swarm_place.unsqueeze(0))
    state.fitness = state.fitness.index_copy(0, worst, best.unsqueeze(0))
    state.swarm = 0
    state.draws = state.draws[:0]
