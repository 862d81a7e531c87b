"""What is kept of a Learner in a run: where its training stands, what its points are called, and what it is doing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Learning"]


class Learning:
    """A Learner in a run.

    Args:
        number: gives the number of a Learner that begins to be recorded, from 1.

    Attributes:
        done: training batches so far, in all fits of the run.
        calls: fits under way, one within another.
        data: what goes behind the names of what `validate` measures; None when it does not run.
        recorded: something of this epoch was recorded.
        told: what the Learner is was recorded as parameters.
        names: of what was recorded, as fastai has them.
        hypers: hyper-parameters as they were recorded last.
        fits: how often each method that fits was called.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        self._number = number
        self._prefix: str | None = None
        self._before = 0
        self.done = 0
        self.calls = 0
        self.data: str | None = None
        self.recorded = False
        self.told = False
        self.names: set[str] = set()
        self.hypers: dict[str, float] = {}
        self.fits: dict[str, int] = {}

    @property
    def prefix(self) -> str:
        """What goes before the names of its points: nothing, for the first Learner of the run that is recorded."""
        if self._prefix is None:
            number = self._number()
            self._prefix = "" if number == 1 else f"learner_{number}/"
        return self._prefix

    def begins(self, learner: Any) -> None:
        """A fit begins, or a validation: the Learner counts its batches from 0."""
        self._before = self.done
        skipped = getattr(vars(learner).get("skip_to_epoch"), "_skip_to", 0)
        if self.calls and skipped:
            try:
                self._before = max(self.done, int(skipped) * len(learner.dls.train))
            except TypeError:  # data that has no length
                pass

    def step(self, learner: Any) -> int:
        """Training batches, the one that has just been among them; those before `start_epoch` count too."""
        self.done = self._before + vars(learner).get("train_iter", 0)
        return self.done

    def is_fitting(self, learner: Any) -> bool:
        """Whether a fit is under way that is recorded, or the validation of one, and not only predictions or a search."""
        known = vars(learner)
        return "gather_preds" not in known and "lr_finder" not in known and (self.calls > 0 or _began_earlier(learner))

    @contextmanager
    def fitting(self) -> Iterator[bool]:
        """During a fit. Gives whether it is one within none."""
        self.calls += 1
        try:
            yield self.calls == 1
        finally:
            self.calls -= 1

    @contextmanager
    def validating(self, data: str) -> Iterator[None]:
        """During `validate`."""
        before, self.data = self.data, data
        try:
            yield
        finally:
            self.data = before


def _began_earlier(learner: Any) -> bool:
    """Whether a fit is under way that nobody saw begin: the run was started in the middle, by a callback."""
    frame = sys._getframe()
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_name == "fit" and frame.f_globals.get("__name__") == "fastai.learner":
            return frame.f_locals.get("self") is learner
    return False
