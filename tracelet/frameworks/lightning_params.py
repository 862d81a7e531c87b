"""Parameters of a Lightning run: hyperparameters, the Trainer's arguments, and what the command line said.

Each is recorded when Lightning would tell its loggers, also when there are none, and once, however many loggers are told.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.parameters import described, flat, plain, record_parameters
from tracelet.frameworks.places import Place
from tracelet.patching import after

__all__ = ["INTERNAL", "note_arguments", "places"]

Library = type[LightningBase]

_GIVEN: Final = "_tracelet_given"
INTERNAL: Final = ("_class_path", "_instantiator")  # what LightningCLI leaves among hyperparameters
_FILES: Final = "config"  # that the command line was read from
_LONGEST: Final = 500
_NEVER: Final = object()


def places(library: Library) -> list[Place]:
    """Where they are seen."""

    def logged(_: Any, trainer: Any) -> None:
        if (framework := library.capturing()) is not None:
            record_parameters(framework, _merged(trainer), INTERNAL)
            record_parameters(framework, _configuration_of(trainer) or trainer.__dict__.get(_GIVEN, {}))

    def instantiated(cli: Any) -> None:
        if library.here() is None and not library.explicit:
            return
        config = cli.config.get(cli.subcommand, cli.config) if cli.subcommand else cli.config
        cli.trainer.__dict__[_GIVEN] = _configuration(config)

    return [
        # Looked up there by the Trainer: where it is defined, nobody would see a wrapper.
        Place(".trainer.trainer", "", "_log_hyperparams", after("recording hyperparameters", logged)),
        # A part of its own, with a dependency of its own.
        Place(".cli", "LightningCLI", "instantiate_classes", after("seeing a command line", instantiated), later=True),
    ]


def _configuration(config: Any) -> dict[str, Any]:
    """With all arguments of the Trainer: its own are not recorded again. None is what nobody has said."""
    said = {name: value for name, value in plain(config).items() if name != _FILES}
    return {name: value for name, value in flat(said, ".") if value != str(None)}


def _configuration_of(trainer: Any) -> dict[str, Any]:
    """What the callback knows that saves a command line's configuration: nobody listened yet, maybe, when that was read."""
    for callback in trainer.callbacks:
        if any(kind.__name__ == "SaveConfigCallback" for kind in type(callback).__mro__):
            return _configuration(callback.config)
    return {}


def note_arguments(trainer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Remember what a Trainer was made of, until it runs."""
    names = inspect.signature(type(trainer)).parameters if args else ()
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    said = {f"trainer/{name}": described(value) for name, value in given.items() if value is not None}
    trainer.__dict__[_GIVEN] = said


def _merged(trainer: Any) -> dict[str, Any]:
    """The hyperparameters of module and datamodule, as Lightning merges them for its loggers."""
    parts = [
        part for part in (trainer.lightning_module, trainer.datamodule) if getattr(part, "_log_hyperparams", False)
    ]
    return {name: value for part in parts for name, value in part.hparams_initial.items()}
