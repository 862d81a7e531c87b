"""The settings that are in force here, and where each comes from."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

from tracelet.commands.findings import Finding, ok, problem, warning
from tracelet.core.options import ENV_FILE, ENV_PREFIX, Options, parse
from tracelet.errors import ConfigurationError

__all__ = ["findings"]

_ABOUT: Final = "settings"
_LIKE: Final = 0.85  # of a name: a slip of the keyboard, or one letter too many
# What `tracelet run` leaves for the processes of a run, and what is for looking at faults.
_INTERNAL: Final = frozenset(
    ENV_PREFIX + name
    for name in ("RUN_ID", "RUN_OWNER", "RUN_DIR", "RUN_NAME_GIVEN", "PYTHON", "WAIT", "DEBUG", "RAISE_INTERNAL")
)


def findings() -> tuple[Options, list[Finding]]:
    """Read them.

    Returns:
        The settings, without those that make no sense, and what there is to say.
    """
    found: list[Finding] = []
    options, sources = Options(), dict[str, str]()
    known = {_variable(name): name for name in _flat(options)}
    for place, variables in _given(found):
        for variable, value in variables.items():
            name = known.get(variable.upper())
            if name is None or name in sources or not value:
                continue
            try:
                options = _with(options, name, parse(name, value, variable))
            except ConfigurationError as error:
                found.append(problem(_ABOUT, name, f"{error} ({place})", "give it another value, or none"))
            sources[name] = f"{place}, {variable}"
    found += [_said(name, value, sources.get(name, "default")) for name, value in _flat(options).items()]
    for variable in sorted(os.environ):
        if not variable.startswith(ENV_PREFIX) or variable.upper() in known or variable in _INTERNAL:
            continue
        if meant := difflib.get_close_matches(variable, known, 1, _LIKE):
            found.append(warning(_ABOUT, variable, "no such setting", f"did you mean {meant[0]}?"))
    if options.disabled:
        found.append(
            warning(_ABOUT, "disabled", "nothing is recorded: every call is a no-op", "unset TRACELET_DISABLED")
        )
    return options, found


def _given(found: list[Finding]) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """Where settings are, those that go first before the others."""
    yield "the environment", os.environ
    path = os.path.abspath(ENV_FILE)
    if not os.path.isfile(path):
        return
    import dotenv

    try:
        yield path, dotenv.dotenv_values(path)
    except (OSError, ValueError) as error:
        found.append(problem(_ABOUT, ENV_FILE, f"{path} cannot be read: {error}", "make it readable, or remove it"))


def _with(options: Options, name: str, value: Any) -> Options:
    outer, _, inner = name.partition(".")
    return replace(options, **{outer: replace(getattr(options, outer), **{inner: value}) if inner else value})


def _flat(options: Options) -> dict[str, Any]:
    """Values by name, nested ones by a dotted name."""
    flat: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            flat |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in fields(value)}
        else:
            flat[field.name] = value
    return flat


def _variable(name: str) -> str:
    return ENV_PREFIX + name.upper().replace(".", "__")


def _said(name: str, value: Any, source: str) -> Finding:
    if isinstance(value, list | tuple | set | frozenset):
        shown = ",".join(map(str, value)) or "none"
    else:
        shown = "not set" if value is None else str(value)
    return ok(_ABOUT, name, f"{shown} ({source})")
