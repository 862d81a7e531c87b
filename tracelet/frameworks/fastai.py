"""fastai: what a Learner's Recorder has of its fits, and what the Learner was told.

`PopulationCallback` and `population` are names of this module too, and not in `__all__`: they need fastai, which is imported
when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from tracelet.frameworks.base import Framework
from tracelet.frameworks.optimizer_names import ByObject
from tracelet.frameworks.places import Place

if TYPE_CHECKING:
    from tracelet.frameworks.fastai_learner import Learning

__all__ = ["FastaiFramework"]

_ON_DEMAND = ("PopulationCallback", "population")


class FastaiFramework(Framework):
    """fastai in a run. `start_logging` gives every run one."""

    identifier: ClassVar[str] = "fastai"
    module: ClassVar[str] = "fastai.learner"
    package: ClassVar[str] = "fastai"
    since: ClassVar[tuple[int, ...]] = (2, 7)
    before: ClassVar[tuple[int, ...]] = (3,)

    def __init__(self, captures: bool = True) -> None:
        super().__init__(captures)
        self._learners = ByObject["Learning"]()
        self._numbers = count(1)

    @classmethod
    def here(cls) -> FastaiFramework | None:
        """That of the run which a record made here and now belongs to; None also in a process whose points do not count."""
        framework = super().here()
        if framework is None or framework.experiment is None:
            return None
        # A notebook's ranks are forked when the run is under way: fastai knows theirs.
        return None if _rank() and not framework.experiment.plan.rank_label else framework

    @classmethod
    def places(cls) -> Iterable[Place]:
        """Where fastai is listened to."""
        from tracelet.frameworks import fastai_fits, fastai_recorder, fastai_tensorboard

        return [*fastai_fits.places(cls), *fastai_recorder.places(cls), *fastai_tensorboard.places(cls)]

    def learning(self, learner: Any) -> Learning:
        """What is kept of a Learner."""
        from tracelet.frameworks.fastai_learner import Learning

        known = self._learners.get(learner)
        if known is None:
            known = Learning(lambda: next(self._numbers))
            self._learners.put(learner, known)
        return known


def _rank() -> int:
    """The process's rank, where fastai looks for it."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdigit() else 0


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        from tracelet.frameworks import fastai_population

        return getattr(fastai_population, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
