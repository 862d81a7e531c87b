"""A Trainer at work: when a run that one of our callbacks began is over, and the checkpoints that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from tracelet.core.active import current
from tracelet.frameworks import kept
from tracelet.frameworks.places import Place
from tracelet.frameworks.transformers import TransformersFramework, own
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["at_work", "places"]

Library = type[TransformersFramework]

_TRAINER: Final = ("", "Trainer")
_ENDING: Final = "ending the run of a Trainer's callback"
_at_work: Final[ContextVar[bool]] = ContextVar("tracelet_trainer", default=False)
at_work = _at_work.get


def places(library: Library) -> list[Place]:
    """Where it is seen."""

    def run_of() -> Experiment | None:
        run = current()
        framework = None if run is None or not run.active else run._frameworks.get(library.identifier)
        return run if framework is not None and framework.tracking and framework.artifacts else None

    def folder(trainer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        trial = args[1] if len(args) > 1 else kwargs.get("trial")
        step = trainer.state.global_step
        return [f"{trainer._get_output_dir(trial=trial)}/checkpoint-{step}"] if trainer.args.should_save else []

    work = [Place(*_TRAINER, name, _until_it_is_over()) for name in ("train", "evaluate", "predict")]
    return [*work, Place(*_TRAINER, "_save_checkpoint", kept.keeping("checkpoints", run_of, folder))]


def _until_it_is_over() -> Callable[[Switch], Wrapper]:
    """Around what trains, evaluates or predicts, of which one may be within another: the outermost ends callbacks' runs.

    Transformers tells callbacks nothing of an exception.
    """

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            if not switch.on or _at_work.get() or not _callbacks(instance):
                return wrapped(*args, **kwargs)
            token = _at_work.set(True)
            try:
                return wrapped(*args, **kwargs)
            finally:
                _at_work.reset(token)
                for callback in _callbacks(instance):
                    callback.end()

        return wrapper

    return build


def _callbacks(trainer: Any) -> list[Any]:
    try:
        return own(trainer.callback_handler)
    except Exception as error:
        swallow(_ENDING, error)
        return []
