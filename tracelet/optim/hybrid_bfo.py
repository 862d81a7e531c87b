"""HybridBFO: bacteria that follow their own gradients, and only move where that is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim import foraging
from tracelet.optim.evaluation import Evaluation
from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.ranges import span
from tracelet.optim.settings import Common, spelled
from tracelet.optim.state import State

__all__ = ["HybridBFO"]

LONGER, SHORTER = 1.3, 0.5
# Without a gradient one run in five is good enough: Rechenberg's rule (1973).
SHORTER_BLIND = LONGER**-0.25


@dataclass(kw_only=True)
class HybridState(State):
    """What HybridBFO remembers.

    Attributes:
        health: fitness summed since the last reproduction, (P,).
        momentum: averaged gradient, (P, D).
        square: averaged squared gradient, (P, D).
        seen: gradients averaged so far, (P,).
        pace: learnt factor of each bacterium's run length, (P,).
        direction: of this round's runs, (P, D).
        guided: whether this round's runs follow gradients.
        moving: who swims next: indices on the host, a mask on a device.
        swims: done in this round.
        improved, swum: runs and swims of this round that were better, ().
        with_gradient: evaluations that gave a gradient too.
        reproductions, eliminations: so far.
    """

    health: Tensor
    momentum: Tensor
    square: Tensor
    seen: Tensor
    pace: Tensor
    direction: Tensor
    moving: Tensor
    guided: bool = True
    swims: int = 0
    improved: Tensor
    swum: Tensor
    with_gradient: int = 0
    reproductions: int = 0
    eliminations: Tensor


def gradient_run(
    momentum: Tensor, square: Tensor, seen: Tensor, gradient: Tensor, decay: float, square_decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Each bacterium's direction downhill: its averaged gradient over the root of its averaged square.

    Kingma, D. P., Ba, J. (2015): Adam: a method for stochastic optimization. ICLR.

    Args:
        momentum: (P, D).
        square: (P, D).
        seen: gradients averaged, this one included, (P,).
        gradient: at the positions, (P, D); what is not finite counts as zero.
        decay: of the average.
        square_decay: of the average of squares.

    Returns:
        The direction, about 1 in every coordinate; the averages.
    """
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    momentum = torch.lerp(gradient, momentum, decay)
    square = torch.lerp(gradient.square(), square, square_decay)
    age = seen.unsqueeze(1)
    scale = (square / (1 - square_decay**age)).sqrt_().add_(1e-12)
    return -(momentum / (1 - decay**age)) / scale, momentum, square


class HybridBFO(PopulationOptimizer):
    """Bacterial foraging with gradients.

    In each round every bacterium is judged with its gradient, which is that of the point it stands on; runs along its own
    averaged gradient (and, in part, towards a better one); and stays there only if the loss on the same batch is smaller.
    It may swim on. How long its runs are it learns: longer after a success, shorter after a failure; so the learning rate is
    a start, not a fate. The healthier half splits every `chem_steps` rounds, and bacteria are dispersed around the best every
    `chem_steps · repro_steps`.

    It does not beat a well-tuned Adam on a network; it comes close without the tuning. 1 to 4 bacteria are enough there.

    A step judges P points with gradients, and P (to P·(1 + swim_length)) without; with a closure one more, the incumbent. An
    evaluation with a gradient counts as one in `evaluations`; it costs about three. Closures have to call `backward()` or
    return a loss with its graph; gradients are set to zero before. Between `ask` and `tell` gradients are optional: without
    them, runs go in random directions.

    Args:
        params: tensors, named tensors or groups.
        population_size: P.
        gradient_weight: share of the gradient in a run, in [0, 1]; the rest goes towards a better bacterium.
        lr: length of the first runs in every coordinate, in the units of the parameters, as Adam has it.
        momentum: decay of the averaged gradient.
        square_decay: decay of the averaged squared gradient.
        swim_length: most swims after a run.
        chem_steps: rounds between two reproductions, also spelled `chemotaxis_steps`.
        repro_steps: reproductions between two dispersals, also `reproduction_steps`.
        elim_prob: probability of dispersal, never of the best; also `elimination_prob`.
        **common: see `PopulationOptimizer`. `init_std` is that of dispersal too, and by default 0.01 without bounds.
    """

    _state_class = HybridState
    _judges_parents = False

    def __init__(
        self,
        params: Any,
        population_size: int = 4,
        gradient_weight: float = 0.5,
        lr: float = 0.01,
        momentum: float = 0.9,
        *,
        square_decay: float = 0.999,
        swim_length: int = 0,
        chem_steps: int = 50,
        repro_steps: int = 4,
        elim_prob: float = 0.25,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "population_size": population_size,
            "gradient_weight": gradient_weight,
            "lr": lr,
            "momentum": momentum,
            "square_decay": square_decay,
            "swim_length": swim_length,
            "chem_steps": chem_steps,
            "repro_steps": repro_steps,
            "elim_prob": elim_prob,
        }
        given = dict(common)
        if given.get("init_std") is None and given.get("bounds") is None:
            given["init_std"] = 0.01
        spelled(given, settings)
        for name in ("gradient_weight", "momentum", "square_decay"):
            if not 0 <= settings[name] <= 1:
                raise ValueError(f"{name} is between 0 and 1, not {settings[name]!r}")
        super().__init__(params, settings, given)

    @property
    def _state(self) -> HybridState:
        return cast(HybridState, self._known)

    def _begin(self, base: dict[str, Any]) -> HybridState:
        positions: Tensor = base["positions"]
        base["phase"] = "gradient"
        whole = torch.zeros((), dtype=torch.int64, device=positions.device)
        return HybridState(
            **base,
            health=torch.zeros_like(base["fitness"]),
            momentum=torch.zeros_like(positions),
            square=torch.zeros_like(positions),
            seen=positions.new_zeros(positions.shape[0]),
            pace=positions.new_ones(positions.shape[0]),
            direction=torch.zeros_like(positions),
            moving=whole.expand(0).clone(),
            improved=whole.clone(),
            swum=whole.clone(),
            eliminations=whole.clone(),
        )

    # -- the round --------------------------------------------------------------------------------------------------------

    def _wants_gradients(self) -> bool:
        return self._state.phase == "gradient"

    def _judges_all_anew(self) -> bool:
        return self._state.phase == "gradient"

    def _confirms(self, evaluation: Evaluation) -> bool:
        # The incumbent was judged in this very step. A closure is called once more, as it may log what it sees.
        return evaluation.writes

    def _propose(self) -> Tensor:
        state = self._state
        if state.phase == "gradient":
            return state.positions
        if state.phase == "run":
            return self._clip(state.positions + state.direction)
        with span("HybridBFO.swim"):
            if self._host:
                here = state.positions.index_select(0, state.moving)
                return self._clip(here.add_(state.direction.index_select(0, state.moving)))
            return self._clip(state.positions + state.direction * state.moving.unsqueeze(1))

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        if state.phase == "gradient":
            state.fitness = fitness
            state.with_gradient += points.shape[0] if gradients is not None else 0
            state.guided = gradients is not None
            with span("HybridBFO.tumble"):
                state.direction = self._directed(gradients)
            state.phase = "run"
            return False
        if state.phase == "run":
            with span("HybridBFO.tumble"):
                self._take_runs(points, fitness)
            state.swims, state.phase = 0, "swim"
        else:
            state.swims += 1
            with span("HybridBFO.swim"):
                self._swim(points, fitness)
        if state.swims < self.defaults["swim_length"] and (not self._host or state.moving.numel() > 0):
            return False
        self._end_round()
        return True

    def _directed(self, gradients: Tensor | None) -> Tensor:
        state, settings = self._state, self.defaults
        if gradients is None:
            direction = self._noise.normal(*state.positions.shape)
        else:
            gradients = gradients.detach().to(state.positions)
            state.seen = state.seen + 1
            direction, state.momentum, state.square = self._update(gradient_run)(
                state.momentum, state.square, state.seen, gradients, settings["momentum"], settings["square_decay"]
            )
        length = self._layout.spread([float(group["lr"]) for group in self.param_groups])
        direction = direction * length * state.pace.unsqueeze(1)
        count, weight = state.positions.shape[0], settings["gradient_weight"]
        if count == 1 or weight == 1:
            return direction
        # Towards a bacterium that is at least as good, which for the best is itself.
        order = state.fitness.argsort(stable=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(count, device=order.device))
        draws = self._noise.uniform(2, count)
        better = order[(draws[0] * (rank + 1)).long()]
        pull = draws[1].unsqueeze(1) * (state.positions.index_select(0, better) - state.positions)
        mixed: Tensor = weight * direction + (1 - weight) * pull
        return mixed

    def _take_runs(self, points: Tensor, fitness: Tensor) -> None:
        state = self._state
        better = fitness < state.fitness
        state.positions = torch.where(better.unsqueeze(1), points, state.positions)
        state.fitness = torch.where(better, fitness, state.fitness)
        state.pace = state.pace * torch.where(better, LONGER, SHORTER if state.guided else SHORTER_BLIND)
        state.improved = better.sum()
        state.swum = torch.zeros_like(state.improved)
        state.moving = better.nonzero().squeeze(1) if self._host else better

    def _swim(self, points: Tensor, fitness: Tensor) -> None:
        state = self._state
        moving = state.moving
        if not self._host:
            better = moving & (fitness < state.fitness)
            state.positions = torch.where(better.unsqueeze(1), points, state.positions)
            state.fitness = torch.where(better, fitness, state.fitness)
            state.pace = torch.where(better, state.pace * LONGER, state.pace)
            state.moving = better
            state.swum = state.swum + better.sum()
            return
        here = (fitness < state.fitness.index_select(0, moving)).nonzero().squeeze(1)
        state.moving = moving.index_select(0, here)
        state.positions.index_copy_(0, state.moving, points.index_select(0, here))
        state.fitness.index_copy_(0, state.moving, fitness.index_select(0, here))
        state.pace[state.moving] *= LONGER
        state.swum = state.swum + here.numel()

    def _end_round(self) -> None:
        state, settings = self._state, self.defaults
        state.health = state.health + state.fitness
        state.rounds += 1
        state.phase = "gradient"
        if state.positions.shape[0] > 1 and state.rounds % settings["chem_steps"] == 0:
            with span("HybridBFO.reproduction"):
                self._reproduce()
            if state.rounds % (settings["chem_steps"] * settings["repro_steps"]) == 0:
                with span("HybridBFO.dispersal"):
                    self._disperse()

    def _reproduce(self) -> None:
        """The healthier half splits; the best of now is never lost."""
        state = self._state
        best = state.fitness.argmin(keepdim=True)
        living = foraging.reproduction(state.health.index_fill(0, best, -torch.inf))
        state.positions = state.positions.index_select(0, living)
        state.fitness = state.fitness.index_select(0, living)
        state.momentum = state.momentum.index_select(0, living)
        state.square = state.square.index_select(0, living)
        state.seen = state.seen.index_select(0, living)
        state.pace = state.pace.index_select(0, living)
        state.health = torch.zeros_like(state.health)
        state.reproductions += 1

    def _disperse(self) -> None:
        """Some begin anew around the best, which stays."""
        state = self._state
        count, dimensions = state.positions.shape
        best = state.fitness.argmin(keepdim=True)
        leaves = (self._noise.uniform(count) < self.defaults["elim_prob"]).index_fill(0, best, False)
        around = state.positions.index_select(0, best) + self._initial_spread() * self._noise.normal(count, dimensions)
        here = leaves.unsqueeze(1)
        state.positions = torch.where(here, self._clip(around), state.positions)
        state.fitness = torch.where(leaves, torch.inf, state.fitness)
        state.momentum = torch.where(here, 0.0, state.momentum)
        state.square = torch.where(here, 0.0, state.square)
        state.seen = torch.where(leaves, 0.0, state.seen)
        state.eliminations = state.eliminations + leaves.sum()

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        count = state.positions.shape[0]
        length = self._layout.spread([float(group["lr"]) for group in self.param_groups])
        return {
            "step_size": state.pace.mean() * (length.mean() if isinstance(length, Tensor) else length),
            "elimination_probability": float(self.defaults["elim_prob"]),
            "tumble_success": state.improved / count,
            "swim_length": state.swum / count,
            "gradient_evaluations": float(state.with_gradient),
            "reproduction_count": float(state.reproductions),
            "elimination_count": state.eliminations,
        }
