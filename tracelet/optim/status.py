"""The lazy status of an optimizer: nothing is computed before somebody reads it, and then once a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tracelet.optim.state import State

__all__ = ["Status", "diversity", "measure"]


def diversity(positions: Tensor) -> Tensor:
    """Mean distance of P positions (P, D) to their centroid, shape ()."""
    distances: Tensor = torch.linalg.vector_norm(positions - positions.mean(0), dim=1)
    return distances.mean()


class Status(Mapping[str, float]):
    """Numbers about an optimizer as it stands.

    The first read of a step computes all of them on the device and brings them to the host in one copy; further reads of the
    same step cost a look-up. Never read, it costs nothing.

    Args:
        measure: computes the numbers: plain ones, and tensors of shape ().
        version: changes when they may have changed.
    """

    def __init__(self, measure: Callable[[], dict[str, Any]], version: Callable[[], object]) -> None:
        self._measure = measure
        self._version = version
        self._seen: object = None
        self._values: dict[str, float] = {}

    def _read(self) -> dict[str, float]:
        version = self._version()
        if self._seen != version:
            with torch.no_grad():
                values = self._measure()
                lazy = [name for name, value in values.items() if isinstance(value, Tensor)]
                if lazy:
                    # MPS has no float64; elsewhere it keeps counts exact.
                    wide = torch.float32 if values[lazy[0]].device.type == "mps" else torch.float64
                    read = torch.stack([values[name].to(wide) for name in lazy]).tolist()
                    values.update(zip(lazy, read, strict=True))
            self._values = values
            self._seen = version
        return self._values

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"Status({self._read()!r})"


def _convergence_rate(history: list[Tensor]) -> float | Tensor:
    """How much better the best of now is than that of ten steps ago, as a share of the latter; NaN before that."""
    if len(history) <= 10:
        return math.nan
    before, now = history[-11], history[-1]
    return (before - now) / (before.abs() + 1e-8)


def measure(state: State, limits: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """The numbers that every algorithm has, on the device: plain ones, and tensors of shape ()."""
    finite = torch.isfinite(state.fitness)
    count = finite.sum().clamp(min=1)
    mean = torch.where(finite, state.fitness, 0).sum() / count
    std = (torch.where(finite, state.fitness - mean, 0).square().sum() / count).sqrt()
    spread = diversity(state.positions)
    normalised = spread / state.positions.shape[1] ** 0.5
    hits: float | Tensor = 0.0
    if limits is not None:
        hits = ((state.positions <= limits[0]) | (state.positions >= limits[1])).sum()
    return {
        "best_fitness": state.best_fitness,
        "mean_fitness": mean,
        "std_fitness": std,
        "population_diversity": spread,
        "population_diversity_normalised": normalised,
        "diversity_collapsed": normalised <= 1e-9 * state.positions.abs().mean() + 1e-30,
        "mostly_nonfinite": (~finite).sum() * 2 > state.positions.shape[0],
        "nonfinite_count": state.nonfinite,
        "bound_hits": hits,
        "convergence_rate": _convergence_rate(state.history),
        "population_size": float(state.positions.shape[0]),
        "evaluations": float(state.evaluations),
        "rounds": float(state.rounds),
        "steps": float(state.steps),
    }
