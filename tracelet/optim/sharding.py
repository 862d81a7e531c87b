"""One population on several processes: who evaluates what, and how the fitness comes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Shard"]


class Shard:
    """How the processes of a group share the work.

    With "population" each evaluates its slice of the *global* population, and one all_gather of n numbers brings the fitness
    together; slices are padded, so that all ranks call the closure equally often. With "data" each evaluates everybody on
    its own part of the data, and one all_gather of n numbers gives the mean. Points never travel: every rank draws the same
    ones. Sums are taken in the order of the ranks, so that all ranks hold the same bits.

    A rank whose closure raises tells the others in the same all_gather: they raise too, instead of waiting for ever.

    Args:
        kind: "population", "data", or None.
        group: the process group; None is the default one.

    Raises:
        ValueError: for another kind.
        RuntimeError: when a kind is given and `torch.distributed` is not initialised.
    """

    def __init__(self, kind: str | None, group: Any = None) -> None:
        if kind not in (None, "population", "data"):
            raise ValueError(f"shard is 'population', 'data' or None, not {kind!r}")
        if kind is not None and not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(f"shard={kind!r} needs torch.distributed.init_process_group() first")
        self.kind = kind
        self.group = group
        self.world = dist.get_world_size(group) if kind else 1
        self.rank = dist.get_rank(group) if kind else 0

    def agree(self, seed: int, point: Tensor) -> int:
        """Rank 0's seed, and its point copied into `point`: where a common population starts."""
        if self.world > 1:
            source = dist.get_global_rank(self.group, 0) if self.group is not None else 0
            told = torch.tensor([seed], dtype=torch.int64, device=point.device)
            dist.broadcast(told, source, group=self.group)
            dist.broadcast(point, source, group=self.group)
            seed = int(told.item())
        return seed

    def evaluate(self, points: Tensor, judge: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        """Fitness of n points (n, D), shape (n,), the same on every rank.

        Args:
            points: the same on every rank.
            judge: (k, D) -> (k,), on this rank.
            dtype: of the fitness.

        Raises:
            RuntimeError: when another rank's closure raised.
        """
        if self.world == 1:
            return judge(points)
        count = points.shape[0]
        mine = points
        if self.kind == "population":
            each = -(-count // self.world)
            rows = torch.arange(self.rank * each, (self.rank + 1) * each, device=points.device).clamp_(max=count - 1)
            mine = points.index_select(0, rows)
        return self._together(mine, judge, dtype)[:count]

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """What belongs to n points and was computed with their fitness, (k, D) a rank, as (n, D) on every rank."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous(), group=self.group)
        return torch.cat(parts)[:count] if self.kind == "population" else torch.stack(parts).mean(0)

    def one(self, value: Tensor) -> Tensor:
        """Fitness () of a point that every rank evaluated: rank 0's, or the mean over the data."""
        if self.world == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value, group=self.group)
        return parts[0] if self.kind == "population" else torch.stack(parts).mean(0)

    def _together(self, points: Tensor, judge: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        # The last place says whether this rank's closure raised.
        told = torch.zeros(points.shape[0] + 1, dtype=dtype, device=points.device)
        failure: BaseException | None = None
        try:
            told[:-1] = judge(points)
        except BaseException as error:  # told to the others, then raised
            failure = error
            told[-1] = 1.0
        parts = [torch.empty_like(told) for _ in range(self.world)]
        dist.all_gather(parts, told, group=self.group)
        if failure is not None:
            raise failure
        every = torch.stack(parts)
        if bool(every[:, -1].any()):
            raise RuntimeError(f"the closure raised on rank {int(every[:, -1].argmax())}; this step is not taken")
        fitness = every[:, :-1]
        return fitness.reshape(-1) if self.kind == "population" else fitness.mean(0)
