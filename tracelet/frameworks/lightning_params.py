"""Parameters of a Lightning run: hyperparameters, the Trainer's arguments, and what the command line said.

Each is recorded when Lightning would tell its loggers, also when there are none, and once, however many loggers are told.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tracelet.frameworks.lightning_base import LightningBase, Place
from tracelet.patching import after
from tracelet.secrets import redacted_params

__all__ = ["command_line", "note_arguments", "places", "record_parameters"]

Library = type[LightningBase]

_GIVEN: Final = "_tracelet_given"
_INTERNAL: Final = ("_class_path", "_instantiator")  # what LightningCLI leaves among hyperparameters
_FILES: Final = "config"  # that the command line was read from
_LONGEST: Final = 500
_NEVER: Final = object()


def places(library: Library) -> list[Place]:
    """Where they are seen."""

    def logged(_: Any, trainer: Any) -> None:
        if (framework := library.capturing()) is not None:
            record_parameters(framework, _merged(trainer))
            record_parameters(framework, _configuration_of(trainer) or trainer.__dict__.get(_GIVEN, {}))

    # Looked up there by the Trainer: where it is defined, nobody would see a wrapper.
    return [Place(".trainer.trainer", "", "_log_hyperparams", after("recording hyperparameters", logged))]


def command_line(library: Library) -> list[Place]:
    """Where LightningCLI's configuration is seen."""

    def instantiated(cli: Any) -> None:
        if library.here() is None and not library.explicit:
            return
        config = cli.config.get(cli.subcommand, cli.config) if cli.subcommand else cli.config
        cli.trainer.__dict__[_GIVEN] = _configuration(config)

    return [Place(".cli", "LightningCLI", "instantiate_classes", after("seeing a command line", instantiated))]


def _configuration(config: Any) -> dict[str, Any]:
    """With all arguments of the Trainer: its own are not recorded again. None is what nobody has said."""
    said = {name: value for name, value in _plain(config).items() if name != _FILES}
    return {name: value for name, value in _flat(said, ".") if value != str(None)}


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
    said = {f"trainer/{name}": _described(value) for name, value in given.items() if value is not None}
    trainer.__dict__[_GIVEN] = said


def record_parameters(framework: LightningBase, given: Any) -> None:
    """Record parameters that were not recorded before, with `/` between the names of what is in one another.

    Args:
        framework: whose run it is.
        given: a mapping, a namespace or a dataclass; what is in it too.
    """
    said = redacted_params(dict(_flat(given, "/")))
    new = {n: value for n, value in said.items() if n not in _INTERNAL and framework.told.get(n, _NEVER) != value}
    if new and framework.experiment is not None:
        framework.told.update(new)
        framework.experiment.log_params(new)


def _merged(trainer: Any) -> dict[str, Any]:
    """The hyperparameters of module and datamodule, as Lightning merges them for its loggers."""
    parts = [
        part for part in (trainer.lightning_module, trainer.datamodule) if getattr(part, "_log_hyperparams", False)
    ]
    return {name: value for part in parts for name, value in part.hparams_initial.items()}


def _plain(given: Any) -> Any:
    """What has names in it as a mapping; anything else as it is."""
    if isinstance(given, Mapping):
        return given
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    # A command line's namespace knows its names with dots, unless it is asked for its inside.
    return vars(given) if isinstance(given, Namespace) or type(given).__name__ == "Namespace" else given


def _flat(given: Any, separator: str, before: str = "") -> Iterator[tuple[str, Any]]:
    inside = _plain(given)
    if isinstance(inside, list | tuple) and any(isinstance(_plain(each), Mapping) for each in inside):
        inside = dict(enumerate(inside))
    if isinstance(inside, Mapping):
        for name, value in inside.items():
            yield from _flat(value, separator, f"{before}{separator}{name}" if before else str(name))
    elif before:
        yield before, _described(inside)


def _described(value: Any) -> Any:
    """A value as a parameter: what is no plain value by its class, or its own words."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or (isinstance(value, list | tuple | set) and not value):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(_described(each)) for each in value)[:_LONGEST]
    if hasattr(value, "item") and (value.numel() if hasattr(value, "numel") else getattr(value, "size", 0)) == 1:
        return value.item()
    named: Any = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    wordless = named.__str__ is object.__str__ and named.__repr__ is object.__repr__
    if named is value or wordless or callable(value) or hasattr(value, "state_dict"):
        return f"{named.__module__}.{named.__qualname__}"
    try:
        return str(value)[:_LONGEST]
    except Exception:  # the user's own __str__ fails
        return f"{named.__module__}.{named.__qualname__}"
