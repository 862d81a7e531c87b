"""What a Trainer logs: each value once, with the names that its TensorBoard and W&B callbacks give, at `global_step`.

All that `Trainer.log` logs goes through one method of its CallbackHandler, which hands it to the callbacks that `report_to`
names, and to the script's own. What `predict` finds goes through another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tracelet.frameworks.handing import Handed, handing
from tracelet.frameworks.places import Place
from tracelet.frameworks.transformers import TransformersFramework
from tracelet.frameworks.transformers_params import tell
from tracelet.patching import after

__all__ = ["handed", "places"]

Library = type[TransformersFramework]

HANDLER: Final = ("transformers.trainer_callback", "CallbackHandler")
_RECORDING: Final = "recording what a Trainer logs"


def places(library: Library) -> list[Place]:
    """Where values are seen."""

    def logged(handler: Any, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> Handed | None:
        return handed(library, handler, args, state, logs)

    def predicted(handler: Any, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> Handed | None:
        return handed(library, handler, args, state, metrics)

    def begun(handler: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if (framework := library.of(handler, args, state)) is not None:
            tell(framework, handler.model, args)

    return [
        Place(*HANDLER, "on_log", handing(_RECORDING, logged)),
        Place(*HANDLER, "on_predict", handing(_RECORDING, predicted)),
        Place(*HANDLER, "on_train_begin", after("recording what a Trainer was told", begun)),
    ]


def handed(library: Library, handler: Any, args: Any, state: Any, values: Any) -> Handed | None:
    """What a CallbackHandler hands to its callbacks; None where nothing is recorded."""
    if not isinstance(values, Mapping):
        return None
    framework = library.of(handler, args, state)
    if framework is None or framework.experiment is None:
        return None
    if not framework.told:  # evaluated or predicted, and not trained before
        tell(framework, handler.model, args)
    named = sys.modules["transformers.integrations.integration_utils"].rewrite_logs(values)
    return Handed(framework.experiment, named, int(state.global_step), lambda: _writers(handler))


def _writers(handler: Any) -> Iterator[Any]:
    return (callback.tb_writer for callback in handler.callbacks if hasattr(callback, "tb_writer"))
