"""The table of frameworks. Static: looking for plugins would take longer than all of `start_logging`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options
    from tracelet.frameworks.base import Framework

__all__ = ["FRAMEWORKS", "SETTINGS", "install_all", "uninstall_all"]

# identifier -> our module, its class
FRAMEWORKS: Final[Mapping[str, tuple[str, str]]] = {
    "pytorch": ("tracelet.frameworks.pytorch", "PyTorchFramework"),
    "tensorboardX": ("tracelet.frameworks.tensorboardx", "TensorboardXFramework"),
    "lightning": ("tracelet.frameworks.lightning", "LightningFramework"),
    "pytorch_lightning": ("tracelet.frameworks.pytorch_lightning", "PyTorchLightningFramework"),
    "files": ("tracelet.frameworks.files", "FilesFramework"),
    "transformers": ("tracelet.frameworks.transformers", "TransformersFramework"),
    "accelerate": ("tracelet.frameworks.accelerate", "AccelerateFramework"),
    "optimizers": ("tracelet.frameworks.optimizers", "OptimizersFramework"),
}
# What a run's settings say about them.
SETTINGS: Final = frozenset(
    {
        "pytorch",
        "lightning",
        "transformers",
        "accelerate",
        "capture_artifacts",
        "optimizer_every",
        "optimizer_status",
        "optimizer_histogram_every",
    }
)


def install_all(experiment: Experiment, options: Options) -> None:
    """Give a run its frameworks. One that cannot be intercepted costs one line on stderr, and no more."""
    for identifier, (module, name) in FRAMEWORKS.items():
        try:
            kind: type[Framework] = getattr(importlib.import_module(module), name)
            kind(**kind.arguments(options)).initialize(experiment)
        except Exception as error:  # the training does not depend on being recorded
            swallow(f"intercepting {identifier}", error)


def uninstall_all() -> None:
    """Take all patches off; for when no run is left."""
    for identifier, (module, name) in FRAMEWORKS.items():
        if (loaded := sys.modules.get(module)) is not None:
            try:
                getattr(loaded, name).uninstall()
            except Exception as error:  # likewise
                swallow(f"letting go of {identifier}", error)
