"""The table of frameworks: tracelet's own, and those that other packages add to it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tracelet.frameworks import plugins
from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options
    from tracelet.frameworks.base import Framework

__all__ = ["FRAMEWORKS", "SETTINGS", "identifiers", "install_all", "kind_of", "plugin_modules", "uninstall_all"]

# identifier -> our module, its class
FRAMEWORKS: Final[Mapping[str, tuple[str, str]]] = {
    "pytorch": ("tracelet.frameworks.pytorch", "PyTorchFramework"),
    "tensorboardX": ("tracelet.frameworks.tensorboardx", "TensorboardXFramework"),
    "lightning": ("tracelet.frameworks.lightning", "LightningFramework"),
    "pytorch_lightning": ("tracelet.frameworks.pytorch_lightning", "PyTorchLightningFramework"),
    "transformers": ("tracelet.frameworks.transformers", "TransformersFramework"),
    "accelerate": ("tracelet.frameworks.accelerate", "AccelerateFramework"),
    "fastai": ("tracelet.frameworks.fastai", "FastaiFramework"),
    "formed": ("tracelet.nested.formed", "FormedFramework"),
    "optuna": ("tracelet.nested.optuna", "OptunaFramework"),
    "ray": ("tracelet.nested.ray", "RayFramework"),
    "files": ("tracelet.frameworks.files", "FilesFramework"),
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
        "plugins",
        "trials",
    }
)


def identifiers(options: Options) -> list[str]:
    """Those of all frameworks that a run with these settings has, or would have if they could be loaded."""
    return [*FRAMEWORKS, *(plugins.found(FRAMEWORKS) if options.plugins else ())]


def kind_of(identifier: str) -> type[Framework]:
    """The class of a framework.

    Raises:
        KeyError: there is none of that identifier.
        Exception: it is another package's, and cannot be loaded.
    """
    if identifier in FRAMEWORKS:
        module, name = FRAMEWORKS[identifier]
        kind: type[Framework] = getattr(importlib.import_module(module), name)
        return kind
    return plugins.load(plugins.found(FRAMEWORKS)[identifier])


def plugin_modules() -> list[str]:
    """The modules that the frameworks of other packages listen to."""
    return plugins.modules(FRAMEWORKS)


def install_all(experiment: Experiment, options: Options) -> None:
    """Give a run its frameworks. One that cannot be intercepted costs one line on stderr, and no more."""
    for identifier in FRAMEWORKS:
        try:
            _give(experiment, options, kind_of(identifier))
        except Exception as error:  # the training does not depend on being recorded
            swallow(f"intercepting {identifier}", error)
    if not options.plugins:
        for kind in plugins.loaded():  # it was begun with them, before the script had its say
            if (framework := experiment._frameworks.get(kind.identifier)) is not None:
                framework.stop_tracking()
        return
    for identifier, kind in plugins.kinds(FRAMEWORKS).items():
        try:
            _give(experiment, options, kind)
        except Exception as error:  # likewise
            swallow(f"intercepting {identifier}", error)


def _give(experiment: Experiment, options: Options, kind: type[Framework]) -> None:
    kind(**kind.arguments(options)).initialize(experiment)


def uninstall_all() -> None:
    """Take all patches off; for when no run is left."""
    ours = [
        (identifier, getattr(sys.modules.get(module), name, None)) for identifier, (module, name) in FRAMEWORKS.items()
    ]
    # What was put on last is on top, where several patch one method.
    for identifier, kind in reversed([*ours, *((kind.identifier, kind) for kind in plugins.loaded())]):
        if kind is not None:
            try:
                kind.uninstall()
            except Exception as error:  # likewise
                swallow(f"letting go of {identifier}", error)
