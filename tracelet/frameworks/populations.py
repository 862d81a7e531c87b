"""What is recorded of a population optimizer: best fitness, diversity and loss of every step, and what it was set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tracelet.core import contents
from tracelet.core.labels import MEASURED
from tracelet.core.metrics import MetricType
from tracelet.frameworks.optimizer_settings import settings
from tracelet.guard import say

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["Listener"]

_ALWAYS: Final[Mapping[str, MetricType]] = {
    "best_fitness": MetricType.FITNESS,
    "population_diversity": MetricType.DIVERSITY,
    "loss": MetricType.LOSS,
}
_WITH_THEM: Final = ("population_size", "evaluations")  # in the metadata of each
_FLAGS: Final[Mapping[str, str]] = {
    "diversity_collapsed": "the population has collapsed onto one point: it has converged, or needs more dispersal "
    "(elim_prob) or longer steps",
    "mostly_nonfinite": "more than half of the population has a fitness that is NaN or infinite; look at the objective, the "
    "bounds and the step size",
}
_TYPES: Final[Mapping[str, MetricType]] = {
    "mean_fitness": MetricType.FITNESS,
    "std_fitness": MetricType.FITNESS,
    "population_diversity_normalised": MetricType.DIVERSITY,
}
_FLAGS_EVERY: Final = 10  # records; they are a third of the work
_MOST_VALUES: Final = 1 << 16  # of a population, in a histogram; of a larger one every n-th


class Listener:
    """Records one optimizer in one run.

    Args:
        run: the run.
        name: the optimizer's, in the names of its metrics.
        every: steps between two records.
        status: record all numbers of its status.
        histogram_every: steps between two histograms; 0 for none.
    """

    def __init__(self, run: Experiment, name: str, every: int, status: bool, histogram_every: int) -> None:
        self._run = run
        self._prefix = f"optim/{name}"
        self._every = every
        self._status = status
        self._histogram_every = histogram_every
        self._records = 0
        self._told_settings = False

    def stepped(self, optimizer: Any, state: Any, numbers: Any) -> None:
        """A step is over: record it. Reads from the device once, and only what is recorded.

        Args:
            optimizer: for its settings.
            state: of its search: `steps`, `positions`.
            numbers: its `Status`.
        """
        if not self._told_settings:
            self._told_settings = True
            self._run.log_params(settings(optimizer, self._prefix))
        if (state.steps - 1) % self._every == 0:
            self._record(numbers, state.steps)
        if self._histogram_every and (state.steps - 1) % self._histogram_every == 0:
            self._record_population(state.positions, state.steps)

    def _record(self, status: Any, steps: int) -> None:
        flags = _FLAGS if self._records % _FLAGS_EVERY == 0 else {}
        self._records += 1
        values = dict(status) if self._status else status.read(*_ALWAYS, *flags, *_WITH_THEM)
        metadata = {name: int(values[name]) for name in _WITH_THEM}
        for name, kind in _ALWAYS.items():
            self._run.record_measured(f"{self._prefix}/{name}", values[name], kind, steps, metadata)
        if self._status:
            for name in values.keys() - _ALWAYS.keys() - {"steps"}:
                kind = _TYPES.get(name, MetricType.SCALAR)
                self._run.record_measured(f"{self._prefix}/{name}", values[name], kind, steps, {})
        for flag, meaning in flags.items():
            if values[flag]:
                say(f"{self._prefix}, step {steps}: {meaning}", key=f"{self._run.id} {self._prefix} {flag}")

    def _record_population(self, positions: Any, steps: int) -> None:
        values = positions.flatten()
        sampled = -(-values.numel() // _MOST_VALUES)
        shown = values[::sampled].double().cpu()
        if not shown.isfinite().any():
            return
        content = contents.histogram(shown, "tensorflow")
        if sampled > 1:
            content = content._replace(metadata={**content.metadata, "every_nth_value": sampled})
        self._run.record_media(f"{self._prefix}/population", MetricType.HISTOGRAM, content, steps, None, MEASURED)
