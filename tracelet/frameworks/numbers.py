"""Numbers out of what a library hands to its loggers: nested, on devices, or in arrays of one element."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from tracelet.core.values import read_together

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["flat", "numbers", "record_all"]


def record_all(
    run: Experiment,
    values: Mapping[str, Any],
    step: int | None,
    prefix: str,
    log_dir: str,
    without: Set[str] = frozenset(),
) -> None:
    """Record what are numbers.

    Args:
        run: the run.
        values: by name; those in a mapping get its name in front.
        step: of all of them; None counts them.
        prefix: before each name.
        log_dir: of the SummaryWriter beside it, so that its points and these share their names.
        without: names of what is recorded already.
    """
    for name, value in flat(values):
        if name not in without:
            run.record(prefix + name, value, step, None, log_dir)


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a mapping, and of the mappings in it, with a `/` between their names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in flat(numbers(value)))
        elif isinstance(value, int | float):
            yield str(name), float(value)


def numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and numpy scalars as numbers; those on devices are brought over at once, in one read for each device."""
    values: dict[str, Any] = dict(metrics)
    waiting: list[str] = []
    torch: Any = sys.modules.get("torch")
    for name, value in metrics.items():
        if torch is not None and isinstance(value, torch.Tensor):
            if value.numel() != 1:
                continue
            if value.device.type == "cpu":
                values[name] = value.detach().reshape(()).tolist()  # no read of a device, as `item` would be counted
            else:
                waiting.append(name)
        elif not isinstance(value, int | float) and hasattr(value, "item") and getattr(value, "size", 0) == 1:
            values[name] = value.item()
    if waiting:
        values.update(zip(waiting, read_together([metrics[name] for name in waiting]), strict=True))
    return values
