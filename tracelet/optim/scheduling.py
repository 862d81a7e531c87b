"""BFOScheduler: settings that follow the epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

__all__ = ["BFOScheduler"]


class BFOScheduler:
    """Writes what a function of the epoch says into an optimizer's `defaults`, which act at its next step.

        scheduler = BFOScheduler(optimizer, lambda epoch: {"step_size_max": 0.1 * 0.95**epoch})

    Args:
        optimizer: any of `tracelet.optim`.
        schedule_fn: epoch -> settings by name; called at construction for epoch 0.

    Attributes:
        epoch: the one whose settings hold.

    Raises:
        KeyError: for a setting that the optimizer does not have.
    """

    def __init__(self, optimizer: Optimizer, schedule_fn: Callable[[int], Mapping[str, Any]]) -> None:
        self.optimizer = optimizer
        self.schedule_fn = schedule_fn
        self.epoch = 0
        self._set()

    def _set(self) -> None:
        for name, value in self.schedule_fn(self.epoch).items():
            if name not in self.optimizer.defaults:
                raise KeyError(f"{type(self.optimizer).__name__} has no setting {name!r}")
            self.optimizer.defaults[name] = value

    def step(self) -> None:
        """Go to the next epoch."""
        self.epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The groups' `lr`, as torch's schedulers tell it."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        """The epoch; the function is not kept."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on from an epoch."""
        self.epoch = int(state_dict["epoch"])
        self._set()
