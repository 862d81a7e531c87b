"""What users hand over as values, steps and metadata, made into what a record holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tracelet.core.metrics import MetaValue
from tracelet.guard import say

__all__ = ["as_float", "as_meta", "as_step", "read_together"]


def as_float(value: Any) -> float:
    """The float64 of a number, a numpy scalar, or a tensor or array of one element.

    Raises:
        TypeError: it is none of these.
        ValueError: it has not exactly one element.
    """
    kind = type(value)
    if kind is float:
        return cast(float, value)
    if kind is int or kind is bool:
        return float(value)
    if hasattr(value, "item") and not isinstance(value, float):
        value = value.item()
    if isinstance(value, str | bytes):
        raise TypeError(f"a metric's value must be a number, not {type(value).__name__} {value!r:.40}")
    return float(value)


def read_together(tensors: Sequence[Any]) -> list[float]:
    """The float64 of tensors of one element each, which lie on devices: each device is waited for once."""
    torch: Any = sys.modules["torch"]  # whoever has a tensor has imported it
    by_device: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(place)
    numbers = [0.0] * len(tensors)
    for device, places in by_device.items():
        wide = torch.float32 if device.type == "mps" else torch.float64  # which Apple's devices do not have
        together = torch.stack([tensors[place].detach().reshape(()).to(wide) for place in places])
        for place, number in zip(places, together.tolist(), strict=True):
            numbers[place] = number
    return numbers


def as_step(step: Any) -> int:
    """The integer of a step: int, numpy integer, one-element tensor, or a float.

    What is behind a float's point is cut off, as TensorBoard does, and that is told once.
    """
    if type(step) is int:
        return step
    if hasattr(step, "item"):
        step = step.item()
    whole = int(step)
    if isinstance(step, float) and whole != step:
        say(f"step {step!r} is recorded as {whole}: steps are whole numbers", key="steps are whole numbers")
    return whole


def as_meta(values: Mapping[str, Any]) -> dict[str, MetaValue]:
    """Metadata and parameters as they are stored: numbers, booleans and strings; anything else as its `str`."""
    return {str(key): _as_meta_value(value) for key, value in values.items()}


def _as_meta_value(value: Any) -> MetaValue:
    if hasattr(value, "item") and (value.numel() if hasattr(value, "numel") else getattr(value, "size", 0)) == 1:
        value = value.item()
    return value if isinstance(value, str | bool | int | float) else str(value)
