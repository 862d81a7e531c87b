"""The base of all population optimizers: points are proposed, judged and absorbed, round by round, within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from tracelet.optim.colony import Colony
from tracelet.optim.evaluation import Evaluation, same_objective
from tracelet.optim.state import HISTORY
from tracelet.optim.status import Status
from tracelet.optim.uncompiled import uncompiled

__all__ = ["PopulationOptimizer"]


class PopulationOptimizer(Colony):
    """A `torch.optim.Optimizer` that judges many points instead of following a gradient.

    One `step(closure)` is one round of the algorithm. It ends with the incumbent (the best point known) in the parameters,
    judged once more: what the closure logs, and what `step` returns, are those of the model as it stands. An algorithm is a
    subclass that proposes points and absorbs their fitness; everything else is here.

    Args:
        params: as for every optimizer of torch: tensors, named tensors, or groups. Several groups are one joint search space;
            `lr`, `bounds`, `init_std` and step sizes may differ between them.
        defaults: the algorithm's own settings.
        common: those that all algorithms have:

            - `bounds`: (low, high), in the units of the parameters; they hold at every point that is judged.
            - `init_std`: standard deviation of the first positions around the parameters, in their units. Default: 0.2 of
              the bounds' width, without bounds 0.1.
            - `init`: "around" the parameters, or "uniform" in the bounds (the first position is the parameters in both).
            - `seed`, `generator`: of the optimizer's own random numbers. Default: a seed that follows `torch.manual_seed`.
            - `max_evaluations`: hard budget of evaluations, over all steps and ranks.
            - `early_stopping`: stop when the best fitness did not improve by `convergence_tolerance` (relative, and absolute
              below 1) in `convergence_patience` steps. Reads one number from the device a step.
            - `reevaluate`: judge the positions anew at the beginning of a step: "auto" when the objective is another object
              than in the last step (a new batch), or was seen to give another value for the same point; "always"; "never".
            - `decisions`: "host" reads fitness on the host, so that points which cannot matter are not evaluated; "device"
              never does, has fixed shapes, and the same number of evaluations in every step; "auto" is "host" on a CPU, else
              "device".
            - `shard`, `process_group`: see `Shard`. The population size is that of the whole group.
            - `device`: where the population lives; default that of the first parameter.
            - `compile_mode`, `compile_kwargs`: for `torch.compile` of the update functions; None does not compile.

    Raises:
        TypeError: for an unknown keyword.
        ValueError: for a setting that makes no sense.
    """

    _objective: Callable[..., Any] | None = None
    _last_objective: object = None
    _limit: int | None = None

    # -- what an algorithm says -------------------------------------------------------------------------------------------

    def _propose(self) -> Tensor:
        """The next points to judge, (n, D), inside the bounds; `state.phase` says which."""
        raise NotImplementedError

    def _absorb(self, points: Tensor, fitness: Tensor, gradients: Tensor | None) -> bool:
        """Take the fitness (n,) of what was proposed; returns whether the round is over."""
        raise NotImplementedError

    def _parents_judged(self) -> bool:
        """`state.fitness` is that of `state.positions`, anew; returns whether that ends the round."""
        return False

    def _wants_gradients(self) -> bool:
        """Whether the points asked for are to be judged with their gradients."""
        return False

    def _judges_all_anew(self) -> bool:
        """Whether the points just judged are all positions, the incumbent among them: then no older fitness counts."""
        return False

    def _confirms(self, evaluation: Evaluation) -> bool:
        """Whether the step ends with one more evaluation, for which the budget keeps room: the incumbent."""
        return True

    def _own_stop(self) -> str | None:
        """Why this algorithm is done, if it is."""
        return None

    # -- asked and told ---------------------------------------------------------------------------------------------------

    @uncompiled
    @torch.no_grad()
    def ask(self) -> Tensor:
        """The points to judge next, (n, D); n differs from one ask to the next. Asking again gives the same ones.

        Raises:
            RuntimeError: when the budget of evaluations is used up.
        """
        self._prepare()
        self._limit = None
        if self._bounds_were_edited():
            self._move_inside()
        return self._ask().clone()

    @uncompiled
    @torch.no_grad()
    def tell(self, fitness: Any, gradients: Tensor | None = None) -> None:
        """The fitness of the points that `ask` gave.

        Args:
            fitness: (n,), smaller is better; NaN and infinities lose, and are counted.
            gradients: (n, D), for `HybridBFO` if there are any.

        Raises:
            RuntimeError: when nothing was asked.
            ValueError: when the shape is not (n,).
        """
        state = self._prepare()
        self._ended = False
        told = torch.as_tensor(fitness, device=self._layout.device).detach()
        if state.asked is None:
            raise RuntimeError("nothing was asked: ask() comes before tell()")
        if told.shape != (state.judged,):
            raise ValueError(
                f"{state.judged} points were asked for: fitness of shape {tuple(told.shape)} is not ({state.judged},)"
            )
        if self._tell(told.to(self._layout.fitness_dtype), gradients):
            self._told()

    @Optimizer.profile_hook_step
    def _told(self, *_: Any, **__: Any) -> None:  # hooks of the user's may hand over more
        """What was asked and told is a step, for torch's step hooks too."""
        state = self._state
        self._layout.write(state.best_position)
        self._end_step(None)

    def _ask(self) -> Tensor:
        state = self._state
        if state.asked is None:
            room = self._room()
            if room <= 0:
                raise RuntimeError(f"the budget of {self.defaults['max_evaluations']} evaluations is used up")
            state.asked = self._parents() if state.phase == "parents" else self._propose()
            count = state.asked.shape[0]
            state.judged = count if count <= room else int(room)
        return state.asked if state.judged == state.asked.shape[0] else state.asked[: state.judged]

    def _tell(self, fitness: Tensor, gradients: Tensor | None) -> bool:
        state = self._state
        asked = cast(Tensor, state.asked)
        state.evaluations += state.judged
        self._version += 1
        state.asked = None
        if state.judged < asked.shape[0]:  # the budget ends here; the colony stays as it was
            self._note(asked[: state.judged], fitness)
            return True
        if self._judges_all_anew():
            state.best_fitness = torch.full_like(state.best_fitness, torch.inf)
        if state.phase == "parents":
            if asked.shape[0] > state.positions.shape[0]:  # the incumbent, on the objective of now
                state.best_fitness = _ranked(fitness[-1])
            fitness = self._note(asked, fitness)
            state.fitness = fitness[: state.positions.shape[0]].clone()
            return self._parents_judged()
        return self._absorb(asked, self._note(asked, fitness), gradients)

    def _parents(self) -> Tensor:
        """The positions; beside them the incumbent, once there is one."""
        state = self._state
        if state.evaluations == 0:
            return state.positions
        return torch.cat((state.positions, state.best_position.unsqueeze(0)))

    def _note(self, points: Tensor, fitness: Tensor) -> Tensor:
        """Keep the best of some judged points, and count what was not finite; returns the fitness with +inf in its place."""
        state = self._state
        if self._host:
            low, high = fitness.aminmax()
            lowest = low.item()
            if not math.isfinite(lowest + high.item()):
                fitness = _ranked(fitness)
                state.nonfinite += torch.isinf(fitness).sum()
                low = fitness.min()
                lowest = low.item()
            if lowest < state.best_fitness.item():
                state.best_fitness = low
                state.best_position = points[int(fitness.argmin())].clone()
            return fitness
        fitness = _ranked(fitness)
        state.nonfinite = state.nonfinite + torch.isinf(fitness).sum()
        value, index = fitness.min(0, keepdim=True)
        better = value < state.best_fitness
        state.best_fitness = torch.where(better, value, state.best_fitness).squeeze(0)
        state.best_position = torch.where(better, points.index_select(0, index).squeeze(0), state.best_position)
        return fitness

    # -- steps ------------------------------------------------------------------------------------------------------------

    def set_objective(self, objective: Callable[..., Any] | None) -> None:
        """What `step()` without a closure judges by: for loops that pass none."""
        self._objective = objective

    @uncompiled
    @Optimizer.profile_hook_step
    @torch.no_grad()
    def step(
        self, closure: Callable[..., Any] | None = None, *, callback: Callable[[Status], Any] | None = None
    ) -> Any:
        """One round of the algorithm.

        Args:
            closure: `() -> float | Tensor` of shape (), called once per bacterium with its values in the parameters, and with
                gradients enabled; or a `@batched` closure; or a `PopulationObjective` on a batch. Default: what
                `set_objective` was given.
            callback: called with `status` after the step; when it returns True, the search stops.

        Returns:
            The loss of the incumbent, as the closure returned it; a tensor () from objectives that judge many points. When
            the search is over, nothing is evaluated and `best_fitness` is returned.

        Raises:
            ValueError: without any objective.
            Exception: whatever the closure raises, with the parameters as they were before the step.
        """
        self._ended = False
        objective = closure if closure is not None else self._objective
        if objective is None:
            raise ValueError(
                f"{type(self).__name__}.step() needs a closure that returns the loss; "
                "for loops that pass none, say set_objective(closure) once before"
            )
        state = self._prepare()
        if self.stop_reason is not None:
            return self.best_fitness
        evaluation = Evaluation(objective, self._layout, self._shard)
        before = self._layout.read() if evaluation.writes or state.steps == 0 else state.best_position
        self._begin_step(objective)
        maximum = self.defaults["max_evaluations"]
        confirms = self._confirms(evaluation)
        self._limit = maximum - confirms if maximum is not None else None
        try:
            while self._room() > 0:
                points = self._ask()
                if self._wants_gradients():
                    over = self._tell(*evaluation.gradients(points))
                else:
                    over = self._tell(evaluation.many(points), None)
                if over:
                    break
            if confirms:
                value, fitness = evaluation.one(state.best_position)
                state.evaluations += 1
                self._confirm(fitness)
            else:
                self._layout.write(state.best_position)
                value = state.best_fitness
        except BaseException:
            self._layout.write(before)
            raise
        self._end_step(value)
        if callback is not None and callback(self.status) is True:
            state.stopped = "callback"
        return value

    step.hooked = True  # type: ignore[attr-defined]  # torch need not: here its hooks are called from compiled code too

    def _begin_step(self, objective: object) -> None:
        """Judge the positions anew where their fitness may be another's."""
        state = self._state
        rule = self.defaults["reevaluate"]
        if self._last_objective is None:
            # After a checkpoint nobody knows: with a batch for each step, this one is another too.
            changed = state.batches
        else:
            changed = state.batches = not same_objective(objective, self._last_objective)
        self._last_objective = objective
        if self._bounds_were_edited():
            self._move_inside()
        if not self._judges_parents or state.evaluations == 0 or state.phase == "parents":
            return
        if rule == "always" or (rule == "auto" and (changed or self._noisy)):
            state.asked = None
            state.phase = "parents"

    def _confirm(self, fitness: Tensor) -> None:
        """The incumbent's fitness is what it has just been found to be, not the luckiest value ever seen."""
        state = self._state
        fitness = _ranked(fitness)
        if self._host and not self._noisy:
            now, before = fitness.item(), state.best_fitness.item()
            # What batched kernels round differently is no noise.
            self._noisy = abs(now - before) > 1e-3 * max(abs(now), abs(before), 1e-6)
        state.best_fitness = fitness

    def _end_step(self, loss: Any) -> None:
        state = self._state
        state.steps += 1
        state.loss = _number(loss, self._layout.device)
        self._ended = True
        self._version += 1
        state.history.append(state.best_fitness)
        del state.history[:-HISTORY]
        if self.defaults["early_stopping"]:
            best = state.best_fitness.item()
            tolerance = self.defaults["convergence_tolerance"] * min(max(1.0, abs(best)), 1e300)
            if best < state.record - tolerance:
                state.record, state.stale_steps = best, 0
            else:
                state.stale_steps += 1

    def _room(self) -> float:
        """How many evaluations are left for candidates."""
        maximum = self.defaults["max_evaluations"] if self._limit is None else self._limit
        return float("inf") if maximum is None else maximum - self._state.evaluations

    @property
    def stop_reason(self) -> str | None:
        """Why the search is over: "max_evaluations", "converged", "callback", or the algorithm's own; None while it is not."""
        state = self._known
        if state is None:
            return None
        maximum = self.defaults["max_evaluations"]
        if maximum is not None and state.evaluations >= maximum:
            return "max_evaluations"
        if state.stopped:
            return state.stopped
        if self.defaults["early_stopping"] and state.stale_steps >= self.defaults["convergence_patience"]:
            return "converged"
        return self._own_stop()

    def should_stop(self) -> bool:
        """Whether the search is over; further steps evaluate nothing."""
        return self.stop_reason is not None


def _number(loss: Any, device: torch.device) -> Tensor | float | None:
    """A loss as it may be kept: without its graph, beside the population, and not what somebody may change later."""
    if isinstance(loss, Tensor):
        return loss.detach().clone().reshape(()).to(device) if loss.numel() == 1 else None
    try:
        return None if loss is None else float(loss)
    except (TypeError, ValueError):
        return None


def _ranked(fitness: Tensor) -> Tensor:
    """Fitness among which the smallest wins: what is NaN or infinite loses."""
    return torch.nan_to_num(fitness, nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
