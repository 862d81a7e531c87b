"""Social tumbles and their success history, as pure functions.

The tumble is the mutation "current-to-pbest/1" with an archive, its parameters are drawn around the memory of what succeeded:
Tanabe, R., Fukunaga, A. (2013): Success-history based parameter adaptation for differential evolution. CEC, 71-78; with the
terminal value and the linear population reduction of the same authors' L-SHADE (2014): Improving the search performance of
SHADE using linear population size reduction. CEC, 1658-1665.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["archived", "drawn", "inside", "learnt", "social_tumble"]

TERMINAL = -1.0


def drawn(
    memory_length: Tensor, memory_share: Tensor, uniform: Tensor, normal: Tensor, width: float
) -> tuple[Tensor, Tensor]:
    """Run length F and share CR of coordinates for each forager.

    Args:
        memory_length: what run lengths succeeded, (H,).
        memory_share: what shares succeeded, (H,); `TERMINAL` is 0 for ever.
        uniform: two numbers in [0, 1) for each of n foragers, (2, n).
        normal: a standard normal number for each, (n,).
        width: scale of both distributions.

    Returns:
        F from a Cauchy distribution cut to (0, inf) and then to at most 1, (n,); CR in [0, 1], (n,).
    """
    slot = (uniform[0] * memory_length.shape[0]).long()
    centre = memory_length[slot]
    # A Cauchy number drawn again until it is positive is one from the upper part of its distribution function.
    least = torch.atan(-centre / width) / math.pi + 0.5
    length = centre + width * torch.tan(math.pi * (least + (1 - least) * uniform[1] - 0.5))
    centre = memory_share[slot]
    share = torch.where(centre == TERMINAL, 0.0, centre + width * normal)
    return length.clamp(min=1e-9, max=1.0), share.clamp(0.0, 1.0)


def social_tumble(
    positions: Tensor,
    archive: Tensor,
    held: float | Tensor,
    order: Tensor,
    length: Tensor,
    share: Tensor,
    choice: Tensor,
    coordinates: Tensor,
    best_share: float,
) -> Tensor:
    """D = F (x_pbest - x + x_r1 - x_r2) in some coordinates, at least in one.

    Args:
        positions: x, (n, D), n at least 4.
        archive: where improved foragers came from, (A, D).
        held: how many rows of the archive are filled.
        order: the foragers from the best to the worst, (n,).
        length: F, (n,).
        share: CR, (n,).
        choice: four numbers in [0, 1) for each forager: pbest, r1, r2, the one coordinate, (4, n).
        coordinates: a number in [0, 1) for each coordinate, (n, D).
        best_share: of the foragers that pbest is drawn from.

    Returns:
        d, (n, D).
    """
    count, dimensions = positions.shape
    me = torch.arange(count, device=positions.device)
    best = order[(choice[0] * max(2, round(best_share * count))).long()]
    one = (choice[1] * (count - 1)).long()
    one = one + (one >= me)
    # r2 among foragers and archive, other than both: the free places are numbered around the two taken ones.
    two = (choice[2] * (count - 2 + held)).long()
    two = two + (two >= torch.minimum(me, one))
    two = two + (two >= torch.maximum(me, one))
    pool = torch.cat((positions, archive))
    direction = positions.index_select(0, best) - positions
    direction += positions.index_select(0, one)
    direction -= pool.index_select(0, two)
    direction *= length.unsqueeze(1)
    kept = coordinates < share.unsqueeze(1)
    kept.scatter_(1, (choice[3] * dimensions).long().unsqueeze(1), True)
    return direction.mul_(kept)


def inside(points: Tensor, positions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Points with every coordinate that left the bounds half way between where it was and the bound.

    Args:
        points: (n, D).
        positions: where they came from, inside, (n, D).
        low: (D,).
        high: (D,).

    Returns:
        (n, D).
    """
    points = torch.where(points < low, 0.5 * (positions + low), points)
    return torch.where(points > high, 0.5 * (positions + high), points)


def learnt(
    memory_length: Tensor, memory_share: Tensor, slot: Tensor, length: Tensor, share: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The memories after a round: one slot takes the weighted Lehmer means of what succeeded.

    Args:
        memory_length: (H,).
        memory_share: (H,).
        slot: which one is next, ().
        length: F of each forager, (n,).
        share: CR of each, (n,).
        gain: how much each improved, 0 where it did not, float64, (n,).

    Returns:
        Both memories, and the next slot. Without any success nothing changes.
    """
    gain = torch.where(torch.isinf(gain), 0.0, gain)
    total = gain.sum()
    any_success = total > 0
    weights = gain / torch.where(any_success, total, 1.0)
    both = torch.stack((length, share)).to(weights.dtype)
    weighted = both * weights
    new = ((weighted * both).sum(1) / weighted.sum(1).clamp(min=1e-300)).to(memory_length.dtype)
    nothing = torch.where(gain > 0, share, 0.0).max() <= 0
    here = (torch.arange(memory_length.shape[0], device=slot.device) == slot) & any_success
    new_share = torch.where(nothing | (memory_share == TERMINAL), TERMINAL, new[1])
    return (
        torch.where(here, new[0], memory_length),
        torch.where(here, new_share, memory_share),
        (slot + any_success) % memory_length.shape[0],
    )


def archived(archive: Tensor, held: Tensor, positions: Tensor, left: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """The archive with the positions that were left; when it is full, a random run of its rows makes room.

    Args:
        archive: (A, D).
        held: how many rows are filled, ().
        positions: where the foragers were, (n, D), n <= A.
        left: who moved on, (n,) of bool.
        chance: a number in [0, 1), ().

    Returns:
        The archive, and how many rows are filled.
    """
    room = archive.shape[0]
    count = left.sum()
    start = torch.where(held >= room, (chance * room).long(), held)
    which = (torch.arange(room, device=archive.device) - start) % room
    order = left.logical_not().to(torch.uint8).argsort(stable=True)
    source = order[which.clamp(max=positions.shape[0] - 1)]
    taken = (which < count).unsqueeze(1)
    return torch.where(taken, positions.index_select(0, source), archive), (held + count).clamp(max=room)
