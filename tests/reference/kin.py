"""Differential evolution and particle swarm, one individual after the other: slow, and plainly right.

Random numbers come in the same arrays, in the same order, as the vectorised forms draw them; what they choose is chosen here
from lists.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], float]


def slow_evolution(
    positions: Tensor,
    function: Function,
    rounds: int,
    generator: torch.Generator,
    factor: float,
    share: float,
    best: bool,
) -> Tensor:
    """DE/rand/1/bin and DE/best/1/bin (Storn & Price 1997)."""
    count, dimensions = positions.shape
    where = [row.clone() for row in positions]
    losses = [function(row) for row in where]
    for _ in range(rounds):
        choice = torch.rand(4, count, generator=generator, dtype=torch.float64)
        coordinates = torch.rand(count, dimensions, generator=generator, dtype=torch.float64)
        before = [row.clone() for row in where]
        leader = min(range(count), key=lambda i: losses[i])
        for i in range(count):
            left = [j for j in range(count) if j != i]
            partners = [left.pop(int(choice[k, i] * len(left))) for k in range(3)]
            base = before[leader] if best else before[partners[0]]
            trial = before[i].clone()
            always = int(choice[3, i] * dimensions)
            for j in range(dimensions):
                if coordinates[i, j] < share or j == always:
                    trial[j] = base[j] + factor * (before[partners[1]][j] - before[partners[2]][j])
            loss = function(trial)
            if loss <= losses[i]:
                where[i], losses[i] = trial, loss
    return torch.stack(where)


def slow_swarm(
    positions: Tensor,
    function: Function,
    rounds: int,
    generator: torch.Generator,
    weights: tuple[float, float, float],
    bounds: tuple[float, float],
    fastest: float,
) -> tuple[Tensor, Tensor]:
    """Particle swarm with one neighbourhood: the best places of the particles, and where they are."""
    inertia, cognitive, social = weights
    count, dimensions = positions.shape
    where, known = [row.clone() for row in positions], [row.clone() for row in positions]
    losses = [function(row) for row in known]
    velocity = [torch.zeros(dimensions, dtype=torch.float64) for _ in range(count)]
    for _ in range(rounds):
        draws = torch.rand(2, count, dimensions, generator=generator, dtype=torch.float64)
        leader = known[min(range(count), key=lambda i: losses[i])].clone()
        for i in range(count):
            for j in range(dimensions):
                speed = (
                    inertia * velocity[i][j]
                    + cognitive * draws[0, i, j] * (known[i][j] - where[i][j])
                    + social * draws[1, i, j] * (leader[j] - where[i][j])
                )
                speed = max(-fastest, min(fastest, float(speed)))
                target = max(bounds[0], min(bounds[1], float(where[i][j]) + speed))
                velocity[i][j] = target - where[i][j]
                where[i][j] = target
            loss = function(where[i])
            if loss < losses[i]:
                known[i], losses[i] = where[i].clone(), loss
    return torch.stack(known), torch.stack(where)
