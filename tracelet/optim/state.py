"""What an optimizer knows between two steps, and its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["State", "pack", "refuse_others", "unpack"]

HISTORY = 11
S = TypeVar("S", bound="State")


@dataclass(kw_only=True)
class State:
    """The population and the counts; algorithms add what is theirs.

    Attributes:
        positions: (P, D).
        fitness: of `positions`, (P,); +inf where it is not known or not finite.
        best_position: the incumbent, (D,).
        best_fitness: of `best_position`, ().
        loss: what the last step returned, where that was a number; None before the first, and after steps that were told.
        nonfinite: how many evaluations were NaN or infinite, ().
        phase: which part of the round comes next.
        asked: the points that wait to be judged, (n, D), or None.
        judged: how many of `asked` are judged: fewer than n when the budget ends.
        rounds: completed.
        steps: completed, as the caller counts them.
        evaluations: of the objective, by all ranks together.
        stale_steps: since the best fitness last improved by the tolerance (counted with early stopping).
        record: the best fitness that `stale_steps` compares with.
        stopped: why a callback ended the search; empty when none did.
        batches: whether the last step had another objective than the one before.
        history: best fitness after each of the last steps, each ().
    """

    positions: Tensor
    fitness: Tensor
    best_position: Tensor
    best_fitness: Tensor
    nonfinite: Tensor
    phase: str = "parents"
    asked: Tensor | None = None
    judged: int = 0
    rounds: int = 0
    steps: int = 0
    evaluations: int = 0
    stale_steps: int = 0
    record: float = float("inf")
    stopped: str = ""
    loss: Tensor | float | None = None
    batches: bool = False
    history: list[Tensor] = field(default_factory=list)


def pack(state: State) -> dict[str, Any]:
    """A state as plain numbers, texts and tensors of its own."""
    packed: dict[str, Any] = {}
    for each in fields(state):
        value = getattr(state, each.name)
        if isinstance(value, Tensor):
            value = value.detach().clone()
        elif isinstance(value, list):
            value = torch.stack(value) if value else None
        packed[each.name] = value
    return packed


def refuse_others(kind: type[State], packed: dict[str, Any]) -> None:
    """Refuse what is not the state of the same optimizer; fields that have come since have their defaults.

    Raises:
        ValueError: which names the fields.
    """
    known = {each.name: each for each in fields(kind)}
    needed = {name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING}
    if odd := sorted((packed.keys() - known.keys()) | (needed - packed.keys())):
        raise ValueError(f"this is not the state of the same optimizer: {', '.join(odd)}")


def unpack(kind: type[S], packed: dict[str, Any], device: torch.device) -> S:
    """A state from what `pack` made, on a device.

    Raises:
        ValueError: when it is the state of another algorithm.
    """
    refuse_others(kind, packed)
    values: dict[str, Any] = {
        name: value.detach().clone().to(device) if isinstance(value, Tensor) else value
        for name, value in packed.items()
    }
    values["history"] = [] if values["history"] is None else list(values["history"].unbind(0))
    return kind(**values)
