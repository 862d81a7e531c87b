"""What AdaptiveBFO knows between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracelet.optim.state import State

__all__ = ["AdaptiveState", "first_state", "settled"]

WHOLE = ("held", "slot", "swum", "swarm_stale", "eliminations")
REAL = ("tumble_gain", "swim_gain", "gained", "improved", "swarm_best")


@dataclass(kw_only=True)
class AdaptiveState(State):
    """What AdaptiveBFO remembers; `positions` are those of the n foragers.

    Where the host may know, its single numbers are plain ones; where it may not, they are tensors of shape ().

    Attributes:
        health: cost summed since the last reproduction, (n,).
        improved_at: the round in which each last improved, (n,).
        archive: positions that were left for better ones, (A, D).
        held: filled rows of it.
        memory: what run lengths and shares of coordinates succeeded, (2, H).
        slot: of the memories that is written next.
        used: run lengths and shares of this round's tumbles, (2, n).
        chances: numbers in [0, 1) of this round, for swims, and for the archive, (2,).
        moving: who swims next: k indices on the host, a mask on a device.
        places: where they are on the host, (k, D); nothing on a device.
        direction: their runs, (k, D) on the host; everybody's on a device, (n, D).
        swims: done in this round.
        tumble_gain, swim_gain: gain per evaluation, averaged.
        gained, swum: gain of this round's swims, and how many there were.
        improved: how many the tumble improved.
        swarm: how many swarmers there are; 0 once they are released.
        mean, variances, path_sigma, path: of their distribution, (D,).
        sigma: its step size.
        draws: standard normal numbers of this round's samples, (S, D).
        clipped: whether a sample of this round was outside the bounds.
        swarm_rounds: of this swarm.
        swarm_best: its best fitness; swarm_place: where, (D,); swarm_stale: rounds since.
        reproductions, eliminations: so far.
    """

    health: Tensor
    improved_at: Tensor
    archive: Tensor
    held: int | Tensor
    memory: Tensor
    slot: int | Tensor = 0
    used: Tensor
    chances: Tensor
    moving: Tensor
    places: Tensor
    direction: Tensor
    swims: int = 0
    tumble_gain: float | Tensor = 0.0
    swim_gain: float | Tensor = 0.0
    gained: float | Tensor = 0.0
    swum: float | Tensor = 0
    improved: float | Tensor = 0.0
    swarm: int = 0
    mean: Tensor
    sigma: float | Tensor = 1.0
    variances: Tensor
    path_sigma: Tensor
    path: Tensor
    draws: Tensor
    clipped: bool = False
    swarm_rounds: int = 0
    swarm_best: float | Tensor = float("inf")
    swarm_place: Tensor
    swarm_stale: int | Tensor = 0
    reproductions: int = 0
    eliminations: int | Tensor = 0


def first_state(
    base: dict[str, Any],
    origin: Tensor,
    deviations: Tensor,
    memory_size: int,
    archive_rate: float,
    swarm: int,
    host: bool,
) -> AdaptiveState:
    """The first state.

    Args:
        base: the fields of `State`.
        origin: where the swarm begins, (D,).
        deviations: its standard deviations, (D,).
        memory_size: H.
        archive_rate: rows of the archive, for each of the positions.
        swarm: S.
        host: whether single numbers are plain ones.
    """
    positions: Tensor = base["positions"]
    count, dimensions = positions.shape
    archive = positions.new_zeros((max(count, int(archive_rate * count)), dimensions))
    archive[:2] = positions[:2]
    whole = torch.zeros(0, dtype=torch.int64, device=positions.device)
    state = AdaptiveState(
        **base,
        health=torch.zeros_like(base["fitness"]),
        improved_at=whole.new_zeros(count),
        archive=archive,
        held=2,
        memory=positions.new_full((2, memory_size), 0.5),
        used=positions.new_zeros(2, count),
        chances=positions.new_zeros(0),
        moving=whole.clone(),
        places=positions.new_zeros(0, dimensions),
        direction=positions.new_zeros(0, dimensions),
        swarm=swarm,
        mean=origin.clone(),
        variances=deviations.square(),
        path_sigma=positions.new_zeros(dimensions),
        path=positions.new_zeros(dimensions),
        draws=positions.new_zeros(0, dimensions),
        swarm_place=origin.clone(),
    )
    settled(state, host)
    return state


def settled(state: AdaptiveState, host: bool) -> None:
    """Make a state's single numbers plain ones for the host, or tensors for a device: wherever it was written."""
    types = {name: torch.int64 for name in WHOLE} | {name: state.fitness.dtype for name in REAL}
    for name, dtype in {**types, "sigma": state.mean.dtype}.items():
        value = getattr(state, name)
        if host and isinstance(value, Tensor):
            setattr(state, name, value.item())
        elif not host and not isinstance(value, Tensor):
            setattr(state, name, torch.tensor(value, dtype=dtype, device=state.positions.device))
