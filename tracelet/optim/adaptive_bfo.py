"""AdaptiveBFO: bacterial foraging that learns its runs from what succeeded, with a swarm that follows a distribution."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from tracelet.optim import adaptive_compact, adaptive_masked, quorum, success_history
from tracelet.optim.adaptive_state import AdaptiveState, first_state, settled
from tracelet.optim.colony import FIXED
from tracelet.optim.population import PopulationOptimizer
from tracelet.optim.ranges import span
from tracelet.optim.settings import Common, spelled

__all__ = ["AdaptiveBFO"]

QUORUM_EVERY = 20
DISPERSAL_EVERY = 10
SPLITTING_SHARE = 0.04
BEST_SHARE = 0.11


class AdaptiveBFO(PopulationOptimizer):
    """Bacterial foraging with learnt runs.

    The four events are those of foraging; what fills them is borrowed from the best of its peers, and named here. Foragers
    make *social tumbles*: towards one of the best, plus the difference of two others, with run lengths and shares of
    coordinates drawn around those that succeeded (SHADE, Tanabe & Fukunaga 2013). A swarm tumbles by *quorum*: its members
    are drawn from one normal distribution that follows their successes (separable CMA-ES, Ros & Hansen 2008), until it has
    nothing new to tell. What improved *swims* on, as often as swims have paid. The healthiest split now and then, who stagnates
    is dispersed, and with a known budget foragers are eliminated one by one (L-SHADE, Tanabe & Fukunaga 2014).

    One `step()` is one round: P evaluations (with a known budget at first P of foragers, and those of the swarm), up to
    `swim_length` more for those that swim, and one for the incumbent; on a device (`decisions="device"`) every swim evaluates
    all foragers, so prefer `decisions="host"` there for expensive objectives.

    Args:
        params: tensors, named tensors or groups.
        population_size: P, at least 8: foragers and swarmers together; with a known budget the foragers at its beginning.
        chem_steps: rounds between two reproductions, also spelled `chemotaxis_steps`.
        swim_length: most swims after a tumble.
        elim_prob: probability of dispersal in each round, for a bacterium that stagnates, also `elimination_prob`; every tenth
            round decides for ten.
        adaptation_rate: width of the draws around the memories of run lengths and shares.
        step_size_max: factor of the foragers' run lengths (which are learnt, and relative to the distances between them). The
            swarm's width is its own.
        lr: another one: what torch's schedulers change.
        stagnation_limit: rounds without improvement after which a bacterium may be dispersed.
        min_population_size: foragers left at the end of a known budget (`max_evaluations`).
        memory_size: slots of the success memories.
        archive_rate: rows of the archive, for each forager.
        use_swarming: whether there is a swarm, also `enable_swarming`.
        **common: see `PopulationOptimizer`.
    """

    _state_class = AdaptiveState
    _fixed = FIXED | {"use_swarming", "memory_size"}
    _pooled: Tensor | None = None
    _rows: Tensor | None = None
    _sizes: Tensor
    _sized: tuple[float, ...] = ()

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
        spread = self._initial_spread()
        deviations = spread if isinstance(spread, Tensor) else positions.new_full((positions.shape[1],), spread)
        settings = self.defaults
        return first_state(
            base,
            self._origin,
            deviations,
            settings["memory_size"],
            settings["archive_rate"],
            self._swarmers(),
            self._host,
        )

    def _resumed(self) -> None:
        settled(self._state, self._host)

    # -- the round --------------------------------------------------------------------------------------------------------

    def _parents_judged(self) -> bool:
        state = self._state
        # Foragers that become fewer begin as many (as in L-SHADE): the swarm is beside them then, and else one of them.
        if state.rounds == 0 and state.swarm and self.defaults["max_evaluations"] is None:
            size = int(self.defaults["population_size"])
            self._keep(state.fitness.argsort(stable=True)[: size - state.swarm])
        state.phase = "tumble"
        return False

    def _propose(self) -> Tensor:
        state = self._state
        if state.phase == "swim":
            with span("AdaptiveBFO.swim"):
                if self._host:
                    return self._kept_inside(state.places + state.direction, state.places)
                trial = state.positions + state.direction * state.moving.unsqueeze(1)
                return self._kept_inside(trial, state.positions)
        with span("AdaptiveBFO.tumble"):
            return self._tumbled()

    def _tumbled(self) -> Tensor:
        """The foragers' social tumbles, and behind them the swarm's samples."""
        state = self._state
        count, dimensions = state.positions.shape
        points = state.positions.new_empty(count + state.swarm, dimensions)
        trial = points[:count]
        torch.add(state.positions, self._runs(), out=trial)
        if not state.swarm:
            return self._kept_inside(trial, state.positions)
        state.draws = self._noise.normal(state.swarm, dimensions)
        deviation = state.variances.sqrt() * state.sigma
        sample = points[count:]
        torch.addcmul(state.mean, deviation, state.draws, out=sample)
        if self._limits is None:
            return points
        clipped = points.clamp(*self._limits)
        if self._host and torch.equal(clipped, points):
            state.clipped = False
            return points
        state.clipped = not self._host or not torch.equal(clipped[count:], sample)
        success_history.half_way(trial, clipped[:count], state.positions)
        return clipped

    def _runs(self) -> Tensor:
        """Where to and how far each forager tumbles, (n, D)."""
        state, settings = self._state, self.defaults
        count, dimensions = state.positions.shape
        numbers = self._noise.uniform(6 * count + 2)
        state.chances = numbers[6 * count :]
        best = max(2, round(BEST_SHARE * count))
        sizes = (settings["memory_size"], best, count - 1, count - 2, dimensions)
        whole = self._whole(numbers[: 5 * count].view(5, count), sizes)
        slots, place, one, two, always = whole.unbind(0)
        state.used = self._update(success_history.drawn)(
            state.memory,
            slots,
            numbers[5 * count : 6 * count],
            self._noise.normal(2, count),
            settings["adaptation_rate"],
        )
        one, two = self._update(success_history.partners)(one, two, count + state.held)
        length, share = state.used.unbind(0)
        direction: Tensor = self._update(success_history.social_tumble)(
            state.positions,
            self._pool(),
            state.fitness.topk(best, largest=False, sorted=False).indices.index_select(0, place),
            one,
            two,
            length,
            self._update(success_history.chosen)(self._noise.coordinates(count, dimensions), share, always),
        )
        factors = [group["step_size_max"] * float(group["lr"]) for group in self.param_groups]
        return direction if set(factors) == {1.0} else direction.mul_(self._layout.spread(factors))

    def _whole(self, uniform: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1) as whole ones below some sizes; the fourth row's is larger by the filled rows of the archive."""
        held = self._state.held
        key = (*sizes, float(held) if self._host else 0.0)
        if key != self._sized:
            many = [float(size) for size in sizes]
            many[3] += key[-1]
            self._sized, self._sizes = key, uniform.new_tensor(many).unsqueeze(1)
        if self._host:
            return (uniform * self._sizes).long()
        more = torch.zeros_like(self._sizes)
        more[3] = held
        return (uniform * (self._sizes + more)).long()

    def _pool(self) -> Tensor:
        """Foragers and archive as one tensor, (n + A, D); where they are changed in place it is made only once."""
        state = self._state
        if not self._host:
            return torch.cat((state.positions, state.archive))
        if self._pooled is None or state.positions is not self._rows:
            self._pooled = torch.cat((state.positions, state.archive))
            count = state.positions.shape[0]
            self._rows = state.positions = self._pooled[:count]
            state.archive = self._pooled[count:]
        return self._pooled

    def _kept_inside(self, points: Tensor, positions: Tensor) -> Tensor:
        if self._limits is None:
            return points
        clamped = points.clamp(*self._limits)
        if self._host and torch.equal(clamped, points):
            return points
        return success_history.half_way(points, clamped, positions)

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        if state.phase == "tumble":
            with span("AdaptiveBFO.tumble"):
                self._select(points, fitness)
            state.phase = "swim"
            state.swims = 0
        else:
            state.swims += 1
            with span("AdaptiveBFO.swim"):
                if self._host:
                    adaptive_compact.swim(state, points, fitness)
                else:
                    adaptive_masked.swim(state, points, fitness)
        if state.swims < self.defaults["swim_length"] and (not self._host or state.moving.shape[0] > 0):
            return False
        self._end_round()
        return True

    def _select(self, points: Tensor, fitness: Tensor) -> None:
        state = self._state
        if state.swarm:
            count = state.positions.shape[0]
            sample, its_fitness = points[count:], fitness[count:]
            points, fitness = points[:count], fitness[:count]
            if self._host:
                quorum.follow_few(state, sample, its_fitness)
            else:
                quorum.follow(state, sample, its_fitness, self._update)
        if self._host:
            adaptive_compact.select(state, points, fitness)
        else:
            adaptive_masked.select(state, points, fitness, self._update)

    # -- between rounds ---------------------------------------------------------------------------------------------------

    def _end_round(self) -> None:
        state, settings = self._state, self.defaults
        if self._host:
            adaptive_compact.count_swims(state)
            state.health.add_(state.fitness)
        else:
            adaptive_masked.count_swims(state)
            state.health = state.health + state.fitness
        state.rounds += 1
        state.phase = "tumble"
        if state.rounds % settings["chem_steps"] == 0:
            with span("AdaptiveBFO.reproduction"):
                self._reproduce()
        if state.rounds % DISPERSAL_EVERY == 0:
            with span("AdaptiveBFO.dispersal"):
                self._disperse()
        if settings["max_evaluations"] is not None:
            self._eliminate(settings["max_evaluations"])
        # The one place that reads a number from a device: every twenty rounds, while there is a swarm.
        if state.swarm and state.rounds % QUORUM_EVERY == 0 and quorum.has_nothing_new(state, QUORUM_EVERY):
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
        state.improved_at = state.improved_at.index_select(0, source)
        state.health = torch.zeros_like(state.health)
        state.reproductions += 1

    def _disperse(self) -> None:
        """Who stagnates may be carried away; the next tumble judges where to, as anything is better than unknown."""
        state, settings = self._state, self.defaults
        count = state.positions.shape[0]
        # The chance of as many rounds: a device has to compute a place for everybody, whoever goes there.
        chance = 1 - (1 - settings["elim_prob"]) ** DISPERSAL_EVERY
        leaves = self._noise.uniform(count) < chance
        where = self._uniform(count)
        leaves &= state.improved_at < state.rounds - settings["stagnation_limit"]
        leaves &= state.fitness > state.fitness.min()
        if self._host and not bool(leaves.any()):
            return
        state.positions = torch.where(leaves.unsqueeze(1), where, state.positions)
        state.fitness = torch.where(leaves, torch.inf, state.fitness)
        state.improved_at = state.improved_at.masked_fill(leaves, state.rounds)
        gone = leaves.sum()
        state.eliminations = state.eliminations + (int(gone) if self._host else gone)

    def _eliminate(self, maximum: int) -> None:
        """Fewer foragers towards the end of a known budget."""
        state = self._state
        first = int(self.defaults["population_size"])
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
        state.improved_at = state.improved_at.index_select(0, which)
        room = max(which.numel(), int(self.defaults["archive_rate"] * which.numel()))
        state.archive = state.archive[:room]
        state.held = min(state.held, room) if isinstance(state.held, int) else state.held.clamp(max=room)

    def _own_status(self) -> dict[str, Any]:
        state = self._state
        count = state.positions.shape[0]
        return {
            "step_size": state.memory[0].mean(),
            "coordinate_share": state.memory[1].clamp(min=0).mean(),
            "elimination_probability": float(self.defaults["elim_prob"]),
            "tumble_success": state.improved / count,
            "swim_length": state.swum / count,
            "swim_probability": (adaptive_compact if self._host else adaptive_masked).swim_probability(state),
            "swarm_size": float(state.swarm),
            "swarm_sigma": state.sigma,
            "reproduction_count": float(state.reproductions),
            "elimination_count": state.eliminations,
        }
