"""Settings of a framework that tracelet's own settings know nothing of: variables, for the arguments of its constructor."""

from __future__ import annotations

import inspect
from typing import Any, Final

from tracelet.core.options import ENV_FILE, ENV_PREFIX, parse, variables_of
from tracelet.errors import ConfigurationError

__all__ = ["arguments_of"]

# Of a default: what makes such a value of a text, and what would be right.
_NUMBERS: Final = {int: "a whole number", float: "a number"}


def arguments_of(kind: type, identifier: str) -> dict[str, Any]:
    """What `TRACELET_<IDENTIFIER>__<PARAMETER>` in the environment, or in `.env`, says.

    Args:
        kind: a class. Those parameters of its constructor count whose default is a bool, an int, a float or a str.
        identifier: the framework's.

    Returns:
        Arguments, of the type of the default.

    Raises:
        ConfigurationError: a value makes no sense; the message names the variable and says what would be right.
    """
    said = variables_of(identifier, ENV_FILE)
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items() if said else ():
        if (text := said.get(name.lower())) is None:
            continue
        variable, wanted = f"{ENV_PREFIX}{identifier}__{name}".upper(), type(parameter.default)
        if wanted is bool:
            arguments[name] = parse("plugins", text, variable)  # as every switch
        elif wanted is str:
            arguments[name] = text
        elif wanted in _NUMBERS:
            try:
                arguments[name] = wanted(text)
            except ValueError:
                raise ConfigurationError(f"{variable}={text!r} makes no sense; give {_NUMBERS[wanted]}") from None
    return arguments
