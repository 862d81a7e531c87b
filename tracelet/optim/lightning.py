"""BFOCallback: what a search is at, in the loggers of a Lightning trainer. Importing this needs Lightning."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tracelet.optim.population import PopulationOptimizer

__all__ = ["BFOCallback"]

# One code base in two distributions, whose classes do not know each other.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _callbacks() -> tuple[type, ...]:
    """Lightning's own classes: of the packages that are imported, else of the first that is installed."""
    names = [name for name in PACKAGES if sys.modules.get(name)]
    names = names or [name for name in PACKAGES if find_spec(name.split(".")[0])][:1]
    if not names:
        raise ImportError("BFOCallback needs Lightning: pip install 'tracelet[lightning]'")
    return tuple(import_module(name).Callback for name in names)


def _is_lightnings(kind: type) -> bool:
    return kind.__module__.startswith(PACKAGES)


class BFOCallback(*_callbacks()):  # type: ignore[misc]
    """Logs a population optimizer's best fitness and diversity after each training batch of Lightning.

        trainer = Trainer(callbacks=[BFOCallback()])

    `best_fitness` (in the units of the loss) and `population_diversity` (mean distance of the population to its centroid, in
    the units of the parameters) go to every logger of the trainer, at its `global_step`. With several population optimizers the
    names have the optimizer's place in `trainer.optimizers` behind them: `best_fitness/0`, `best_fitness/1`. Other optimizers
    are passed over, and so is a search that has evaluated nothing yet (while gradients are accumulated). Without a logger
    nothing is computed, and on ranks other than 0 neither.

    It is a `Callback` of `lightning.pytorch`, or of `pytorch_lightning`: of what was imported before it, of both if both were.

    Raises:
        ImportError: when it is imported, and neither is installed.
    """

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log, as Lightning asks for."""
        if not trainer.loggers or not trainer.is_global_zero:
            return
        # In a LightningOptimizer is the optimizer; its own attributes are copies.
        bare = [each.optimizer if _is_lightnings(type(each)) else each for each in trainer.optimizers]
        searches = {place: each for place, each in enumerate(bare) if isinstance(each, PopulationOptimizer)}
        metrics = {}
        for place, search in searches.items():
            if search.evaluations:  # reading the population of one that has not begun would begin it
                behind = f"/{place}" if len(searches) > 1 else ""
                metrics[f"best_fitness{behind}"] = search.best_fitness
                metrics[f"population_diversity{behind}"] = search._compute_diversity()
        if metrics:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
