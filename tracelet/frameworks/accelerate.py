"""Hugging Face Accelerate: what `Accelerator.log` is given, whatever trackers there are, and what they are configured with.

`Accelerator.log` hands it to the trackers that `init_trackers` made, which may be none: then Accelerate does nothing, and it is
recorded all the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core import active
from tracelet.frameworks.base import Framework
from tracelet.frameworks.handing import Handed, handing
from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.places import Place
from tracelet.patching import after

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["OWN", "AccelerateFramework"]

OWN: Final = "tracelet_tracker"  # an attribute of our own trackers
# By name, as the table has frameworks: it starts runs, so it is above this room. Its import makes `log_with="tracelet"` known.
_TRACKER: Final = "tracelet.loggers.accelerate"


class AccelerateFramework(Framework):
    """Accelerate in a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        capture: record what Accelerators log. Without it, only those with a `TraceletTracker` are recorded, and `log_*`.
    """

    identifier: ClassVar[str] = "accelerate"
    module: ClassVar[str] = "accelerate.accelerator"
    package: ClassVar[str] = "accelerate"
    since: ClassVar[tuple[int, ...]] = (1, 1)
    before: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, capture: bool = True) -> None:
        super().__init__(captures=capture)

    def start_tracking(self) -> None:
        """Record the library's calls; see `Framework.start_tracking`. `log_with="tracelet"` is known in any case."""
        if not self.captures:
            importlib.import_module(_TRACKER)
        super().start_tracking()

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The setting that switches the capture off, if it does."""
        return [] if options.accelerate.capture else ["accelerate.capture"]

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch what there is; what is patched already stays so."""
        importlib.import_module(_TRACKER)
        super().patch(module)

    @classmethod
    def places(cls) -> list[Place]:
        """Where Accelerate is listened to."""

        def logged(accelerator: Any, values: Any, step: Any = None, *_: Any, **__: Any) -> Handed | None:
            framework = cls._of(accelerator)
            if framework is None or framework.experiment is None or not isinstance(values, Mapping):
                return None
            at = None if step is None else int(step)
            return Handed(framework.experiment, dict(values), at, lambda: _writers(accelerator))

        def configured(accelerator: Any, project: Any = None, config: Any = None, *_: Any, **__: Any) -> None:
            if config is not None and (framework := cls._of(accelerator)) is not None:
                record_parameters(framework, config)

        return [
            Place("", "Accelerator", "log", handing("recording what an Accelerator logs", logged)),
            Place("", "Accelerator", "init_trackers", after("recording what trackers are configured with", configured)),
        ]

    @classmethod
    def _of(cls, accelerator: Any) -> AccelerateFramework | None:
        """The framework that records what an Accelerator logs; None for none. A tracker of ours has its run begun."""
        if active.is_muted() or not accelerator.is_main_process:
            return None
        ours = [tracker for tracker in accelerator.trackers if hasattr(type(tracker), OWN)]
        for tracker in ours:
            tracker.start()
        run = active.current()
        framework = None if run is None or not run.active else run._frameworks.get(cls.identifier)
        if not isinstance(framework, AccelerateFramework):
            return None
        return framework if ours or framework.tracking else None


def _writers(accelerator: Any) -> Iterator[Any]:
    return (tracker.writer for tracker in accelerator.trackers if hasattr(tracker, "writer"))
