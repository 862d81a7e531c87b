"""Listens to argparse, and to jsonargparse, where a script parses its command line while a run is there.

Patched are `ArgumentParser.parse_known_args`, which `parse_args` and the parsers of sub-commands call too, and jsonargparse's
`parse_args`, which calls neither. Taken is what the process's own command line became; other lists that are parsed, and the
command lines of launchers and test runners, are theirs.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, ModuleType
from typing import Any, Final

from tracelet.guard import Guard, swallow
from tracelet.patching import MethodPatch, Switch, Wrapper
from tracelet.provenance.parameters import flatten

__all__ = ["listen"]

Listener = Callable[[dict[str, Any]], None]

# Packages that parse their own command line before, or beside, the script's.
_OTHERS: Final = frozenset(
    (
        *(
            "torch",
            "accelerate",
            "deepspeed",
            "horovod",
            "pytest",
            "_pytest",
            "xdist",
            "unittest",
            "IPython",
            "ipykernel",
        ),
        *("traitlets", "hydra", "coverage", "pdb", "trace", "cProfile", "streamlit", "debugpy", "pydevd", "tracelet"),
    )
)
# Who parses for its caller, and who wraps that: ClearML, once it is imported.
_BETWEEN: Final = frozenset(("argparse", "jsonargparse", "wrapt", "clearml"))
# LightningCLI's parsers: what they make is its configuration, which the Lightning framework records.
_LIGHTNING: Final = ("lightning.pytorch.cli", "pytorch_lightning.cli")
_MANY: Final = "TrainingArguments"
_LISTENING: Final = Guard("recording arguments")

_METHODS: Final = {"argparse": "parse_known_args", "jsonargparse": "parse_args"}
_listeners: dict[int, Listener] = {}
_patches: dict[tuple[type, str], MethodPatch] = {}
_depth = threading.local()
_awaited: dict[str, None] = {}


def listen(listener: Listener) -> Callable[[], None]:
    """Have a function called with the arguments of each command line that is parsed from now on.

    Returns:
        What ends that.
    """
    with _LISTENING:
        _listeners[id(listener)] = listener
        for module in _METHODS:
            _await(module)

    def end() -> None:
        with _LISTENING:
            _listeners.pop(id(listener), None)
            if not _listeners:
                for patch in _patches.values():
                    patch.uninstall()

    return end


def _install(owner: type, name: str) -> None:
    patch = _patches.setdefault((owner, name), MethodPatch(owner, name, _around))
    patch.install()


def _await(module: str) -> None:
    if module in sys.modules:
        _on_import(importlib.import_module(module))
    elif module not in _awaited:
        import wrapt

        _awaited[module] = None
        wrapt.register_post_import_hook(_on_import, module)


def _on_import(module: ModuleType) -> None:
    name = _METHODS[module.__name__]
    owner = next((base for base in module.ArgumentParser.__mro__ if name in base.__dict__), None)
    if not _listeners or owner is None:
        return
    try:
        _install(owner, name)
    except Exception as error:  # it must not break the user's import
        swallow(f"listening to {module.__name__}", error)


def _around(switch: Switch) -> Wrapper:
    def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if not switch.on or getattr(_depth, "inside", False):
            return wrapped(*args, **kwargs)
        given = args[0] if args else kwargs.get("args")
        try:
            # Parsing may change the list.
            own = given is None or (isinstance(given, Sequence) and list(given) == sys.argv[1:])
        except Exception:  # a list of the user's own making
            own = False
        _depth.inside = True
        try:
            result = wrapped(*args, **kwargs)
        finally:
            _depth.inside = False
        if own:
            with _LISTENING:
                _tell(instance, result, sys._getframe(1))
        return result

    return wrapper


def _tell(parser: Any, result: Any, frame: FrameType | None) -> None:
    if any(kind.__module__ in _LIGHTNING for kind in type(parser).__mro__) or _is_anothers(frame):
        return
    namespace = result[0] if isinstance(result, tuple) else result
    found = flatten(_said(parser, vars(namespace)))
    for listener in list(_listeners.values()):
        listener(found)


def _said(parser: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments but for those of Transformers' TrainingArguments, more than a hundred, that are as they are by default."""
    many = {
        name
        for kind in getattr(parser, "dataclass_types", ())
        if any(base.__name__ == _MANY and base.__module__.startswith("transformers.") for base in kind.__mro__)
        for name in getattr(kind, "__dataclass_fields__", ())
    }
    return {n: value for n, value in arguments.items() if n not in many or value != parser.get_default(n)}


def _is_anothers(frame: FrameType | None) -> bool:
    """Whether the parser belongs to a launcher or a test runner: to the first caller that is no parser itself."""
    while frame is not None:
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top not in _BETWEEN and not _is_ours(frame):
            return top in _OTHERS
        frame = frame.f_back
    return False


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == __name__
