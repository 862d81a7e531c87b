"""The options of `tracelet run`. They come before the command; everything behind them is the command's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tracelet.errors import ConfigurationError

__all__ = ["OPTIONS", "Asked", "read"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of `tracelet run`; None was not given.

    Attributes:
        project: MLflow experiment, W&B project, ClearML project.
        name: the run's name.
        backend: tracker, or several, as "a,b".
        id: the run's id.
        resume: what becomes of a run that there is with that id.
        wait: do not end before everything is delivered.
    """

    project: str | None = None
    name: str | None = None
    backend: str | None = None
    id: str | None = None
    resume: str | None = None
    wait: bool = False


# option -> whether it takes a value
OPTIONS: Final = {"--project": True, "--name": True, "--backend": True, "--id": True, "--resume": True, "--wait": False}


def read(words: Sequence[str]) -> tuple[list[str], Asked] | None:
    """Read what was typed after `tracelet run`.

    Returns:
        The command, verbatim, and the options; None when help was asked for.

    Raises:
        ConfigurationError: there is no such option, or its value is missing.
    """
    asked, rest = Asked(), list(words)
    while rest and rest[0].startswith("-"):
        word = rest[0]
        if word == "--":
            return rest[1:], asked
        if word == "--help":
            return None
        option, equals, value = word.partition("=")
        if option not in OPTIONS:
            break  # -m and -c are the command; of anything else the command's reader says that it is nothing
        rest.pop(0)
        if OPTIONS[option] and not equals:
            if not rest:
                raise ConfigurationError(f"option {option} needs a value")
            value = rest.pop(0)
        elif not OPTIONS[option] and equals:
            raise ConfigurationError(f"option {option} takes no value")
        change: dict[str, Any] = {option[2:]: value if OPTIONS[option] else True}
        asked = replace(asked, **change)
    return rest, asked
