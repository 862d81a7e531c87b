"""ParticleSwarm: particles drawn to the best places they and the others know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.settings import Common
from tracelet.optim.state import State

__all__ = ["ParticleSwarm"]


@dataclass(kw_only=True)
class SwarmState(State):
    """What ParticleSwarm remembers; `positions` and `fitness` are those of the best places of each particle.

    Attributes:
        places: where the particles are, (P, D).
        velocity: (P, D).
        improved: particles that found a better place in the last round, ().
    """

    places: Tensor
    velocity: Tensor
    improved: Tensor


def moved(
    places: Tensor,
    velocity: Tensor,
    known: Tensor,
    best: Tensor,
    draws: Tensor,
    inertia: float,
    cognitive: float,
    social: float,
    fastest: float | Tensor,
) -> Tensor:
    """The next velocities.

    Kennedy, J., Eberhart, R. (1995): Particle swarm optimization. ICNN, 1942-1948; with the inertia weight of Shi, Y.,
    Eberhart, R. (1998): A modified particle swarm optimizer. CEC, 69-73.

    Args:
        places: x, (P, D).
        velocity: v, (P, D).
        known: the best place of each, (P, D).
        best: the best place of all, (D,).
        draws: two numbers in [0, 1) for each coordinate, (2, P, D).
        inertia: w.
        cognitive: c1.
        social: c2.
        fastest: bound of |v| in each coordinate; infinite is none.

    Returns:
        (P, D).
    """
    velocity = inertia * velocity + cognitive * draws[0] * (known - places) + social * draws[1] * (best - places)
    if isinstance(fastest, Tensor):
        return torch.minimum(torch.maximum(velocity, -fastest), fastest)
    return velocity.clamp(-fastest, fastest)


class ParticleSwarm(PopulationOptimizer):
    """Particle swarm optimization with one neighbourhood (Kennedy & Eberhart 1995, Shi & Eberhart 1998).

    One `step()` moves every particle once: P evaluations and one for the incumbent. `population` are the best places of the
    particles, which `fitness` belongs to. Particles that reach a bound stop there.

    The defaults are those of Clerc & Kennedy's constriction (2002), which converge; with an inertia of 0.9 and weights of 2
    a swarm without bounds on its velocity does not.

    Args:
        params: tensors, named tensors or groups.
        swarm_size: P, also spelled `population_size`.
        inertia_weight: w.
        cognitive_weight: c1, of a particle's own best place.
        social_weight: c2, of the best place of all.
        max_iterations: after which `should_stop()`; None is no limit.
        max_velocity: bound of the velocity as a share of the bounds' width; without bounds, of 5 `init_std`.
        lr: factor of the velocity: what torch's schedulers change.
        **common: see `PopulationOptimizer`.
    """

    _state_class = SwarmState

    def __init__(
        self,
        params: Any,
        swarm_size: int = 50,
        inertia_weight: float = 0.7298,
        cognitive_weight: float = 1.49618,
        social_weight: float = 1.49618,
        max_iterations: int | None = None,
        *,
        max_velocity: float = 0.5,
        lr: float = 1.0,
        population_size: int | None = None,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "population_size": swarm_size if population_size is None else population_size,
            "inertia_weight": inertia_weight,
            "cognitive_weight": cognitive_weight,
            "social_weight": social_weight,
            "max_iterations": max_iterations,
            "max_velocity": max_velocity,
            "lr": lr,
        }
        super().__init__(params, settings, dict(common))

    @property
    def _state(self) -> SwarmState:
        return cast(SwarmState, self._known)

    def _begin(self, base: dict[str, Any]) -> SwarmState:
        positions: Tensor = base["positions"]
        return SwarmState(
            **base,
            places=positions.clone(),
            velocity=torch.zeros_like(positions),
            improved=torch.zeros_like(base["nonfinite"]),
        )

    def _parents_judged(self) -> bool:
        self._state.phase = "move"
        return False

    def _propose(self) -> Tensor:
        state, settings = self._state, self.defaults
        best = state.positions.index_select(0, state.fitness.argmin(keepdim=True))
        spread = self._initial_spread()
        velocity: Tensor = self._update(moved)(
            state.places,
            state.velocity,
            state.positions,
            best,
            self._noise.uniform(2, *state.places.shape),
            settings["inertia_weight"],
            settings["cognitive_weight"],
            settings["social_weight"],
            # A fifth of the bounds' width is the default spread.
            5 * settings["max_velocity"] * spread,
        )
        factor = self._layout.spread([float(group["lr"]) for group in self.param_groups])
        points = self._clip(state.places + factor * velocity)
        # A particle that was stopped by a bound has no velocity into it.
        state.velocity = velocity if self._limits is None else points - state.places
        return points

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        better = fitness < state.fitness
        state.places = points
        state.positions = torch.where(better.unsqueeze(1), points, state.positions)
        state.fitness = torch.where(better, fitness, state.fitness)
        state.improved = better.sum().to(state.nonfinite)
        state.rounds += 1
        return True

    def _own_stop(self) -> str | None:
        limit = self.defaults["max_iterations"]
        return "max_iterations" if limit is not None and self._state.rounds >= limit else None

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        return {
            "step_size": torch.linalg.vector_norm(state.velocity, dim=1).mean(),
            "tumble_success": state.improved / state.positions.shape[0],
        }
