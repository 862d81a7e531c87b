"""From points to fitness: the one place where an optimizer calls what the user gave it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tracelet.optim.layout import Layout
from tracelet.optim.objectives import BoundObjective
from tracelet.optim.sharding import Shard

__all__ = ["Evaluation", "same_objective"]


def same_objective(one: object, other: object) -> bool:
    """Whether fitness found with one objective holds for the other."""
    return one is other or (isinstance(one, BoundObjective) and one.same_as(other))


class Evaluation:
    """One step's objective over one layout.

    Args:
        objective: `closure()`, a `@batched` closure, or a `PopulationObjective` on a batch.
        layout: where the points' coordinates belong.
        shard: who evaluates what.

    Attributes:
        writes: whether evaluating writes into the parameters (a closure that is called once per bacterium).
    """

    def __init__(self, objective: Any, layout: Layout, shard: Shard) -> None:
        self.objective = objective
        self.layout = layout
        self.shard = shard
        self.how = getattr(objective, "tracelet_batched", "")
        self.bound: BoundObjective | None = objective if isinstance(objective, BoundObjective) else None
        self.writes = not self.how and self.bound is None

    def many(self, points: Tensor) -> Tensor:
        """Fitness of n points (n, D), shape (n,); whatever the objective raises."""
        return self.shard.evaluate(points, self._judge, self.layout.fitness_dtype)

    def one(self, point: Tensor) -> tuple[Any, Tensor]:
        """A point (D,) written into the parameters and judged: what the objective returned, and its fitness ()."""
        self.layout.write(point)
        if self.writes:
            with torch.enable_grad():
                value = self.objective()
            fitness = self._values([value])[0]
        else:
            fitness = self._judge(point.unsqueeze(0))[0]
            value = fitness
        return value, self.shard.one(fitness)

    def gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Fitness (n,) and gradient (n, D) of n points, each at its own point.

        Raises:
            RuntimeError: when a closure neither calls `backward()` nor returns a loss that has a gradient.
        """
        found: list[Tensor] = []

        def judge(rows: Tensor) -> Tensor:
            fitness, gradient = self._with_gradients(rows)
            found.append(gradient)
            return fitness

        fitness = self.shard.evaluate(points, judge, self.layout.fitness_dtype)
        return fitness, self.shard.gather_rows(found[0], points.shape[0])

    def _judge(self, points: Tensor) -> Tensor:
        version = points._version
        if self.how == "flat":
            fitness = self.objective(points)
        elif self.bound is not None:
            fitness = self.bound.losses(self._named(points))
        elif self.how:
            fitness = self.objective(self.layout.stacked(points))
        else:
            return self._each(points)
        if points._version != version:
            raise RuntimeError("the objective changed the points that it was given: it has to work on copies")
        return self._checked(fitness, points.shape[0])

    def _each(self, points: Tensor) -> Tensor:
        targets = [parameter.detach() for parameter in self.layout.parameters]
        values = []
        with torch.enable_grad():
            for row in self.layout.rows(points):
                self.layout.put(row, targets)
                values.append(self.objective())
        return self._values(values)

    def _with_gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        if self.bound is not None:
            losses, gradients = self.bound.gradients(self._named(points))
            names = self.bound.names(self.layout.parameters)
            by_place = dict(zip(self.layout.names, (gradients[name] for name in names), strict=True))
            return self._checked(losses, points.shape[0]), self.layout.flat(by_place)
        if self.how:
            with torch.enable_grad():
                rows = points.detach().requires_grad_()
                version = rows._version
                fitness = self.objective(rows if self.how == "flat" else self.layout.stacked(rows))
                if rows._version != version:
                    raise RuntimeError("the objective changed the points that it was given: it has to work on copies")
                fitness = self._shaped(fitness, points.shape[0])
                if not fitness.requires_grad:
                    raise RuntimeError("the objective has to return losses with their graph")
                # Rows do not see each other: the gradient of the sum is each one's own.
                (gradient,) = torch.autograd.grad(fitness.sum(), rows)
            return self._checked(fitness, points.shape[0]), gradient
        targets = [parameter.detach() for parameter in self.layout.parameters]
        values, gradients_of = [], []
        for row in self.layout.rows(points):
            self.layout.put(row, targets)
            for parameter in self.layout.parameters:
                parameter.grad = None
            with torch.enable_grad():
                value = self.objective()
            if all(parameter.grad is None for parameter in self.layout.parameters):
                if not (isinstance(value, Tensor) and value.requires_grad):
                    raise RuntimeError("the closure has to call backward(), or to return the loss with its graph")
                with torch.enable_grad():
                    value.backward()  # type: ignore[no-untyped-call]
            values.append(value)
            gradients_of.append(self.layout.gradient())
        return self._values(values), torch.stack(gradients_of)

    def _named(self, points: Tensor) -> dict[str, Tensor]:
        assert self.bound is not None
        stacked = self.layout.stacked(points)
        names = self.bound.names(self.layout.parameters)
        return dict(zip(names, stacked.values(), strict=True))

    def _values(self, values: list[Any]) -> Tensor:
        """What closures returned, as fitness (n,)."""
        dtype, device = self.layout.fitness_dtype, self.layout.device
        if all(isinstance(value, (float, int)) for value in values):
            return torch.tensor(values, dtype=dtype, device=device)
        told = []
        for value in values:
            if value is None:
                raise TypeError("the closure returned None; it has to return the loss")
            tensor = torch.as_tensor(value, device=device).detach()
            if tensor.numel() != 1:
                raise ValueError(f"the closure has to return one number, not a tensor of shape {tuple(tensor.shape)}")
            told.append(tensor.reshape(()).to(dtype))
        return torch.stack(told)

    def _checked(self, fitness: Any, count: int) -> Tensor:
        losses = self._shaped(fitness, count)
        if losses.requires_grad:
            losses = losses.detach()
        return losses.to(self.layout.device, self.layout.fitness_dtype)

    @staticmethod
    def _shaped(fitness: Any, count: int) -> Tensor:
        if not isinstance(fitness, Tensor) or fitness.shape != (count,):
            shape = tuple(fitness.shape) if isinstance(fitness, Tensor) else type(fitness).__name__
            raise ValueError(
                f"a batched objective of {count} points has to return a tensor of shape ({count},), not {shape}"
            )
        shaped: Tensor = fitness
        return shaped
