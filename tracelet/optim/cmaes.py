"""CMAES: a normal distribution that learns the shape of the landscape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim import separable_cma
from tracelet.optim.colony import FIXED
from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.separable_cma import Rates
from tracelet.optim.settings import Common
from tracelet.optim.state import State

__all__ = ["CMAES"]

FULL_UP_TO = 2000


@dataclass(kw_only=True)
class CovarianceState(State):
    """What CMAES remembers; `positions` are the samples of the last generation.

    Attributes:
        mean: (D,).
        sigma: step size, ().
        covariance: (D, D), or the variances (D,) when only those are learnt.
        basis: eigenvectors of the covariance, (D, D); scales: roots of its eigenvalues, (D,). As old as `fresh` says.
        path_sigma, path: evolution paths, (D,).
        draws: standard normal numbers of this generation, (P, D).
        fresh: the generation of `basis`.
    """

    mean: Tensor
    sigma: Tensor
    covariance: Tensor
    basis: Tensor | None = None
    scales: Tensor
    path_sigma: Tensor
    path: Tensor
    draws: Tensor
    fresh: int = 0


def full_update(
    mean: Tensor,
    sigma: Tensor,
    covariance: Tensor,
    basis: Tensor,
    scales: Tensor,
    path_sigma: Tensor,
    path: Tensor,
    draws: Tensor,
    ranked: Tensor,
    weights: Tensor,
    rate: Rates,
    generation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One generation of CMA-ES with a full covariance: arguments as of `separable_update`, with B and the scales of its axes.

    Returns:
        The new mean, sigma, covariance and the two paths.
    """
    chosen = draws.index_select(0, ranked[: weights.shape[0]])
    step = weights @ chosen
    moves = (chosen * scales) @ basis.T
    moved = weights @ moves
    # C^(-1/2) times the mean move is B z.
    path_sigma = (1 - rate.sigma) * path_sigma + math.sqrt(rate.sigma * (2 - rate.sigma) * rate.mass) * (basis @ step)
    length = torch.linalg.vector_norm(path_sigma) / rate.length
    bias = math.sqrt(1 - (1 - rate.sigma) ** (2 * (generation + 1)))
    steady = (length / bias < 1.4 + 2 / (mean.shape[0] + 1)).to(mean.dtype)
    path = (1 - rate.path) * path + (steady * math.sqrt(rate.path * (2 - rate.path) * rate.mass)) * moved
    kept = 1 - rate.one - rate.mu + (1 - steady) * (rate.one * rate.path * (2 - rate.path))
    covariance = covariance * kept + rate.one * torch.outer(path, path) + rate.mu * (moves.T * weights) @ moves
    mean = mean + sigma * moved
    sigma = sigma * torch.exp(((rate.sigma / rate.damping) * (length - 1)).clamp(max=1.0))
    return mean, sigma, covariance, path_sigma, path


class CMAES(PopulationOptimizer):
    """CMA-ES (Hansen 2016), with a full covariance up to 2,000 dimensions and a separable one above (Ros & Hansen 2008).

    One `step()` is one generation: P evaluations and one for the incumbent. It is the first choice on rotated and badly
    scaled landscapes; memory is O(D²) and an eigendecomposition now and then O(D³), in float64.

    Args:
        params: tensors, named tensors or groups.
        population_size: samples of a generation, at least 4; None takes 4 + 3 ln D.
        sigma: first step size, in the units of the parameters; None takes `init_std`.
        max_generations: after which `should_stop()`; None is no limit.
        separable: learn variances only; None decides by the number of dimensions.
        lr: factor of the step size of each group's samples: what torch's schedulers change.
        **common: see `PopulationOptimizer`.
    """

    _state_class = CovarianceState
    _fixed = FIXED | {"separable"}
    _judges_parents = False

    def __init__(
        self,
        params: Any,
        population_size: int | None = None,
        sigma: float | None = None,
        max_generations: int | None = None,
        *,
        separable: bool | None = None,
        lr: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        given = dict(common)
        if population_size is not None and population_size < 4:
            raise ValueError(f"population_size of CMAES is at least 4, not {population_size}")
        if sigma is not None:
            given["init_std"] = sigma
        settings = {
            "population_size": population_size,
            "max_generations": max_generations,
            "separable": separable,
            "lr": lr,
        }
        super().__init__(params, settings, given)

    @property
    def _state(self) -> CovarianceState:
        return cast(CovarianceState, self._known)

    def _size(self) -> int:
        size = self.defaults["population_size"]
        return 4 + int(3 * math.log(self._layout.dimensions)) if size is None else int(size)

    def _begin(self, base: dict[str, Any]) -> CovarianceState:
        positions: Tensor = base["positions"]
        dimensions = positions.shape[1]
        wide = self._layout.fitness_dtype
        separable = self.defaults["separable"]
        self._separable = dimensions > FULL_UP_TO if separable is None else bool(separable)
        spread = self._initial_spread()
        scales = (
            spread.to(wide) if isinstance(spread, Tensor) else positions.new_full((dimensions,), spread, dtype=wide)
        )
        zeros = torch.zeros_like(scales)
        base["phase"] = "sample"
        return CovarianceState(
            **base,
            mean=self._origin.to(wide),
            sigma=scales.new_ones(()),
            covariance=scales.square() if self._separable else torch.diag(scales.square()),
            basis=None if self._separable else torch.eye(dimensions, dtype=wide, device=positions.device),
            scales=scales,
            path_sigma=zeros,
            path=zeros.clone(),
            draws=zeros.expand(0, -1).clone(),
        )

    def _propose(self) -> Tensor:
        state = self._state
        count, dimensions = state.positions.shape
        state.draws = self._noise.normal(count, dimensions).to(state.mean)
        moves = state.draws * state.scales
        if state.basis is not None:
            moves = moves @ state.basis.T
        factor = self._layout.spread([float(group["lr"]) for group in self.param_groups])
        samples = state.mean + (state.sigma * factor) * moves
        return self._clip(samples.to(state.positions.dtype))

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        state.positions, state.fitness = points, fitness
        rank = fitness
        if self._limits is not None:
            moves = state.draws * state.scales
            if state.basis is not None:
                moves = moves @ state.basis.T
            off = (points - state.mean) / state.sigma - moves
            rank = separable_cma.bound_penalty(fitness, (off / state.scales.mean()).square().mean(1).to(fitness.dtype))
        count, dimensions = points.shape
        rate = separable_cma.rates(count, dimensions, separable=self._separable)
        weights = state.mean.new_tensor(rate.weights)
        ranked = rank.argsort(stable=True)
        if self._separable:
            state.mean, state.sigma, state.covariance, state.path_sigma, state.path = self._update(
                separable_cma.separable_update
            )(
                state.mean,
                state.sigma,
                state.covariance,
                state.path_sigma,
                state.path,
                state.draws,
                ranked,
                weights,
                rate,
                state.rounds,
            )
            state.scales = state.covariance.sqrt()
        else:
            state.mean, state.sigma, state.covariance, state.path_sigma, state.path = self._update(full_update)(
                state.mean,
                state.sigma,
                state.covariance,
                state.basis,
                state.scales,
                state.path_sigma,
                state.path,
                state.draws,
                ranked,
                weights,
                rate,
                state.rounds,
            )
            # The axes change slowly: renewing them every 1 / (10 D (c1 + c_mu)) generations keeps the cost O(D²) a sample.
            if state.rounds + 1 - state.fresh >= 1 / (10 * dimensions * (rate.one + rate.mu)):
                self._renew_axes()
        state.rounds += 1
        return True

    def _renew_axes(self) -> None:
        state = self._state
        state.covariance = (state.covariance + state.covariance.T) / 2
        values, state.basis = torch.linalg.eigh(state.covariance)
        state.scales = values.clamp(min=values[-1] * 1e-14).sqrt()
        state.fresh = state.rounds + 1

    def _own_stop(self) -> str | None:
        limit = self.defaults["max_generations"]
        return "max_generations" if limit is not None and self._state.rounds >= limit else None

    def _resumed(self) -> None:
        self._separable = self._state.basis is None

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        return {"step_size": state.sigma * state.scales.mean(), "axis_ratio": state.scales.max() / state.scales.min()}
