"""The lazy status of an optimizer: nothing is computed before somebody reads it, and then once a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from tracelet.optim.state import State

__all__ = ["Measure", "Status", "diversity", "measure"]

Measure = Callable[["Collection[str] | None"], "dict[str, Any]"]


def diversity(positions: Tensor) -> Tensor:
    """Mean distance of P positions (P, D) to their centroid, shape ()."""
    distances: Tensor = torch.linalg.vector_norm(positions - positions.mean(0), dim=1)
    return distances.mean()


class Status(Mapping[str, float]):
    """Numbers about an optimizer as it stands.

    The first read of a step computes all of them on the device and brings them to the host in one copy; further reads of the
    same step cost a look-up. `read` computes no more than it is asked for. Never read, it costs nothing.

    Args:
        measure: computes the numbers of some names, or all for None: plain ones, and tensors of shape ().
        version: changes when they may have changed.
    """

    def __init__(self, measure: Measure, version: Callable[[], object]) -> None:
        self._measure = measure
        self._version = version
        self._seen: object = None
        self._values: dict[str, float] = {}

    def read(self, *names: str) -> dict[str, float]:
        """Some of the numbers, in one copy.

        Args:
            names: of the numbers; one that the optimizer does not have is left out.
        """
        if self._seen == self._version():
            return {name: self._values[name] for name in names if name in self._values}
        values = self._measured(names)
        return {name: values[name] for name in names if name in values}

    def _read(self) -> dict[str, float]:
        version = self._version()
        if self._seen != version:
            self._values = self._measured(None)
            self._seen = version
        return self._values

    @torch.no_grad()
    def _measured(self, names: Collection[str] | None) -> dict[str, float]:
        values = self._measure(names)
        lazy = [name for name, value in values.items() if isinstance(value, Tensor)]
        if lazy:
            # MPS has no float64; elsewhere it keeps counts exact.
            wide = torch.float32 if values[lazy[0]].device.type == "mps" else torch.float64
            read = torch.stack([values[name].to(wide) for name in lazy]).tolist()
            values.update(zip(lazy, read, strict=True))
        return values

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"Status({self._read()!r})"


class _Seen:
    """A state, and what several numbers about it need."""

    def __init__(self, state: State, limits: tuple[Tensor, Tensor] | None) -> None:
        self.state = state
        self.limits = limits

    @cached_property
    def finite(self) -> Tensor:
        return torch.isfinite(self.state.fitness)

    @cached_property
    def count(self) -> Tensor:
        return self.finite.sum().clamp(min=1)

    @cached_property
    def mean(self) -> Tensor:
        mean: Tensor = torch.where(self.finite, self.state.fitness, 0).sum() / self.count
        return mean

    def std(self) -> Tensor:
        return (torch.where(self.finite, self.state.fitness - self.mean, 0).square().sum() / self.count).sqrt()

    @cached_property
    def spread(self) -> Tensor:
        return diversity(self.state.positions)

    @cached_property
    def normalised(self) -> Tensor:
        normalised: Tensor = self.spread / self.state.positions.shape[1] ** 0.5
        return normalised

    def collapsed(self) -> float | Tensor:
        """Whether several bacteria are no further apart than their numbers can tell."""
        positions = self.state.positions
        if positions.shape[0] == 1:
            return 0.0
        return self.normalised <= torch.finfo(positions.dtype).eps * positions[0].abs().mean() + 1e-30

    def bound_hits(self) -> float | Tensor:
        if self.limits is None:
            return 0.0
        return ((self.state.positions <= self.limits[0]) | (self.state.positions >= self.limits[1])).sum()

    def convergence_rate(self) -> float | Tensor:
        """How much better the best of now is than that of ten steps ago, as a share of the latter; NaN before that."""
        history = self.state.history
        if len(history) <= 10:
            return math.nan
        before, now = history[-11], history[-1]
        return (before - now) / (before.abs() + 1e-8)


_NUMBERS: Final[Mapping[str, Callable[[_Seen], Any]]] = {
    "best_fitness": lambda seen: seen.state.best_fitness,
    "loss": lambda seen: seen.state.best_fitness if seen.state.loss is None else seen.state.loss,
    "mean_fitness": lambda seen: seen.mean,
    "std_fitness": _Seen.std,
    "population_diversity": lambda seen: seen.spread,
    "population_diversity_normalised": lambda seen: seen.normalised,
    "diversity_collapsed": _Seen.collapsed,
    "mostly_nonfinite": lambda seen: (~seen.finite).sum() * 2 > seen.state.positions.shape[0],
    "nonfinite_count": lambda seen: seen.state.nonfinite,
    "bound_hits": _Seen.bound_hits,
    "convergence_rate": _Seen.convergence_rate,
    "population_size": lambda seen: float(seen.state.positions.shape[0]),
    "evaluations": lambda seen: float(seen.state.evaluations),
    "rounds": lambda seen: float(seen.state.rounds),
    "steps": lambda seen: float(seen.state.steps),
}


def measure(state: State, limits: tuple[Tensor, Tensor] | None, names: Collection[str] | None = None) -> dict[str, Any]:
    """The numbers that every algorithm has, on the device: plain ones, and tensors of shape ().

    Args:
        state: of the optimizer.
        limits: low and high of every coordinate.
        names: which of them; None for all.
    """
    seen = _Seen(state, limits)
    wanted = _NUMBERS if names is None else [name for name in names if name in _NUMBERS]
    return {name: _NUMBERS[name](seen) for name in wanted}
