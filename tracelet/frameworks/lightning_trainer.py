"""The Trainer: that there is one, with what loggers and arguments, and when it only tries the script out.

A fast development run, a search for a learning rate or a batch size train, and are no training: nothing of them is recorded,
neither what the module logs nor what SummaryWriters and optimizers do meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tracelet.core import active
from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.lightning_checkpoints import resume
from tracelet.frameworks.lightning_metrics import meet
from tracelet.frameworks.lightning_params import note_arguments
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper, after

__all__ = ["places"]

Library = type[LightningBase]


def places(library: Library) -> list[Place]:
    """Where it is seen."""

    def constructed(trainer: Any, *args: Any, **kwargs: Any) -> None:
        if library.of_run() is not None or library.explicit:
            note_arguments(trainer, args, kwargs)
            meet(library, trainer)

    def resuming(trainer: Any, model: Any = None, ckpt_path: Any = None, *_: Any, **__: Any) -> None:
        if ckpt_path is not None:
            resume(library, trainer, ckpt_path)

    def trying_out(trainer: Any, model: Any = None, *_: Any, **__: Any) -> bool:
        meet(library, trainer)
        if getattr(trainer, "fast_dev_run", False):
            return True
        run = active.current()
        optimizers = None if run is None else run._frameworks.get("optimizers")
        if optimizers is not None and optimizers.tracking and model is not None:
            optimizers.know(model)
        return False

    always = _muted_while(library, lambda *_, **__: True)
    return [
        Place(".trainer.trainer", "Trainer", "__init__", after("meeting a Trainer", constructed)),
        Place(".trainer.trainer", "Trainer", "_run", _muted_while(library, trying_out, resuming)),
        Place(".callbacks.lr_finder", "LearningRateFinder", "lr_find", always),
        Place(".callbacks.batch_size_finder", "BatchSizeFinder", "scale_batch_size", always),
    ]


def _muted_while(
    library: Library, tries: Callable[..., bool], first: Callable[..., None] | None = None
) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            mute = False
            if switch.on:
                try:
                    if first is not None:
                        first(instance, *args, **kwargs)
                    mute = library.of_run() is not None and tries(instance, *args, **kwargs)
                except Exception as error:
                    swallow("seeing whether Lightning only tries the script out", error)
            if not mute:
                return wrapped(*args, **kwargs)
            with active.muted():
                return wrapped(*args, **kwargs)

        return wrapper

    return build
