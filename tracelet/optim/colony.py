"""What every population optimizer is: settings, a joint search space, a first population, readings and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from tracelet.optim.layout import Layout
from tracelet.optim.noise import Noise, default_seed
from tracelet.optim.settings import COMMON, OBJECTS, PER_GROUP, checked, reconcile
from tracelet.optim.sharding import Shard
from tracelet.optim.state import State, pack, refuse_others, unpack
from tracelet.optim.status import Status, diversity, measure

__all__ = ["Colony"]

KEY = "population"
FIXED = frozenset({"population_size", "swarm_size", "init", "decisions"})
MIDDLE = ("swim", "run")  # phases of a round that has begun


class Colony(Optimizer):
    """A population over an optimizer's parameters, before anything moves it; `PopulationOptimizer` does.

    Args:
        params: as `PopulationOptimizer` has them.
        defaults: the algorithm's own settings.
        common: those of all algorithms.
    """

    _state_class: type[State] = State
    _shared: dict[str, Any] | None = None
    _fixed: frozenset[str] = FIXED  # settings that the search begins with, and keeps
    _judges_parents = True  # whether the first positions are evaluated before the first round

    def __init__(self, params: Any, defaults: dict[str, Any], common: Mapping[str, Any]) -> None:
        if unknown := sorted(common.keys() - COMMON.keys()):
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {unknown[0]!r}")
        settings = {**COMMON, **common}
        objects = {name: settings.pop(name) for name in OBJECTS}
        defaults = {**defaults, **settings}
        checked(defaults)
        self._equip(objects)
        super().__init__(params, defaults)
        self._seen = dict(self.defaults)

    def _equip(self, objects: Mapping[str, Any]) -> None:
        """Everything beside the settings, as it is before the search begins."""
        self._generator: torch.Generator | None = objects["generator"]
        self._seed: int = default_seed() if objects["seed"] is None else int(objects["seed"])
        self._shard_kind: str | None = objects["shard"]
        self._process_group = objects["process_group"]
        self._device = torch.device(objects["device"]) if objects["device"] is not None else None
        self._compile_mode: str | None = objects["compile_mode"]
        self._compile_kwargs: dict[str, Any] = dict(objects["compile_kwargs"] or {})
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._known: State | None = None
        self.status = self._numbers = Status(self._measured, lambda: self._version)
        self._ended = False  # a step has, and nobody has heard of it
        self._version = 0
        if self._shard_kind not in (None, "population", "data"):
            raise ValueError(f"shard is 'population', 'data' or None, not {self._shard_kind!r}")

    def _begin(self, base: dict[str, Any]) -> State:
        """The first state, from the fields of `State`."""
        return self._state_class(**base)

    def _own_status(self) -> dict[str, Any]:
        """What only this algorithm has to tell: numbers, or tensors of shape ()."""
        return {}

    # -- start ------------------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> State:
        return cast(State, self._known)

    def _prepare(self) -> State:
        """Begin at the first use, when the parameters are where they stay; then take up edits of the settings."""
        if self._known is None:
            self._known = self._start()
        elif self._may_have_been_edited():
            if changed := reconcile(self.defaults, self.param_groups, self._seen):
                self._edited(changed)
                checked(self.defaults)
            self._seen = dict(self.defaults)
            self._shared = {name: value for name, value in self._seen.items() if name not in PER_GROUP}
        return self._known

    def _may_have_been_edited(self) -> bool:
        """`reconcile` looks at every setting of every group: too slow for every step."""
        if self._shared is None or self.defaults != self._seen:
            return True
        shared = self._shared.items()
        return not all(shared <= group.items() for group in self.param_groups)

    def _edited(self, names: Iterable[str]) -> None:
        """Settings were edited between two steps."""
        for name in names:
            if name in self._fixed:
                before, self.defaults[name] = self._seen[name], self._seen[name]
                for group in self.param_groups:
                    group[name] = before
                raise ValueError(f"{name} cannot change once the search has begun: it stays {before}")

    def _start(self) -> State:
        reconcile(self.defaults, self.param_groups, self._seen)
        for group in self.param_groups:
            checked(group)
        checked(self.defaults)
        self._seen = dict(self.defaults)
        self._layout = Layout(self.param_groups, self._device)
        self._shard = Shard(self._shard_kind, self._process_group)
        point = self._layout.read()
        self._seed = self._shard.agree(self._seed, point)
        self._noise = Noise(self._layout.device, self._layout.dtype, self._seed, self._generator)
        self._noisy = False
        self._host = self._reads_on_host()
        self._bounds = self._bounds_of_groups()
        self._limits = self._layout.bounds(self._bounds)
        if self._limits is not None:
            point = point.clamp(*self._limits)
        self._origin = point
        positions = self._first_positions(self._size())
        zero = torch.zeros((), dtype=self._layout.fitness_dtype, device=self._layout.device)
        phase = "parents" if self._judges_parents else "propose"
        base = {
            "positions": positions,
            "fitness": zero.expand(positions.shape[0]) + torch.inf,
            "best_position": point.clone(),
            "best_fitness": zero + torch.inf,
            "nonfinite": zero.clone(),
            "phase": phase,
        }
        self._known = None
        return self._begin(base)

    def _size(self) -> int:
        return int(self.defaults["population_size"])

    def _reads_on_host(self) -> bool:
        rule = self.defaults["decisions"]
        if rule != "auto":
            return bool(rule == "host")
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        # Ranks that share nothing may decide differently: then they still have to call their closures equally often.
        alone = self._shard_kind is not None or not several or torch.distributed.get_world_size() == 1
        return self._layout.device.type == "cpu" and alone

    def _first_positions(self, count: int) -> Tensor:
        """Where the population begins, (P, D): the parameters first, the others around them or anywhere."""
        positions = self._anywhere(count)
        positions[0] = self._origin
        return positions

    def _anywhere(self, count: int) -> Tensor:
        """Positions from the initial distribution, (count, D)."""
        if self.defaults["init"] == "uniform":
            return self._uniform(count)
        spread = self._initial_spread()
        return self._clip(self._origin + spread * self._noise.normal(count, self._layout.dimensions))

    def _uniform(self, count: int) -> Tensor:
        """Positions anywhere in the bounds; without bounds, from the initial distribution."""
        if self._limits is None or not all(group["bounds"] for group in self.param_groups):
            spread = self._initial_spread()
            return self._clip(self._origin + spread * self._noise.normal(count, self._layout.dimensions))
        return self._placed(self._noise.uniform(count, self._layout.dimensions))

    def _placed(self, numbers: Tensor) -> Tensor:
        """Positions anywhere in the bounds, without bounds of the initial distribution, from numbers in [0, 1)."""
        if self._limits is None or not all(group["bounds"] for group in self.param_groups):
            normal = torch.erfinv((2 * numbers - 1).clamp_(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
            return self._clip(self._origin + self._initial_spread() * normal)
        low, high = self._limits
        return self._clip(low + (high - low) * numbers)

    def _initial_spread(self) -> float | Tensor:
        spreads = []
        for group in self.param_groups:
            spread, bounds = group["init_std"], group["bounds"]
            spreads.append(spread if spread is not None else 0.2 * (bounds[1] - bounds[0]) if bounds else 0.1)
        return self._layout.spread(spreads)

    def _clip(self, points: Tensor) -> Tensor:
        return points if self._limits is None else points.clamp_(*self._limits)

    def _bounds_were_edited(self) -> bool:
        """Whether they are others than those that hold, and a round has not begun with these."""
        state = self._state
        return state.asked is None and state.phase not in MIDDLE and self._bounds != self._bounds_of_groups()

    def _bounds_of_groups(self) -> list[Any]:
        return [group["bounds"] for group in self.param_groups]

    def _move_inside(self) -> None:
        """Everybody goes inside the bounds as they are now, and is judged anew."""
        state = self._state
        for group in self.param_groups:
            checked(group)
        self._bounds = self._bounds_of_groups()
        self._limits = self._layout.bounds(self._bounds)
        if self._limits is None:
            return
        self._version += 1
        state.positions = state.positions.clamp(*self._limits)
        inside = state.best_position.clamp(*self._limits)
        # What has not moved keeps its fitness.
        state.best_fitness = state.best_fitness.masked_fill((inside != state.best_position).any(), torch.inf)
        state.best_position = inside
        if self._judges_parents:
            state.phase = "parents"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, before the first step.

        Raises:
            ValueError: after it: the population has its dimensions.
        """
        if self._known is not None:
            raise ValueError("groups cannot be added once the search has begun: the population has its dimensions")
        super().add_param_group(param_group)

    # -- what can be read -------------------------------------------------------------------------------------------------

    @property
    def population(self) -> Tensor:
        """Positions, (P, D)."""
        return self._prepare().positions

    @property
    def fitness(self) -> Tensor:
        """Fitness of the population, (P,); +inf where it is not known or not finite."""
        return self._prepare().fitness

    @property
    def best_fitness(self) -> float:
        """Loss of `best_params` when it was last judged; infinite before the first evaluation."""
        return float("inf") if self._known is None else self._known.best_fitness.item()

    @property
    def best_params(self) -> Tensor:
        """The incumbent, (D,), in the order of the parameters."""
        return self._prepare().best_position

    @property
    def evaluations(self) -> int:
        """How often the objective was evaluated, by all ranks together."""
        return 0 if self._known is None else self._known.evaluations

    def _compute_diversity(self) -> float:
        """Mean distance of the population to its centroid, in the units of the parameters."""
        return float(diversity(self.population))

    def _heard(self) -> tuple[State, Status] | None:
        """For who listens: the state and its numbers after a step, once for each; nothing is begun or changed by it."""
        ended, self._ended = self._ended, False
        return (self._known, self._numbers) if ended and self._known is not None else None

    def _measured(self, names: Collection[str] | None = None) -> dict[str, Any]:
        # Reading takes up no edit: that is for the next step, which may refuse it.
        state = self._prepare() if self._known is None else self._known
        measured = measure(state, self._limits, names)
        if names is None:
            return {**measured, **self._own_status()}
        if any(name not in measured for name in names):
            measured |= {name: value for name, value in self._own_status().items() if name in names}
        return measured

    # -- checkpoints ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything a search goes on from, bit for bit: plain numbers, texts and tensors that are copies.

        `torch.load` reads it with its defaults.
        """
        saved = super().state_dict()
        if self._known is not None:
            kept = {"class": type(self)._state_class.__name__, "seed": self._seed, "generator": self._noise.state()}
            kept |= {"origin": self._origin.clone(), "noisy": self._noisy, "bounds": list(self._bounds)}
            saved["state"] = {**saved["state"], KEY: {**kept, "state": pack(self._known)}}
        return saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`, on this optimizer's device. The parameters become the saved incumbent.

        Raises:
            ValueError: when it is that of another algorithm, or of parameters of another size.
        """
        plain = {**state_dict, "state": {name: each for name, each in state_dict["state"].items() if name != KEY}}
        kept = state_dict["state"].get(KEY)
        if kept is not None:
            if kept["class"] != self._state_class.__name__:
                raise ValueError(f"this is a state of {kept['class']}, not of {self._state_class.__name__}")
            layout = Layout(self.param_groups, self._device)
            if kept["origin"].numel() != layout.dimensions:
                raise ValueError(
                    f"the saved population has {kept['origin'].numel()} dimensions, not {layout.dimensions}"
                )
            refuse_others(self._state_class, kept["state"])
        super().load_state_dict(plain)
        for name in self.defaults.keys() - PER_GROUP:
            self.defaults[name] = self.param_groups[0].get(name, self.defaults[name])
        if len(self.param_groups) == 1:
            self.defaults.update({name: self.param_groups[0][name] for name in self.defaults.keys() & PER_GROUP})
        self._known = None
        self._version += 1
        self._seen = dict(self.defaults)
        if kept is not None:
            self._resume(kept)
            self._layout.write(self._state.best_position)

    def _resume(self, kept: dict[str, Any]) -> None:
        self._start()
        device = self._layout.device
        self._seed = kept["seed"]
        self._origin = kept["origin"].clone().to(device)
        self._noisy = kept["noisy"]
        # Those that held, not those that the groups have: an edit is taken up by the next step.
        self._bounds = kept.get("bounds", self._bounds)
        self._limits = self._layout.bounds(self._bounds)
        self._noise.restore(kept["generator"], self._seed)
        self._known = unpack(self._state_class, kept["state"], device)
        self._version += 1
        self._resumed()

    def _resumed(self) -> None:
        """The state was read from a checkpoint."""

    def __getstate__(self) -> dict[str, Any]:
        """For copies: the search too. An objective that was set, and a process group, stay behind."""
        objects = {
            "generator": None,
            "seed": self._seed,
            "shard": self._shard_kind,
            "process_group": None,
            "device": self._device,
            "compile_mode": self._compile_mode,
            "compile_kwargs": self._compile_kwargs,
        }
        return {**super().__getstate__(), "objects": objects, "search": self.state_dict()["state"].get(KEY)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        objects, search = state.pop("objects", None), state.pop("search", None)
        super().__setstate__(state)
        if objects is not None:
            self._equip(objects)
            self._seen = dict(self.defaults)
            if search is not None:
                self._resume(search)

    def _update(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """One of the pure update functions, compiled where that was asked for."""
        if self._compile_mode is None:
            return function
        name = function.__name__
        if name not in self._compiled:
            kwargs = {"dynamic": False, **self._compile_kwargs}
            if self._compile_mode != "default":
                kwargs["mode"] = self._compile_mode
            self._compiled[name] = torch.compile(function, **kwargs)
        return self._compiled[name]
