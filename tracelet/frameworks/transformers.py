"""Hugging Face Transformers: what a Trainer logs, whatever it reports to, and what belongs to it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core import active
from tracelet.frameworks.base import Framework
from tracelet.frameworks.places import Place

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["OWN", "TransformersFramework", "own"]

OWN: Final = "tracelet_callback"  # an attribute of our own callbacks
# By name, as the table has frameworks: it starts runs, so it is above this room. Its import makes `report_to="tracelet"` known.
_CALLBACK: Final = "tracelet.loggers.transformers"


class TransformersFramework(Framework):
    """Transformers in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        capture: record what Trainers log. Without it, only those that report to "tracelet" are recorded, and `log_*`.
        artifacts: files that become artifacts: "checkpoints"; other kinds are other frameworks'.
    """

    identifier: ClassVar[str] = "transformers"
    module: ClassVar[str] = "transformers.trainer"
    package: ClassVar[str] = "transformers"
    since: ClassVar[tuple[int, ...]] = (4, 50)
    before: ClassVar[tuple[int, ...]] = (6,)

    def __init__(self, capture: bool = True, artifacts: tuple[str, ...] = ()) -> None:
        self.artifacts = frozenset(artifacts) & {"checkpoints"}
        self.capture = capture
        super().__init__(captures=capture or bool(self.artifacts))

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about Transformers."""
        return {"capture": options.transformers.capture, "artifacts": options.capture_artifacts}

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The setting that switches the capture off, if it does."""
        return [] if options.transformers.capture else ["transformers.capture"]

    def start_tracking(self) -> None:
        """Record the library's calls; see `Framework.start_tracking`. `report_to="tracelet"` is known in any case."""
        if not self.captures:
            importlib.import_module(_CALLBACK)
        super().start_tracking()

    @classmethod
    def places(cls) -> list[Place]:
        """Where Transformers is listened to."""
        from tracelet.frameworks import transformers_metrics, transformers_trainer

        return [*transformers_metrics.places(cls), *transformers_trainer.places(cls)]

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch what there is; what is patched already stays so."""
        importlib.import_module(_CALLBACK)
        super().patch(module)

    @classmethod
    def of(cls, handler: Any, args: Any, state: Any) -> TransformersFramework | None:
        """The framework that records what a Trainer logs; None for none.

        Args:
            handler: the Trainer's CallbackHandler. Callbacks of ours in it begin their run.
            args: the TrainingArguments.
            state: the TrainerState.
        """
        if active.is_muted() or not state.is_world_process_zero:
            return None  # what others have is the same: it is gathered before it is logged
        ours = own(handler)
        for callback in ours:
            callback.begin(args, state)
        run = active.current()
        framework = None if run is None or not run.active else run._frameworks.get(cls.identifier)
        if not isinstance(framework, TransformersFramework):
            return None
        return framework if ours or (framework.tracking and framework.capture) else None


def own(handler: Any) -> list[Any]:
    """The callbacks of ours that a CallbackHandler has."""
    return [callback for callback in handler.callbacks if hasattr(type(callback), OWN)]


def __getattr__(name: str) -> Any:
    if name == "PopulationTrainer":
        from tracelet.frameworks.transformers_population import PopulationTrainer

        return PopulationTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
