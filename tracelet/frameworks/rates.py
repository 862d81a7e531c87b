"""The rates of param groups: which of them are others than they were."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tracelet.core.metrics import MetricType
from tracelet.core.values import as_float
from tracelet.frameworks.reading import Point
from tracelet.frameworks.tensors import is_scalar

__all__ = ["Group", "changed"]

_RATES: Final[Mapping[str, MetricType]] = {"lr": MetricType.LEARNING_RATE, "weight_decay": MetricType.SCALAR}


class Group:
    """The rates of a param group, as they were seen and recorded."""

    __slots__ = ("in_tensors", "lr", "number", "told", "weight_decay")

    def __init__(self, number: int) -> None:
        self.number = number
        self.lr: Any = None
        self.weight_decay: Any = None
        self.in_tensors = False
        self.told: dict[str, float] = {}


def changed(
    groups: Sequence[Mapping[str, Any]],
    known: Sequence[Group],
    names: Sequence[str],
    due: bool,
    point: Callable[..., Point],
) -> Iterator[Point]:
    """The rates that are others than when they were recorded last.

    Args:
        groups: the param groups.
        known: what is known of each.
        names: what each is called.
        due: the step is recorded: then those in tensors are looked at, too.
        point: makes a point of a name, a value and a type.
    """
    for group, seen, name in zip(groups, known, names, strict=True):
        lr, weight_decay = group.get("lr"), group.get("weight_decay")
        if lr is seen.lr and weight_decay is seen.weight_decay and not seen.in_tensors:
            continue
        seen.lr, seen.weight_decay = lr, weight_decay
        seen.in_tensors = any(hasattr(value, "data_ptr") for value in (seen.lr, seen.weight_decay))
        for rate, value in (("lr", seen.lr), ("weight_decay", seen.weight_decay)):
            if value is None or isinstance(value, str):
                continue
            if not hasattr(value, "data_ptr"):
                value = as_float(value)
                if seen.told.get(rate) == value:
                    continue
                seen.told[rate] = value
                yield point(f"{rate}/{name}", value, _RATES[rate])
            elif (due or rate not in seen.told) and is_scalar(value):
                judge = _on_change(seen.told, rate)
                seen.told.setdefault(rate, math.nan)
                yield point(f"{rate}/{name}", value.detach(), _RATES[rate], judge=judge)


def _on_change(told: dict[str, float], rate: str) -> Callable[[float], float | None]:
    def judge(value: float) -> float | None:
        if told.get(rate) == value:
            return None
        told[rate] = value
        return value

    return judge
