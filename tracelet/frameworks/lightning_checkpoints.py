"""Checkpoints that name their run: where a setting asks for it, a training that goes on from one goes on with its run.

The id is in the checkpoint itself, which may be read on another machine than the one that wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from tracelet.core.options import Options
from tracelet.core.resuming import KEY, go_on_with
from tracelet.frameworks.checkpoint_files import peek
from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.places import Place
from tracelet.guard import Guard, swallow
from tracelet.patching import Switch, Wrapper

__all__ = ["places", "resume"]

Library = type[LightningBase]

_RESUMING = Guard("going on with the run of a checkpoint")


def places(library: Library) -> list[Place]:
    """Where checkpoints are made."""

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            checkpoint = wrapped(*args, **kwargs)
            weights_only = kwargs.get("weights_only", args[0] if args else False)
            if switch.on and not weights_only:
                try:
                    framework = library.of_run()
                    if framework is not None and framework.resumes and framework.experiment is not None:
                        checkpoint.setdefault(KEY, framework.experiment.id)
                except Exception as error:
                    swallow("naming the run in a checkpoint", error)
            return checkpoint

        return wrapper

    return [Place(".trainer.connectors.checkpoint_connector", "_CheckpointConnector", "dump_checkpoint", build)]


def resume(library: Library, trainer: Any, path: object) -> None:
    """A Trainer is about to run from a checkpoint: go on with the run that this names.

    The run that is active does, if it has recorded nothing yet; where there is none, that of a logger of our own.

    Args:
        library: whose Trainer it is.
        trainer: the Trainer.
        path: of the checkpoint; None for none.
    """
    with _RESUMING:
        if not isinstance(path, str | os.PathLike) or getattr(trainer, "fast_dev_run", False):
            return
        if getattr(trainer.state.fn, "value", "") != "fit":
            return  # to test or to predict is not to go on
        framework = library.of_run()
        if framework is not None:
            run = framework.experiment
            if run is not None and framework.resumes and (run_id := peek(path)):
                go_on_with(run, run_id)
            return
        loggers = [logger for logger in trainer.loggers if getattr(logger, "tracelet_logger", False)]
        wanted = [logger for logger in loggers if logger.resumes(Options.load())]
        if wanted and (run_id := peek(path)):
            for logger in wanted:
                logger.go_on_with(run_id)
