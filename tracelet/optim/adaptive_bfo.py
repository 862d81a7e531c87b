"""AdaptiveBFO: bacterial foraging that learns its runs from what succeeded, with a swarm that follows a distribution."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim import quorum, success_history
from tracelet.optim.adaptive_state import AdaptiveState
from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.settings import Common, spelled

__all__ = ["AdaptiveBFO"]

QUORUM_EVERY = 20
SPLITTING_SHARE = 0.04
BEST_SHARE = 0.11
LEAST_SWIMS = 0.05
AVERAGING = 0.1


class AdaptiveBFO(PopulationOptimizer):
    """Bacterial foraging with learnt runs.

    The four events are those of foraging; what fills them is borrowed from the best of its peers, and named here. Foragers
    make *social tumbles*: towards one of the best, plus the difference of two others, with run lengths and shares of
    coordinates drawn around those that succeeded (SHADE, Tanabe & Fukunaga 2013). A swarm tumbles by *quorum*: its members
    are drawn from one normal distribution that follows their successes (separable CMA-ES, Ros & Hansen 2008), until it has
    nothing new to tell. What improved *swims* on, as often as swims have paid. The healthiest split now and then, who stagnates
    is dispersed, and with a known budget foragers are eliminated one by one (L-SHADE, Tanabe & Fukunaga 2014).

    One `step()` is one round: P evaluations, up to `swim_length` more for those that swim, and one for the incumbent; on a
    device (`decisions="device"`) every swim evaluates all foragers, so prefer `decisions="host"` there for expensive
    objectives.

    Args:
        params: tensors, named tensors or groups.
        population_size: P, at least 8: foragers and swarmers together.
        chem_steps: rounds between two reproductions, also spelled `chemotaxis_steps`.
        swim_length: most swims after a tumble.
        elim_prob: probability of dispersal in each round, for a bacterium that stagnates; also `elimination_prob`.
        adaptation_rate: width of the draws around the memories of run lengths and shares.
        step_size_max: factor of all run lengths (which are learnt, and relative to the distances in the population).
        lr: another one: what torch's schedulers change.
        stagnation_limit: rounds without improvement after which a bacterium may be dispersed.
        min_population_size: foragers left at the end of a known budget (`max_evaluations`).
        memory_size: slots of the success memories.
        archive_rate: rows of the archive, for each forager.
        use_swarming: whether there is a swarm, also `enable_swarming`.
        **common: see `PopulationOptimizer`.
    """

    _state_class = AdaptiveState

    def __init__(
        self,
        params: Any,
        population_size: int = 50,
        chem_steps: int = 100,
        swim_length: int = 4,
        elim_prob: float = 0.05,
        adaptation_rate: float = 0.1,
        step_size_max: float = 1.0,
        *,
        lr: float = 1.0,
        stagnation_limit: int = 60,
        min_population_size: int = 4,
        memory_size: int = 6,
        archive_rate: float = 1.4,
        use_swarming: bool = True,
        **common: Unpack[Common],
    ) -> None:
        settings = {
            "population_size": population_size,
            "chem_steps": chem_steps,
            "swim_length": swim_length,
            "elim_prob": elim_prob,
            "adaptation_rate": adaptation_rate,
            "step_size_max": step_size_max,
            "lr": lr,
            "stagnation_limit": stagnation_limit,
            "min_population_size": min_population_size,
            "memory_size": memory_size,
            "archive_rate": archive_rate,
            "use_swarming": use_swarming,
        }
        given = dict(common)
        spelled(given, settings)
        if population_size < 8:
            raise ValueError(f"population_size of AdaptiveBFO is at least 8, not {population_size}")
        if min_population_size < 4:
            raise ValueError(f"min_population_size is at least 4, not {min_population_size}")
        super().__init__(params, settings, given)

    @property
    def _state(self) -> AdaptiveState:
        return cast(AdaptiveState, self._known)

    def _swarmers(self) -> int:
        """S: as many as CMA-ES would take, at most half of the population, and never so many that 4 foragers are not left."""
        size = int(self.defaults["population_size"])
        if not self.defaults["use_swarming"]:
            return 0
        return min(round(4 + 3 * math.log(self._layout.dimensions)), size // 2)

    def _begin(self, base: dict[str, Any]) -> AdaptiveState:
        positions: Tensor = base["positions"]
        count, dimensions = positions.shape
        like = base["nonfinite"]
        self._nothing = like.clone()
        memory = positions.new_full((2, self.defaults["memory_size"]), 0.5)
        whole = torch.zeros((), dtype=torch.int64, device=positions.device)
        spread = self._initial_spread()
        deviations = spread if isinstance(spread, Tensor) else positions.new_full((dimensions,), spread)
        return AdaptiveState(
            **base,
            health=torch.zeros_like(base["fitness"]),
            stagnation=whole.expand(count).clone(),
            archive=positions.new_zeros((max(count, int(self.defaults["archive_rate"] * count)), dimensions)),
            held=whole.clone(),
            memory=memory,
            used=positions.new_zeros(2, count),
            direction=torch.zeros_like(positions),
            coordinates=positions.new_zeros(0, dimensions),
            moving=whole.expand(0).clone(),
            chances=positions.new_zeros(3, count),
            draws=positions.new_zeros(0, dimensions),
            slot=whole.clone(),
            tumble_gain=like.clone(),
            swim_gain=like.clone(),
            improved=like.clone(),
            swum=like.clone(),
            gained=like.clone(),
            swarm=self._swarmers(),
            mean=self._origin.clone(),
            sigma=positions.new_ones(()),
            variances=deviations.square(),
            path_sigma=positions.new_zeros(dimensions),
            path=positions.new_zeros(dimensions),
            swarm_best=like + torch.inf,
            swarm_place=self._origin.clone(),
            swarm_stale=whole.clone(),
            eliminations=whole.clone(),
        )

    # -- the round --------------------------------------------------------------------------------------------------------

    def _parents_judged(self) -> bool:
        state = self._state
        size = int(self.defaults["population_size"])
        if state.rounds == 0 and state.positions.shape[0] == size and state.swarm:
            best = state.fitness.argsort(stable=True)[: size - state.swarm]
            self._keep(best)
        state.phase = "tumble"
        return False

    def _propose(self) -> Tensor:
        state = self._state
        if state.phase == "swim":
            if self._host:
                here = state.positions.index_select(0, state.moving)
                return self._kept_inside(here + state.direction.index_select(0, state.moving), here)
            trial = state.positions + state.direction * state.moving.unsqueeze(1)
            return self._kept_inside(trial, state.positions)
        points = self._foraged()
        if not state.swarm:
            return points
        state.draws = self._noise.normal(state.swarm, self._layout.dimensions)
        sample = torch.addcmul(state.mean, state.sigma * state.variances.sqrt(), state.draws)
        if self._limits is None:
            return torch.cat((points, sample))
        clipped = sample.clamp(*self._limits)
        state.clipped = not self._host or not torch.equal(clipped, sample)
        return torch.cat((points, clipped))

    def _foraged(self) -> Tensor:
        """The foragers' trials."""
        state = self._state
        count, dimensions = state.positions.shape
        uniform = self._noise.uniform(9, count)
        state.chances = uniform[6:]
        state.coordinates = self._noise.uniform(count, dimensions)
        state.used = self._update(success_history.drawn)(
            state.memory, uniform[:2], self._noise.normal(count), self.defaults["adaptation_rate"]
        )
        direction = self._update(success_history.social_tumble)(
            state.positions,
            state.archive,
            state.held,
            state.fitness.argsort(stable=True),
            state.used[0],
            state.used[1],
            uniform[2:6],
            state.coordinates,
            BEST_SHARE,
        )
        factor = self._layout.spread([group["step_size_max"] * float(group["lr"]) for group in self.param_groups])
        state.direction = direction.mul_(factor)
        trial = state.positions + state.direction
        points = self._kept_inside(trial, state.positions)
        if points is not trial:
            state.direction = points - state.positions
        return points

    def _kept_inside(self, points: Tensor, positions: Tensor) -> Tensor:
        if self._limits is None or (self._host and torch.equal(points.clamp(*self._limits), points)):
            return points
        return success_history.inside(points, positions, *self._limits)

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        if state.phase == "tumble":
            count = state.positions.shape[0]
            if state.swarm:
                quorum.follow(state, points[count:], fitness[count:], self._update)
            self._select(points[:count], fitness[:count])
            state.phase = "swim"
            state.swims = 0
        else:
            state.swims += 1
            self._swim(points, fitness)
        if state.swims < self.defaults["swim_length"] and (not self._host or state.moving.numel() > 0):
            return False
        self._end_round()
        return True

    def _select(self, points: Tensor, fitness: Tensor) -> None:
        """Foragers take what is better, and remember how they came there."""
        state = self._state
        better = fitness < state.fitness
        state.gained = state.swum = self._nothing
        if self._host:
            self._select_few(points, fitness, better.nonzero().squeeze(1))
            return
        # What was not known before is no gain.
        gain = torch.nan_to_num(state.fitness - fitness, nan=0.0, posinf=0.0, neginf=0.0).clamp_(min=0.0)
        state.archive, state.held = self._update(success_history.archived)(
            state.archive, state.held, state.positions, better, state.chances[2, 0]
        )
        state.memory, state.slot = self._update(success_history.learnt)(state.memory, state.slot, state.used, gain)
        state.positions = torch.where(better.unsqueeze(1), points, state.positions)
        state.fitness = torch.where(better, fitness, state.fitness)
        state.stagnation = (state.stagnation + 1).masked_fill_(better, 0)
        state.tumble_gain = torch.lerp(state.tumble_gain, gain.mean(), AVERAGING)
        state.improved = better.sum().to(state.nonfinite)
        # All that improved swim in this round, or nobody: as many swims as if each had a chance of its own, in fewer batches.
        state.moving = better & (state.chances[0, 0] < self._swim_probability())

    def _select_few(self, points: Tensor, fitness: Tensor, who: Tensor) -> None:
        """The same where the host may know who improved: only their rows are touched."""
        state = self._state
        count, successes = state.positions.shape[0], who.numel()
        state.stagnation += 1
        state.improved = state.improved.new_full((), successes)
        state.moving = who
        if not successes:
            state.tumble_gain = state.tumble_gain * (1 - AVERAGING)
            return
        before = state.positions.index_select(0, who)
        success_history.archived_few(state.archive, state.held, before, float(state.chances[2, 0]))
        now = fitness.index_select(0, who)
        gain = torch.nan_to_num(state.fitness.index_select(0, who) - now, nan=0.0, posinf=0.0, neginf=0.0)
        used = state.used.index_select(1, who)
        state.memory, state.slot = self._update(success_history.learnt)(state.memory, state.slot, used, gain)
        state.positions.index_copy_(0, who, points.index_select(0, who))
        state.fitness.index_copy_(0, who, now)
        state.stagnation.index_fill_(0, who, 0)
        state.tumble_gain = torch.lerp(state.tumble_gain, gain.sum() / count, AVERAGING)
        if float(state.chances[0, 0]) >= float(self._swim_probability()):
            state.moving = who[:0]

    def _swim_probability(self) -> Tensor | float:
        """How well an evaluation pays in a swim, relative to a tumble."""
        state = self._state
        unknown = 1.0 if state.rounds < 20 else LEAST_SWIMS
        if self._host:
            swims, tumbles = state.swim_gain.item(), state.tumble_gain.item()
            return min(1.0, max(LEAST_SWIMS, swims / tumbles)) if swims > 0 and tumbles > 0 else unknown
        ratio = (state.swim_gain / state.tumble_gain).clamp(LEAST_SWIMS, 1.0)
        return torch.where((state.swim_gain > 0) & (state.tumble_gain > 0), ratio, unknown)

    def _swim(self, points: Tensor, fitness: Tensor) -> None:
        """Who still improves goes on."""
        state = self._state
        moving = state.moving
        if not self._host:
            better = moving & (fitness < state.fitness)
            gain = torch.where(better, state.fitness - fitness, 0.0)
            state.positions = torch.where(better.unsqueeze(1), points, state.positions)
            state.fitness = torch.where(better, fitness, state.fitness)
            state.moving = better
            state.swum = state.swum + moving.sum()
            state.gained = state.gained + gain.sum()
            return
        before = state.fitness.index_select(0, moving)
        better = fitness < before
        state.swum = state.swum + moving.numel()
        gain = torch.where(better, before - fitness, 0.0)
        state.gained = state.gained + gain.sum()
        here = better.nonzero().squeeze(1)
        state.moving = moving.index_select(0, here)
        state.positions.index_copy_(0, state.moving, points.index_select(0, here))
        state.fitness.index_copy_(0, state.moving, fitness.index_select(0, here))

    # -- between rounds ---------------------------------------------------------------------------------------------------

    def _end_round(self) -> None:
        state, settings = self._state, self.defaults
        if not self._host or state.swims:
            paid = torch.where(torch.isinf(state.gained), 0.0, state.gained) / state.swum.clamp(min=1)
            share = torch.where(state.swum > 0, AVERAGING, 0.0)
            state.swim_gain = torch.lerp(state.swim_gain, paid, share)
        state.health = state.health + state.fitness
        state.rounds += 1
        state.phase = "tumble"
        if state.rounds % settings["chem_steps"] == 0:
            self._reproduce()
        self._disperse()
        if settings["max_evaluations"] is not None:
            self._eliminate(settings["max_evaluations"])
        # The one place that reads a number from a device: every twenty rounds, while there is a swarm.
        if state.swarm and state.rounds % QUORUM_EVERY == 0 and bool(quorum.has_nothing_new(state, QUORUM_EVERY)):
            quorum.release(state)

    def _reproduce(self) -> None:
        """The healthiest split over the least healthy."""
        state = self._state
        count = state.positions.shape[0]
        splitting = max(1, round(SPLITTING_SHARE * count))
        order = state.health.argsort(stable=True)
        source = torch.arange(count, device=order.device)
        source = source.scatter(0, order[count - splitting :], order[:splitting])
        state.positions = state.positions.index_select(0, source)
        state.fitness = state.fitness.index_select(0, source)
        state.stagnation = state.stagnation.index_select(0, source)
        state.health = torch.zeros_like(state.health)
        state.reproductions += 1

    def _disperse(self) -> None:
        """Who stagnates may be carried away; the next tumble judges where to, as anything is better than unknown."""
        state = self._state
        limit = self.defaults["stagnation_limit"]
        if self._host and state.stagnation.max().item() <= limit:
            return
        stuck = state.stagnation > limit
        leaves = stuck & (state.chances[1] < self.defaults["elim_prob"]) & (state.fitness > state.fitness.min())
        if self._host and not bool(leaves.any()):
            return
        # Numbers that this round has used up elsewhere: drawing others would cost as much as a tumble, in every round.
        state.positions = torch.where(leaves.unsqueeze(1), self._placed(state.coordinates), state.positions)
        state.fitness = torch.where(leaves, torch.inf, state.fitness)
        state.stagnation = torch.where(leaves, 0, state.stagnation)
        state.eliminations = state.eliminations + leaves.sum()

    def _eliminate(self, maximum: int) -> None:
        """Fewer foragers towards the end of a known budget."""
        state = self._state
        first = int(self.defaults["population_size"]) - self._swarmers()
        last = min(int(self.defaults["min_population_size"]), first)
        done = min(1.0, state.evaluations / maximum)
        count = round(first + (last - first) * done)
        if count < state.positions.shape[0]:
            self._keep(state.fitness.argsort(stable=True)[:count].sort().values)

    def _keep(self, which: Tensor) -> None:
        state = self._state
        state.positions = state.positions.index_select(0, which)
        state.fitness = state.fitness.index_select(0, which)
        state.health = state.health.index_select(0, which)
        state.stagnation = state.stagnation.index_select(0, which)
        room = max(which.numel(), int(self.defaults["archive_rate"] * which.numel()))
        state.archive = state.archive[:room]
        state.held = state.held.clamp(max=room)
        state.chances = state.chances[:, : which.numel()]
        state.coordinates = state.coordinates[: which.numel()]

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        count = state.positions.shape[0]
        return {
            "step_size": state.memory[0].mean(),
            "coordinate_share": state.memory[1].clamp(min=0).mean(),
            "elimination_probability": float(self.defaults["elim_prob"]),
            "tumble_success": state.improved / count,
            "swim_length": state.swum / count,
            "swim_probability": self._swim_probability(),
            "swarm_size": float(state.swarm),
            "swarm_sigma": state.sigma,
            "reproduction_count": float(state.reproductions),
            "elimination_count": state.eliminations,
        }
