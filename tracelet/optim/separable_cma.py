"""Separable CMA-ES as pure functions: a normal distribution with a variance for every coordinate.

Ros, R., Hansen, N. (2008): A simple modification in CMA-ES achieving linear time and space complexity. PPSN X, 296-305.
Constants otherwise as in Hansen, N. (2016): The CMA evolution strategy: a tutorial. arXiv:1604.00772.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Rates", "bound_penalty", "rates", "separable_update", "separable_update_few"]


@dataclass(frozen=True)
class Rates:
    """Learning rates of one number of samples in one number of dimensions."""

    weights: tuple[float, ...]
    mass: float
    sigma: float
    damping: float
    path: float
    one: float
    mu: float
    length: float


@lru_cache(maxsize=64)
def rates(samples: int, dimensions: int, *, separable: bool) -> Rates:
    """The usual constants; `separable` learns the variances faster by (D + 2) / 3.

    Args:
        samples: lambda, at least 4.
        dimensions: D.
        separable: whether only variances are learnt.
    """
    parents = samples // 2
    raw = [math.log((samples + 1) / 2) - math.log(rank) for rank in range(1, parents + 1)]
    weights = tuple(each / sum(raw) for each in raw)
    mass = 1.0 / sum(each * each for each in weights)
    sigma = (mass + 2) / (dimensions + mass + 5)
    damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (dimensions + 1)) - 1) + sigma
    path = (4 + mass / dimensions) / (dimensions + 4 + 2 * mass / dimensions)
    faster = (dimensions + 2) / 3 if separable else 1.0
    one = min(1.0, faster * 2 / ((dimensions + 1.3) ** 2 + mass))
    mu = min(1 - one, faster * 2 * (mass - 2 + 1 / mass) / ((dimensions + 2) ** 2 + mass))
    length = math.sqrt(dimensions) * (1 - 1 / (4 * dimensions) + 1 / (21 * dimensions**2))
    return Rates(weights, mass, sigma, damping, path, one, mu, length)


def bound_penalty(fitness: Tensor, outside: Tensor) -> Tensor:
    """Fitness by which samples are ranked that had to be clipped: worse, the farther outside they were drawn.

    Args:
        fitness: of the clipped samples, (S,).
        outside: squared distance from the sample to its clipped place in units of its own deviation, over D, (S,).

    Returns:
        (S,).
    """
    best = fitness.min()
    worst = fitness.masked_fill(torch.isinf(fitness), -torch.inf).max()
    return torch.addcmul(fitness, outside, (worst - best).clamp(min=0.0))


def separable_update(
    mean: Tensor,
    sigma: Tensor,
    variances: Tensor,
    path_sigma: Tensor,
    path: Tensor,
    draws: Tensor,
    ranked: Tensor,
    weights: Tensor,
    rate: Rates,
    generation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One generation.

    Args:
        mean: m, (D,).
        sigma: step size, ().
        variances: c, (D,).
        path_sigma: evolution path of the step size, (D,).
        path: evolution path of the variances, (D,).
        draws: standard normal numbers z of the samples m + sigma sqrt(c) z, (S, D).
        ranked: the samples from the best to the worst, (S,).
        weights: of the best half, (S // 2,).
        rate: from `rates`.
        generation: how many came before.

    Returns:
        The new mean, sigma, variances and the two paths.
    """
    chosen = draws.index_select(0, ranked[: weights.shape[0]])
    step = weights @ chosen
    path_sigma = torch.add(
        path_sigma * (1 - rate.sigma), step, alpha=math.sqrt(rate.sigma * (2 - rate.sigma) * rate.mass)
    )
    length = torch.linalg.vector_norm(path_sigma)
    bias = math.sqrt(1 - (1 - rate.sigma) ** (2 * (generation + 1)))
    steady = (length < (1.4 + 2 / (mean.shape[0] + 1)) * rate.length * bias).to(mean.dtype)
    moved = variances.sqrt() * step
    path = torch.addcmul(
        path * (1 - rate.path), steady, moved, value=math.sqrt(rate.path * (2 - rate.path) * rate.mass)
    )
    # What a path that stands still does not add is kept.
    still = rate.one * rate.path * (2 - rate.path)
    kept = (1 - rate.one - rate.mu + still) - still * steady
    kept = torch.add(kept, weights @ chosen.square(), alpha=rate.mu)
    variances = torch.addcmul(variances * kept, path, path, value=rate.one)
    mean = torch.addcmul(mean, sigma, moved)
    pace = rate.sigma / rate.damping
    sigma = sigma * torch.exp((length * (pace / rate.length) - pace).clamp_(max=1.0))
    return mean, sigma, variances, path_sigma, path


def separable_update_few(
    mean: Tensor,
    sigma: float,
    variances: Tensor,
    path_sigma: Tensor,
    path: Tensor,
    draws: Tensor,
    ranked: Tensor,
    weights: Tensor,
    rate: Rates,
    generation: int,
) -> float:
    """`separable_update` in place, where the host may read a number: the fewest operations.

    Args:
        mean: m, (D,); changed.
        sigma: step size.
        variances: c, (D,); changed.
        path_sigma: (D,); changed.
        path: (D,); changed.
        draws: (S, D).
        ranked: the best half, (S // 2,).
        weights: (S // 2,).
        rate: from `rates`.
        generation: how many came before.

    Returns:
        The new sigma.
    """
    chosen = draws.index_select(0, ranked)
    step = weights @ chosen
    _decay(path_sigma, step, rate.sigma, math.sqrt(rate.sigma * (2 - rate.sigma) * rate.mass))
    length = torch.linalg.vector_norm(path_sigma).item()
    bias = math.sqrt(1 - (1 - rate.sigma) ** (2 * (generation + 1)))
    steady = float(length < (1.4 + 2 / (mean.shape[0] + 1)) * rate.length * bias)
    moved = step.mul_(variances.sqrt())
    _decay(path, moved, rate.path, steady * math.sqrt(rate.path * (2 - rate.path) * rate.mass))
    lost = rate.one + rate.mu - (1 - steady) * (rate.one * rate.path * (2 - rate.path))
    more = torch.addcmul(variances, variances, weights @ chosen.square_(), value=rate.mu)
    variances.copy_(more.add_(variances, alpha=-lost).addcmul_(path, path, value=rate.one))
    mean.add_(moved, alpha=sigma)
    pace = rate.sigma / rate.damping
    return sigma * math.exp(min(length * (pace / rate.length) - pace, 1.0))


def _decay(path: Tensor, step: Tensor, rate: float, weight: float) -> None:
    """(1 - rate) path + weight step, in place: a product with a number costs more than these two."""
    path.lerp_(step, rate).add_(step, alpha=weight - rate)
