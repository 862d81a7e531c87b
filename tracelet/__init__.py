"""tracelet: the metrics of unmodified training scripts, whole, in MLflow, Weights & Biases and ClearML.

    import tracelet
    tracelet.start_logging(project="digits")   # or: tracelet run train.py

Importing tracelet is cheap: everything else is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracelet.version import __version__

if TYPE_CHECKING:
    from tracelet import testing
    from tracelet.api import (
        log,
        log_artifact,
        log_audio,
        log_figure,
        log_histogram,
        log_image,
        log_params,
        log_table,
        log_text,
        log_video,
        set_tags,
    )
    from tracelet.core.experiment import Experiment
    from tracelet.core.metrics import Metric, MetricType
    from tracelet.core.smoothing import smooth
    from tracelet.decorator import run
    from tracelet.frameworks.losses import log_terms, watch_losses
    from tracelet.interface import get_active_experiment, start_logging, stop_logging

__all__ = [
    "Experiment",
    "Metric",
    "MetricType",
    "__version__",
    "get_active_experiment",
    "log",
    "log_artifact",
    "log_audio",
    "log_figure",
    "log_histogram",
    "log_image",
    "log_params",
    "log_table",
    "log_terms",
    "log_text",
    "log_video",
    "run",
    "set_tags",
    "smooth",
    "start_logging",
    "stop_logging",
    "testing",
    "watch_losses",
]

_HOMES = {
    "Experiment": "tracelet.core.experiment",
    "Metric": "tracelet.core.metrics",
    "MetricType": "tracelet.core.metrics",
    "get_active_experiment": "tracelet.interface",
    "log": "tracelet.api",
    "log_artifact": "tracelet.api",
    "log_audio": "tracelet.api",
    "log_figure": "tracelet.api",
    "log_histogram": "tracelet.api",
    "log_image": "tracelet.api",
    "log_params": "tracelet.api",
    "log_table": "tracelet.api",
    "log_terms": "tracelet.frameworks.losses",
    "log_text": "tracelet.api",
    "log_video": "tracelet.api",
    "run": "tracelet.decorator",
    "set_tags": "tracelet.api",
    "smooth": "tracelet.core.smoothing",
    "start_logging": "tracelet.interface",
    "stop_logging": "tracelet.interface",
    "testing": "tracelet.testing",
    "watch_losses": "tracelet.frameworks.losses",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        module = importlib.import_module(_HOMES[name])
        value = module if name == "testing" else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'tracelet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
