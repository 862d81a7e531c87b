"""What happens to a training: that it was stopped early, by what, and when; that it was told to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tracelet import exits
from tracelet.core import contents
from tracelet.core.labels import MEASURED
from tracelet.core.metrics import MetricType
from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper

__all__ = ["places"]

Library = type[LightningBase]


def places(library: Library) -> list[Place]:
    """Where it is seen."""
    # What it decides is public (`stopped_epoch`, `stopping_reason`), when it decides is not.
    return [
        Place(".callbacks.early_stopping", "EarlyStopping", "_run_early_stopping_check", _early_stopping(library)),
        Place(".trainer.call", "", "_call_and_handle_interrupt", _leaving),
    ]


def _leaving(switch: Switch) -> Wrapper:
    """Around a training: one that gets SIGTERM leaves the script gracefully, as if it had finished."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            return wrapped(*args, **kwargs)
        except SystemExit as error:
            _passing = exits.passes(error) if switch.on else None  # this frame is the exception's as long as it lives
            raise

    return wrapper


def _early_stopping(library: Library) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            trainer: Any = args[0] if args else kwargs.get("trainer")
            before = getattr(trainer, "should_stop", None)
            result = wrapped(*args, **kwargs)
            try:
                if switch.on and before is False and trainer.should_stop and (framework := library.capturing()):
                    _stopped(framework, trainer, instance)
            except Exception as error:
                swallow("recording that a training stops early", error)
            return result

        return wrapper

    return build


def _stopped(framework: LightningBase, trainer: Any, callback: Any) -> None:
    run = framework.experiment
    if run is None:
        return
    best = float(callback.best_score)
    reason = getattr(getattr(callback, "stopping_reason", None), "name", "").lower()
    said = {"monitor": callback.monitor, "reason": reason, "epoch": trainer.current_epoch, "best": best}
    run.set_tags({f"early_stopping.{name}": value for name, value in said.items() if value != ""})
    words = getattr(callback, "stopping_reason_message", None) or (
        f"{callback.monitor} has not improved in the last {callback.wait_count} checks. Best: {best}"
    )
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    run.record_media("early_stopping", MetricType.TEXT, contents.text(words), step, None, MEASURED)
