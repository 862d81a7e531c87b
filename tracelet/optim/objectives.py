"""Objectives that judge many points at once, and one that sums over micro-batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["BoundObjective", "PopulationObjective", "accumulate", "batched"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def batched(function: F) -> F: ...
@overload
def batched(*, flat: bool) -> Callable[[F], F]: ...
def batched(function: Any = None, *, flat: bool = False) -> Any:
    """Mark a closure that judges n points in one call.

    It gets a dict of stacked parameters, each of shape (n, *shape), under the names of `named_parameters()` when the
    optimizer was given those, else "0", "1", ...; with `flat=True` it gets one tensor of shape (n, D). It returns their
    losses, shape (n,).

        @batched(flat=True)
        def sphere(points):
            return points.square().sum(1)

    Args:
        function: the closure.
        flat: whether it wants the points as rows.
    """
    if function is None:
        return lambda function: batched(function) if not flat else _marked(function, "flat")
    return _marked(function, "stacked")


def _marked(function: Any, how: str) -> Any:
    if not hasattr(function, "__dict__") or hasattr(function, "__self__"):  # a method cannot be marked
        function = partial(function)
    function.tracelet_batched = how
    return function


class PopulationObjective:
    """A model's loss for a whole population in one call: `vmap` over `functional_call`.

        objective = PopulationObjective(model, nn.functional.cross_entropy)
        optimizer.step(objective(x, y))

    Members see the same batch and the same dropout mask (`randomness="same"`), so that they are compared and not their
    luck. Buffers are frozen: statistics of a BatchNorm in training mode neither leak between members nor into the model.
    What vmap cannot do (such a BatchNorm, data-dependent control flow) falls back to a loop, with one warning.

    Args:
        model: its parameters are those that the optimizer searches; frozen ones are used as they are.
        loss_fn: (model's output, *targets) -> a scalar.
        chunk_size: members per call; "auto" measures what one needs and takes what half of the free memory holds; None
            takes all.
        randomness: "same" or "different", as in `torch.func.vmap`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        *,
        chunk_size: int | str | None = "auto",
        randomness: str = "same",
    ) -> None:
        if not (chunk_size is None or chunk_size == "auto" or (isinstance(chunk_size, int) and chunk_size > 0)):
            raise ValueError(f"chunk_size is a positive number, None or 'auto', not {chunk_size!r}")
        if randomness not in ("same", "different"):
            raise ValueError(f"randomness is 'same' or 'different', not {randomness!r}")
        self.model = model
        self.loss_fn = loss_fn
        self.chunk_size = chunk_size
        self.randomness = randomness
        self.vectorised = True
        self.bytes_of: dict[Any, int] = {}

    def __call__(self, inputs: Any, *targets: Any) -> BoundObjective:
        """The objective on one batch: what `step` takes."""
        return BoundObjective(self, inputs, targets)


class BoundObjective:
    """A `PopulationObjective` on one batch.

    Two of the same model, inputs and targets (the same tensors, unchanged) are the same objective.
    """

    def __init__(self, objective: PopulationObjective, inputs: Any, targets: tuple[Any, ...]) -> None:
        self.objective = objective
        self.inputs = inputs
        self.targets = targets
        self._versions = self._seen()

    def _seen(self) -> tuple[tuple[int, int], ...]:
        return tuple((id(each), getattr(each, "_version", 0)) for each in (self.inputs, *self.targets))

    def same_as(self, other: object) -> bool:
        """Whether another one asks the same question, so that fitness may be carried over."""
        return (
            isinstance(other, BoundObjective)
            and other.objective is self.objective
            and other._versions == self._versions == self._seen()
        )

    def loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss of one member."""
        model = self.objective.model
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()} if model.training else {}
        inputs = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        output = functional_call(model, {**parameters, **buffers}, inputs)
        return self.objective.loss_fn(output, *self.targets)

    def names(self, layout_parameters: list[Tensor]) -> list[str]:
        """The model's names of the searched parameters."""
        known = {id(parameter): name for name, parameter in self.objective.model.named_parameters()}
        try:
            return [known[id(parameter)] for parameter in layout_parameters]
        except KeyError:
            raise ValueError("the optimizer searches a parameter that the objective's model does not have") from None

    def losses(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """Losses of n members, shape (n,)."""
        return self._over(self.loss, stacked)  # type: ignore[no-any-return]

    def gradients(self, stacked: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of n members, and the gradient of each in its own parameters."""
        gradients, losses = self._over(grad_and_value(self.loss), stacked)
        return losses, gradients

    def _over(self, function: Callable[..., Any], stacked: Mapping[str, Tensor]) -> Any:
        if self.objective.vectorised:
            count = next(iter(stacked.values())).shape[0]
            try:
                mapped = vmap(
                    function, randomness=self.objective.randomness, chunk_size=self._chunks(function, stacked, count)
                )
                return mapped(dict(stacked))
            except (RuntimeError, NotImplementedError, ValueError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                result = self._one_by_one(function, stacked)  # raises what is the user's own
                self.objective.vectorised = False
                reason = str(error).strip().splitlines()[0]
                warnings.warn(
                    f"vmap cannot evaluate {type(self.objective.model).__name__}, members are evaluated one by one: {reason}",
                    stacklevel=2,
                )
                return result
        return self._one_by_one(function, stacked)

    @staticmethod
    def _one_by_one(function: Callable[..., Any], stacked: Mapping[str, Tensor]) -> Any:
        count = next(iter(stacked.values())).shape[0]
        results = [function({name: each[index] for name, each in stacked.items()}) for index in range(count)]
        if isinstance(results[0], Tensor):
            return torch.stack(results)
        gradients, losses = zip(*results, strict=True)
        return {name: torch.stack([each[name] for each in gradients]) for name in gradients[0]}, torch.stack(losses)

    def _chunks(self, function: Callable[..., Any], stacked: Mapping[str, Tensor], count: int) -> int | None:
        chunk = self.objective.chunk_size
        if chunk != "auto":
            return chunk  # type: ignore[return-value]
        if count == 1:
            return None
        sizes = tuple(getattr(each, "shape", None) for each in (self.inputs, *self.targets))
        if sizes not in self.objective.bytes_of:
            first = {name: each[:1] for name, each in stacked.items()}
            with _Allocations() as made:
                vmap(function, randomness=self.objective.randomness)(first)
            self.objective.bytes_of[sizes] = max(made.bytes, 1)
        free = _free_memory(next(iter(stacked.values())).device)
        chunk = max(1, free // 2 // self.objective.bytes_of[sizes])
        return None if chunk >= count else chunk


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the size of what is computed: an upper bound of what one member needs at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor):
                self.bytes += each.numel() * each.element_size()
        return result


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 30


def accumulate(
    loss_fn: Callable[[Any], Tensor], batches: Iterable[Any], *, backward: bool = False
) -> Callable[[], Tensor]:
    """A closure over micro-batches: the mean of their losses.

    The batches are taken once, so that every member of the population is judged on the same ones. (A closure that draws
    from an iterator judges each member on other data, and ends in the middle of a population.)

    Args:
        loss_fn: the loss of one batch.
        batches: the micro-batches of one step.
        backward: call `backward()` on each, as `HybridBFO` needs; gradients are set to zero by the optimizer.

    Raises:
        ValueError: when there is no batch.
    """
    kept = list(batches)
    if not kept:
        raise ValueError("there is no batch to accumulate over")

    def closure() -> Tensor:
        total = torch.zeros(())
        for batch in kept:
            loss = loss_fn(batch) / len(kept)
            if backward:
                loss.backward()  # type: ignore[no-untyped-call]
            total = total.to(loss.device) + loss.detach()
        return total

    return closure
