"""The events of bacterial foraging as pure functions of tensors: what `torch.compile` may take.

Passino, K. M. (2002): Biomimicry of bacterial foraging for distributed optimization and control. IEEE Control Systems
Magazine 22(3), 52-67. Dasgupta, S., Das, S., Abraham, A., Biswas, A. (2009): Adaptive computational chemotaxis in bacterial
foraging optimization: an analysis. IEEE Transactions on Evolutionary Computation 13(4), 919-941.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adaptive_length", "centred", "reproduction", "swarming_cost", "swim", "tumble"]


def tumble(noise: Tensor, length: float | Tensor) -> Tensor:
    """Runs of a given length in random directions: noise over its norm, times C.

    Args:
        noise: (P, D).
        length: C, in the units of the parameters; a number, (P, 1) or (D,).

    Returns:
        (P, D).
    """
    norm: Tensor = torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    if isinstance(length, Tensor) and length.dim() == 1:
        return noise / norm * length
    return noise * (length / norm)


def adaptive_length(cost: Tensor, scale: float) -> Tensor:
    """The run length of Dasgupta et al. (their ABFOA1): |J| / (|J| + scale), which goes to 0 with the cost.

    Args:
        cost: J, (P,).
        scale: their lambda, in the units of J.

    Returns:
        (P, 1), 1 where J is infinite.
    """
    size = cost.abs()
    return torch.where(torch.isinf(size), 1.0, size / (size + scale)).unsqueeze(1)


def centred(colony: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A colony as `swarming_cost` wants it: the same for all who ask in a round.

    Args:
        colony: where the bacteria are, (P, D).

    Returns:
        The centre (D,), the bacteria from there (P, D), and their squared distances to it (P,).
    """
    centre = colony.mean(0)  # small numbers lose less in the differences of squares
    there = colony - centre
    return centre, there, torch.linalg.vector_norm(there, dim=1).square_()


def swarming_cost(
    points: Tensor | None,
    colony: tuple[Tensor, Tensor, Tensor],
    own: Tensor | None,
    attract: float,
    attract_width: float,
    repel: float,
    repel_width: float,
) -> Tensor:
    """Cell-to-cell signalling J_cc, a cost: low near the others, high on top of them.

    Sum over the other bacteria of `-attract exp(-attract_width d²) + repel exp(-repel_width d²)`, where d² is the squared
    distance divided by D: Passino's widths are those of the plane, and exp(-0.2 d²) is 1e-44 for a small network otherwise.
    A bacterium does not signal to itself.

    Args:
        points: where the cost is wanted, (n, D); None is where the colony is.
        colony: where the bacteria are, from `centred`.
        own: which of the colony each point is, (n,); None when they are the colony in its order.
        attract: depth of the attractant.
        attract_width: its width.
        repel: height of the repellent.
        repel_width: its width.

    Returns:
        (n,). Memory is O(n P).
    """
    centre, there, lengths = colony
    here, squares = there, lengths
    if points is not None:
        here = points - centre
        squares = torch.linalg.vector_norm(here, dim=1).square_()
    distance = torch.addmm(squares.unsqueeze(1) + lengths, here, there.T, alpha=-2.0).clamp_(min=0.0)
    distance.div_(there.shape[1])
    signal = repel * torch.exp(-repel_width * distance) - attract * torch.exp(-attract_width * distance)
    if own is None:
        signal = signal.clone()
        signal.diagonal().zero_()
    else:
        signal = signal.scatter(1, own.unsqueeze(1), 0.0)
    return signal.sum(1)


def swim(
    moving: Tensor,
    points: Tensor,
    fitness: Tensor,
    cost: Tensor,
    positions: Tensor,
    fitness_before: Tensor,
    cost_before: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One swim of those that still improve; the last, failing run of each is taken too, as Passino has it.

    Args:
        moving: who swims, (P,) of bool.
        points: where they would be, (P, D).
        fitness: there, (P,).
        cost: J there, (P,).
        positions: where they are, (P, D).
        fitness_before: of `positions`, (P,).
        cost_before: J of `positions`, (P,).

    Returns:
        Positions, their fitness, their cost, and who goes on.
    """
    return (
        torch.where(moving.unsqueeze(1), points, positions),
        torch.where(moving, fitness, fitness_before),
        torch.where(moving, cost, cost_before),
        moving & (cost < cost_before),
    )


def reproduction(health: Tensor) -> Tensor:
    """Who each bacterium of the next generation is a copy of: the healthier half splits, the other dies.

    Args:
        health: accumulated cost, (P,); smaller is healthier. With odd P the one in the middle lives on alone.

    Returns:
        Indices, (P,).
    """
    count = health.shape[0]
    order = health.argsort(stable=True)
    return torch.cat((order[: count - count // 2], order[: count // 2]))
