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

__all__ = ["archived", "archived_few", "drawn", "inside", "learnt", "social_tumble"]

TERMINAL = -1.0


def drawn(memory: Tensor, uniform: Tensor, normal: Tensor, width: float) -> Tensor:
    """Run length F and share CR of coordinates for each forager.

    Args:
        memory: what run lengths and what shares succeeded, (2, H); a share of `TERMINAL` is 0 for ever.
        uniform: two numbers in [0, 1) for each of n foragers, (2, n).
        normal: a standard normal number for each, (n,).
        width: scale of both distributions.

    Returns:
        F from a Cauchy distribution cut to (0, inf) and then to at most 1, and CR in [0, 1]: (2, n).
    """
    length, share = memory.index_select(1, (uniform[0] * memory.shape[1]).long())
    # A Cauchy number drawn again until it is positive is one from the upper part of its distribution function.
    least = torch.atan(length / -width)
    length = length + width * torch.tan(torch.lerp(least, torch.full_like(least, math.pi / 2), uniform[1]))
    share = torch.where(share == TERMINAL, 0.0, share + width * normal)
    return torch.stack((length, share)).clamp_(1e-9, 1.0)


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


def learnt(memory: Tensor, slot: Tensor, used: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """The memories after a round: one slot takes the weighted Lehmer means of what succeeded.

    Args:
        memory: of run lengths and of shares, (2, H).
        slot: which one is next, ().
        used: F and CR of each forager, (2, n).
        gain: how much each improved, 0 where it did not, float64, (n,).

    Returns:
        The memories, and the next slot. Without any success nothing changes.
    """
    wide = used.to(gain.dtype)
    first, second = (torch.stack((wide, wide.square())) @ gain).unbind(0)
    success = first[0] > 0
    # A share is at least 1e-9 where 0 was drawn: when nothing larger succeeded, the slot is 0 for ever.
    nothing = (first[1] <= 2e-9 * gain.sum()) | (memory[1] == TERMINAL)
    mean = (second / first).to(memory.dtype)
    new = torch.stack((mean[0].expand_as(nothing), torch.where(nothing, TERMINAL, mean[1])))
    here = (torch.arange(memory.shape[1], device=slot.device) == slot) & success
    return torch.where(here, new, memory), (slot + success) % memory.shape[1]


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


def archived_few(archive: Tensor, held: Tensor, left: Tensor, chance: float) -> None:
    """`archived` in place, where the host knows which positions were left.

    Args:
        archive: (A, D); changed.
        held: (), changed.
        left: the positions, (k, D), k <= A.
        chance: a number in [0, 1).
    """
    room, count, filled = archive.shape[0], left.shape[0], int(held)
    start = filled if filled < room else int(chance * room)
    slots = torch.arange(start, start + count, device=archive.device).remainder_(room)
    archive.index_copy_(0, slots, left)
    held.fill_(min(room, filled + count))
