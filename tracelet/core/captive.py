"""Where runs go that begin while a test captures: they stay in a folder of the test's, and nothing carries them away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Captor", "begin", "captor"]


@dataclass(eq=False)
class Captor:
    """What captures.

    Attributes:
        home: takes the place of tracelet's home.
        runs: those that have begun, in order.
        stand_in: the run that is there until the code under test starts one, or a library one within it.
    """

    home: Path
    runs: list[Experiment] = field(default_factory=list)
    stand_in: Experiment | None = None

    def keep(self) -> None:
        """Have the run that stands in be one as any: a library begins others within it."""
        if (run := self.stand_in) is not None:
            self.runs.append(run)
            self.stand_in = None


_captor: Captor | None = None


def captor() -> Captor | None:
    """Who captures now; None for nobody."""
    return _captor


def begin(new: Captor) -> Callable[[], None]:
    """Capture all runs that begin in this process from now on.

    Returns:
        What ends that, and has the one before capture again.
    """
    global _captor
    before, _captor = _captor, new

    def end() -> None:
        global _captor
        _captor = before

    return end
