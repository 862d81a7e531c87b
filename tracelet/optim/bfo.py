"""BFO: canonical bacterial foraging optimization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim import foraging
from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.ranges import span
from tracelet.optim.settings import Common, spelled
from tracelet.optim.state import State

__all__ = ["BFO"]


@dataclass(kw_only=True)
class BFOState(State):
    """What BFO remembers.

    Attributes:
        cost: J = fitness + swarming, of each position, (P,).
        health: J summed over the rounds since the last reproduction, (P,).
        direction: of this round's runs, (P, D).
        moving: who swims next: indices on the host, a mask on a device.
        colony: where everybody was when the round began (with swarming), (P, D).
        swims: done in this round.
        improved: how many the tumble has improved, in this round.
        swum: how many swims were taken, in this round.
        reproductions: so far.
        eliminations: bacteria dispersed so far.
    """

    cost: Tensor
    health: Tensor
    direction: Tensor
    moving: Tensor
    colony: Tensor | None = None
    swims: int = 0
    improved: float | Tensor = 0.0
    swum: float | Tensor = 0.0
    reproductions: int = 0
    eliminations: float | Tensor = 0.0


class BFO(PopulationOptimizer):
    """Canonical bacterial foraging optimization (Passino 2002), all bacteria at once.

    One `step()` is one chemotactic round: every bacterium tumbles, and swims on while it improves; P to P·(1 + swim_length)
    evaluations, and one for the incumbent. Every `chem_steps` rounds the half with the lower accumulated cost splits and the
    other dies; every `chem_steps · repro_steps` rounds each bacterium is dispersed with probability `elim_prob`, and all are
    judged anew (P more). The first step judges the first positions (P more).

    It is the baseline that it is: without a gradient and without learning it finds little in many dimensions. Prefer
    `AdaptiveBFO`.

    Args:
        params: tensors, named tensors or groups.
        population_size: P.
        chem_steps: rounds between two reproductions (N_c), also spelled `chemotaxis_steps`.
        swim_length: most swims after a tumble (N_s).
        repro_steps: reproductions between two dispersals (N_re), also `reproduction_steps`.
        elim_steps: dispersals in a cycle (N_ed), also `elimination_steps`.
        elim_prob: probability of dispersal (p_ed), also `elimination_prob`.
        step_size_max: length C of a run, in the units of the parameters.
        step_size_min: below which no schedule takes it.
        step_schedule: "constant"; "linear" or "cosine" from `step_size_max` to `step_size_min` over `max_evaluations`; or
            "dasgupta", C |J| / (|J| + step_scale).
        step_scale: lambda of "dasgupta", in the units of the loss.
        lr: factor of the run length: what torch's schedulers change.
        tumble: distribution of directions: "uniform" in the cube as Passino has it, "gaussian", or "levy", whose lengths
            are those of a Lévy flight.
        levy_alpha: its index, in (0, 2).
        use_swarming: add cell-to-cell signalling to the cost, also `enable_swarming`.
        swarming_params: depth and width of the attractant, height and width of the repellent, over distance² / D.
        unit: what a step is: "chemotaxis", one round; or "cycle", all `chem_steps · repro_steps · elim_steps` of them, which
            with the defaults are about 10,000 evaluations.
        **common: see `PopulationOptimizer`.
    """

    _state_class = BFOState
    _centred: tuple[Tensor, Tensor, Tensor]
    _centred_of: Tensor | None = None

    def __init__(
        self,
        params: Any,
        population_size: int = 50,
        chem_steps: int = 10,
        swim_length: int = 4,
        repro_steps: int = 4,
        elim_steps: int = 2,
        elim_prob: float = 0.25,
        step_size_max: float = 0.1,
        step_size_min: float = 0.0,
        *,
        step_schedule: str = "constant",
        step_scale: float = 400.0,
        lr: float = 1.0,
        tumble: str = "uniform",
        levy_alpha: float = 1.5,
        use_swarming: bool = False,
        swarming_params: tuple[float, float, float, float] = (0.1, 0.2, 0.1, 10.0),
        unit: str = "chemotaxis",
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "population_size": population_size,
            "chem_steps": chem_steps,
            "swim_length": swim_length,
            "repro_steps": repro_steps,
            "elim_steps": elim_steps,
            "elim_prob": elim_prob,
            "step_size_max": step_size_max,
            "step_size_min": step_size_min,
            "step_schedule": step_schedule,
            "step_scale": step_scale,
            "lr": lr,
            "tumble": tumble,
            "levy_alpha": levy_alpha,
            "use_swarming": use_swarming,
            "swarming_params": tuple(swarming_params),
            "unit": unit,
        }
        given = dict(common)
        spelled(given, settings)
        if step_schedule in ("linear", "cosine") and given.get("max_evaluations") is None:
            raise ValueError(f"step_schedule={step_schedule!r} runs over max_evaluations, which is not given")
        super().__init__(params, settings, given)

    @property
    def _state(self) -> BFOState:
        return cast(BFOState, self._known)

    def _begin(self, base: dict[str, Any]) -> BFOState:
        positions: Tensor = base["positions"]
        return BFOState(
            **base,
            cost=base["fitness"].clone(),
            health=torch.zeros_like(base["fitness"]),
            direction=torch.zeros_like(positions),
            moving=torch.zeros(0, dtype=torch.int64, device=positions.device),
        )

    # -- the round --------------------------------------------------------------------------------------------------------

    def _propose(self) -> Tensor:
        state = self._state
        if state.phase == "tumble":
            with span("BFO.tumble"):
                if self.defaults["use_swarming"]:
                    state.colony = state.positions
                    state.cost = state.fitness + self._signal(None, None)
                elif state.colony is not None:  # it was switched off
                    state.colony, state.cost = None, state.fitness.clone()
                state.direction = self._tumbled()
                return self._clip(state.positions + state.direction)
        with span("BFO.swim"):
            if self._host:
                here = state.positions.index_select(0, state.moving)
                return self._clip(here.add_(state.direction.index_select(0, state.moving)))
            return self._clip(state.positions + state.direction * state.moving.unsqueeze(1))

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        own = state.moving if state.phase == "swim" and self._host else None
        cost = fitness + self._signal(points, own) if state.colony is not None else fitness
        if state.phase == "tumble":
            with span("BFO.tumble"):
                self._take_tumbles(points, fitness, cost)
        else:
            state.swims += 1
            with span("BFO.swim"):
                self._swim(points, fitness, cost)
        if state.swims < self.defaults["swim_length"] and (not self._host or state.moving.shape[0] > 0):
            return False
        return self._end_round()

    def _take_tumbles(self, points: Tensor, fitness: Tensor, cost: Tensor) -> None:
        state = self._state
        better = cost < state.cost
        state.positions, state.fitness, state.cost = points, fitness, cost
        state.moving = better.nonzero().squeeze_(1) if self._host else better
        state.improved = float(state.moving.shape[0]) if self._host else better.sum()
        state.swims, state.swum, state.phase = 0, 0.0, "swim"
        if not self._host:  # what follows changes these in place on the host only
            state.swum = torch.zeros_like(state.nonfinite)

    def _swim(self, points: Tensor, fitness: Tensor, cost: Tensor) -> None:
        state = self._state
        if not self._host:
            state.swum = state.swum + state.moving.sum()
            state.positions, state.fitness, state.cost, state.moving = self._update(foraging.swim)(
                state.moving, points, fitness, cost, state.positions, state.fitness, state.cost
            )
            return
        moving = state.moving
        state.swum += float(moving.numel())
        better = cost < state.cost.index_select(0, moving)
        state.positions.index_copy_(0, moving, points)
        state.cost.index_copy_(0, moving, cost)
        if state.fitness is not state.cost:
            state.fitness.index_copy_(0, moving, fitness)
        state.moving = moving[better]

    def _end_round(self) -> bool:
        state, settings = self._state, self.defaults
        state.health = state.health + state.cost
        state.rounds += 1
        state.phase = "tumble"
        if state.rounds % settings["chem_steps"] == 0:
            with span("BFO.reproduction"):
                survivors = foraging.reproduction(state.health)
                state.positions = state.positions.index_select(0, survivors)
                state.fitness = state.fitness.index_select(0, survivors)
                state.cost = state.cost.index_select(0, survivors)
                state.health = torch.zeros_like(state.health)
                state.reproductions += 1
            if state.rounds % (settings["chem_steps"] * settings["repro_steps"]) == 0:
                with span("BFO.dispersal"):
                    self._disperse()
        cycle = settings["chem_steps"] * settings["repro_steps"] * settings["elim_steps"]
        return bool(settings["unit"] != "cycle" or state.rounds % cycle == 0)

    def _disperse(self) -> None:
        state = self._state
        count = state.positions.shape[0]
        leaves = self._noise.uniform(count, 1) < self.defaults["elim_prob"]
        state.positions = torch.where(leaves, self._uniform(count), state.positions)
        state.eliminations = state.eliminations + (float(leaves.sum()) if self._host else leaves.sum())
        state.phase = "parents"

    def _parents_judged(self) -> bool:
        state = self._state
        state.cost = state.fitness
        state.phase = "tumble"
        return False

    # -- lengths and signals ----------------------------------------------------------------------------------------------

    def _tumbled(self) -> Tensor:
        state, shape = self._state, self._state.positions.shape
        kind = self.defaults["tumble"]
        noise = self._noise.symmetric(*shape) if kind == "uniform" else self._noise.normal(*shape)
        length = self._length()
        if self.defaults["step_schedule"] == "dasgupta":
            length = length * foraging.adaptive_length(state.cost, self.defaults["step_scale"]).to(noise.dtype)
        if kind == "levy":
            length = length * self._noise.levy(shape[0], self.defaults["levy_alpha"])
        if isinstance(length, Tensor) and length.dim() == 2 and length.shape[1] > 1:  # per bacterium and coordinate
            return foraging.tumble(noise, 1.0) * length
        return self._update(foraging.tumble)(noise, length)  # type: ignore[no-any-return]

    def _length(self) -> float | Tensor:
        """C of every group, as the schedules have it now."""
        share = 1.0
        schedule, maximum = self.defaults["step_schedule"], self.defaults["max_evaluations"]
        if schedule in ("linear", "cosine") and maximum:
            done = min(1.0, self._state.evaluations / maximum)
            share = 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        lengths = []
        for group in self.param_groups:
            least = group["step_size_min"]
            lengths.append(max(least, (least + (group["step_size_max"] - least) * share) * float(group["lr"])))
        return self._layout.spread(lengths)

    def _signal(self, points: Tensor | None, own: Tensor | None) -> Tensor:
        colony = self._state.colony
        assert colony is not None
        if self._centred_of is not colony:
            self._centred_of, self._centred = colony, self._update(foraging.centred)(colony)
        signal: Tensor = self._update(foraging.swarming_cost)(
            points, self._centred, own, *self.defaults["swarming_params"]
        )
        return signal.to(self._layout.fitness_dtype)

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        count = state.positions.shape[0]
        length = self._length()
        return {
            "step_size": length.mean() if isinstance(length, Tensor) else length,
            "elimination_probability": float(self.defaults["elim_prob"]),
            "tumble_success": state.improved / count,
            "swim_length": state.swum / count,
            "reproduction_count": float(state.reproductions),
            "elimination_count": state.eliminations,
        }
