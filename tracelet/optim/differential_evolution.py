"""DifferentialEvolution: trial points from differences of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.settings import Common
from tracelet.optim.state import State
from tracelet.optim.success_history import inside

__all__ = ["DifferentialEvolution"]


@dataclass(kw_only=True)
class EvolutionState(State):
    """What DifferentialEvolution remembers.

    Attributes:
        improved: trials of the last generation that were better, ().
    """

    improved: Tensor


def mutated(
    positions: Tensor, base: Tensor, factor: float | Tensor, share: float, choice: Tensor, coordinates: Tensor
) -> Tensor:
    """Trial points of DE/·/1/bin: base + F (x_r2 - x_r3), crossed with each one's own coordinates.

    Storn, R., Price, K. (1997): Differential evolution, a simple and efficient heuristic for global optimization over
    continuous spaces. Journal of Global Optimization 11, 341-359.

    Args:
        positions: x, (P, D), P at least 4.
        base: the best position for DE/best, (1, D); of no rows for DE/rand, whose base is x_r1.
        factor: F, a number or (D,).
        share: CR.
        choice: four numbers in [0, 1) for each: r1, r2, r3, the one coordinate that always crosses, (4, P).
        coordinates: a number in [0, 1) for each coordinate, (P, D).

    Returns:
        (P, D).
    """
    count, dimensions = positions.shape
    taken = torch.arange(count, device=positions.device).unsqueeze(0)
    for number in range(3):
        each = (choice[number] * (count - 1 - number)).long()
        for other in taken.sort(0).values:  # the free places are numbered around the taken ones
            each = each + (each >= other)
        taken = torch.cat((taken, each.unsqueeze(0)))
    start = base if base.shape[0] else positions.index_select(0, taken[1])
    trial = start + factor * (positions.index_select(0, taken[2]) - positions.index_select(0, taken[3]))
    crosses = coordinates < share
    crosses = crosses.scatter(1, (choice[3] * dimensions).long().unsqueeze(1), True)
    return torch.where(crosses, trial, positions)


class DifferentialEvolution(PopulationOptimizer):
    """Differential evolution (Storn & Price 1997), DE/rand/1/bin or DE/best/1/bin.

    One `step()` is one generation: P evaluations and one for the incumbent.

    Args:
        params: tensors, named tensors or groups.
        population_size: P, at least 4.
        mutation_factor: F.
        crossover_probability: CR.
        max_generations: after which `should_stop()`; None is no limit.
        strategy: "rand1bin" or "best1bin".
        lr: factor of F: what torch's schedulers change.
        **common: see `PopulationOptimizer`.
    """

    _state_class = EvolutionState

    def __init__(
        self,
        params: Any,
        population_size: int = 50,
        mutation_factor: float = 0.8,
        crossover_probability: float = 0.9,
        max_generations: int | None = None,
        *,
        strategy: str = "rand1bin",
        lr: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        if population_size < 4:
            raise ValueError(f"population_size of DifferentialEvolution is at least 4, not {population_size}")
        if strategy not in ("rand1bin", "best1bin"):
            raise ValueError(f"strategy is 'rand1bin' or 'best1bin', not {strategy!r}")
        settings = {
            "population_size": population_size,
            "mutation_factor": mutation_factor,
            "crossover_probability": crossover_probability,
            "max_generations": max_generations,
            "strategy": strategy,
            "lr": lr,
        }
        super().__init__(params, settings, dict(common))

    @property
    def _state(self) -> EvolutionState:
        return cast(EvolutionState, self._known)

    def _begin(self, base: dict[str, Any]) -> EvolutionState:
        return EvolutionState(**base, improved=torch.zeros_like(base["nonfinite"]))

    def _parents_judged(self) -> bool:
        self._state.phase = "trial"
        return False

    def _propose(self) -> Tensor:
        state, settings = self._state, self.defaults
        count, dimensions = state.positions.shape
        best = state.positions[:0]
        if settings["strategy"] == "best1bin":
            best = state.positions.index_select(0, state.fitness.argmin(keepdim=True))
        factor = self._layout.spread([settings["mutation_factor"] * float(group["lr"]) for group in self.param_groups])
        trial: Tensor = self._update(mutated)(
            state.positions,
            best,
            factor,
            settings["crossover_probability"],
            self._noise.uniform(4, count),
            self._noise.uniform(count, dimensions),
        )
        return trial if self._limits is None else inside(trial, state.positions, *self._limits)

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        better = fitness <= state.fitness
        state.positions = torch.where(better.unsqueeze(1), points, state.positions)
        state.fitness = torch.where(better, fitness, state.fitness)
        state.improved = better.sum().to(state.nonfinite)
        state.rounds += 1
        return True

    def _own_stop(self) -> str | None:
        limit = self.defaults["max_generations"]
        return "max_generations" if limit is not None and self._state.rounds >= limit else None

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        return {
            "step_size": float(self.defaults["mutation_factor"]),
            "tumble_success": state.improved / state.positions.shape[0],
        }
