"""What AdaptiveBFO knows between two steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tracelet.optim.state import State

__all__ = ["AdaptiveState"]


@dataclass(kw_only=True)
class AdaptiveState(State):
    """What AdaptiveBFO remembers; `positions` are those of the n foragers.

    Attributes:
        health: cost summed since the last reproduction, (n,).
        stagnation: rounds since each last improved, (n,).
        archive: positions that were left for better ones, (A, D).
        held: filled rows of it, ().
        memory: what run lengths and shares of coordinates succeeded, (2, H).
        slot: of the memories that is written next, ().
        used: run lengths and shares of this round's tumbles, (2, n).
        direction: of this round's runs, (n, D).
        coordinates: numbers in [0, 1) that chose the coordinates of this round's tumbles, (n, D).
        moving: who swims next: indices on the host, a mask on a device.
        swims: done in this round.
        tumble_gain, swim_gain: gain per evaluation, averaged, ().
        chances: numbers in [0, 1) of this round, for swims, dispersal and archive, (3, n).
        gained, swum: gain of this round's swims, and how many there were, ().
        improved: how many the tumble improved, ().
        swarm: how many swarmers there are; 0 once they are released.
        mean, variances, path_sigma, path: of their distribution, (D,).
        sigma: its step size, ().
        draws: standard normal numbers of this round's samples, (S, D).
        clipped: whether a sample of this round was outside the bounds.
        swarm_rounds: of this swarm.
        swarm_best: its best fitness, (); swarm_place: where, (D,); swarm_stale: rounds since, ().
        reproductions, eliminations: so far.
    """

    health: Tensor
    stagnation: Tensor
    archive: Tensor
    held: Tensor
    memory: Tensor
    slot: Tensor
    used: Tensor
    direction: Tensor
    coordinates: Tensor
    moving: Tensor
    swims: int = 0
    tumble_gain: Tensor
    swim_gain: Tensor
    chances: Tensor
    gained: Tensor
    swum: Tensor
    improved: Tensor
    swarm: int = 0
    mean: Tensor
    sigma: Tensor
    variances: Tensor
    path_sigma: Tensor
    path: Tensor
    draws: Tensor
    clipped: bool = False
    swarm_rounds: int = 0
    swarm_best: Tensor
    swarm_place: Tensor
    swarm_stale: Tensor
    reproductions: int = 0
    eliminations: Tensor
