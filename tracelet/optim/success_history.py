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

__all__ = [
    "archived",
    "archived_few",
    "chosen",
    "drawn",
    "half_way",
    "inside",
    "learnt",
    "learnt_few",
    "partners",
    "social_tumble",
]

TERMINAL = -math.inf


def drawn(memory: Tensor, slots: Tensor, uniform: Tensor, normal: Tensor, width: float) -> Tensor:
    """Run length F and share CR of coordinates for each forager.

    Args:
        memory: what run lengths and what shares succeeded, (2, H); a share of `TERMINAL` is 0 for ever.
        slots: which memory each of n foragers takes, (n,).
        uniform: a number in [0, 1) for each, (n,).
        normal: two standard normal numbers for each, of which the second is used, (2, n); changed.
        width: scale of both distributions.

    Returns:
        F from a Cauchy distribution cut to (0, inf) and then to at most 1, and CR in [0, 1]: (2, n).
    """
    centre = memory.index_select(1, slots)
    # A Cauchy number drawn again until it is positive is one from the upper part of its distribution function.
    least = (centre[0] * (-1.0 / width)).atan_()
    normal[0] = torch.addcmul(least, uniform, 0.5 * math.pi - least).tan_()
    return torch.add(centre, normal, alpha=width).clamp_(1e-9, 1.0)


def partners(one: Tensor, two: Tensor, others: int | Tensor) -> tuple[Tensor, Tensor]:
    """Whose difference each forager adds: one other forager, and another of foragers and archive.

    Args:
        one: a number in 0 … n - 2 for each of n foragers, (n,).
        two: a number in 0 … others - 3, (n,).
        others: n and the filled rows of the archive, of which there are at least 2.

    Returns:
        r1 and r2, (n,) each: neither is the forager itself, nor are they the same.
    """
    me = torch.arange(one.shape[0], device=one.device)
    one = one + (one >= me)
    # The two numbers that are left over, both of the archive, stand for the two that may not be.
    two = two.masked_fill(two == me, others - 1)
    return one, two.masked_fill_(two == one, others - 2)


def chosen(numbers: Tensor, share: Tensor, always: Tensor) -> Tensor:
    """1 in a share of the coordinates, and in one in any case; 0 in the others.

    Args:
        numbers: from `Noise.coordinates`, (n, D); changed.
        share: CR, (n,).
        always: the one, (n,).

    Returns:
        (n, D).
    """
    dtype = share.dtype
    if numbers.dtype == torch.int16:
        share = (share * 65536 - 32768).clamp_(-32768, 32767).to(torch.int16)
    # Compared in place, numbers become 1 and 0 of their own type; a mask of bool costs ten times as much to make and to use.
    ones = numbers.lt_(share.unsqueeze(1)).to(dtype)
    return ones.scatter_(1, always.unsqueeze(1), 1.0)


def social_tumble(
    positions: Tensor,
    pool: Tensor,
    best: Tensor,
    one: Tensor,
    two: Tensor,
    length: Tensor,
    chosen: Tensor,
) -> Tensor:
    """D = F (x_pbest - x + x_r1 - x_r2) in the chosen coordinates.

    Args:
        positions: x, (n, D).
        pool: foragers and archive, (n + A, D).
        best: pbest, (n,).
        one: r1, (n,).
        two: r2, in the pool, (n,).
        length: F, (n,).
        chosen: 1 or 0 for each coordinate, (n, D); changed.

    Returns:
        d, (n, D).
    """
    direction = positions.index_select(0, best).sub_(positions)
    direction.add_(positions.index_select(0, one)).sub_(pool.index_select(0, two))
    return direction.mul_(chosen.mul_(length.unsqueeze(1)))


def inside(points: Tensor, positions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Points with every coordinate that left the bounds half way between where it was and the bound.

    Args:
        points: (n, D); changed.
        positions: where they came from, inside, (n, D).
        low: (D,).
        high: (D,).

    Returns:
        (n, D).
    """
    return half_way(points, points.clamp(low, high), positions)


def half_way(points: Tensor, clamped: Tensor, positions: Tensor) -> Tensor:
    """`inside` for points of which `clamped` is known, (n, D): that is changed, and returned; `points` are changed too."""
    # A product with 0 and 1: choosing by a mask of bool costs many times as much on a CPU.
    return clamped.addcmul_(positions - clamped, points.ne_(clamped), value=0.5)


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


def archived_few(archive: Tensor, held: int, left: Tensor, chance: float) -> int:
    """`archived` in place, where the host knows which positions were left.

    Args:
        archive: (A, D); changed.
        held: how many rows are filled.
        left: the positions, (k, D), k <= A.
        chance: a number in [0, 1).

    Returns:
        How many rows are filled then.
    """
    room, count = archive.shape[0], left.shape[0]
    start = held if held < room else int(chance * room)
    first = min(count, room - start)
    archive[start : start + first] = left[:first]
    if first < count:
        archive[: count - first] = left[first:]
    return min(room, held + count)


def learnt_few(memory: Tensor, slot: int, used: Tensor, gain: Tensor, total: float) -> int:
    """`learnt` in place, where the host knows who succeeded.

    Args:
        memory: (2, H); changed.
        slot: which one is next.
        used: F and CR of the k that succeeded, (2, k).
        gain: of each, float64, (k,).
        total: the sum of it.

    Returns:
        The next slot.
    """
    if not total > 0:
        return slot
    wide = used.to(gain.dtype)
    length, share = (wide @ gain).tolist()
    length_square, share_square = (wide.square() @ gain).tolist()
    old = memory.select(1, slot)
    terminal = share <= 2e-9 * total or old[1].item() == TERMINAL
    old.copy_(memory.new_tensor((length_square / length, TERMINAL if terminal else share_square / share)))
    return (slot + 1) % memory.shape[1]
