"""Files that a library's calls write, as artifacts of the run, once the call has returned.

A call may end in another one that is seen too: the outermost has the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["FOLDERS", "keep", "keeping", "path_in"]

# By kind: the folder in the run, and the artifact's type.
FOLDERS: Final[Mapping[str, tuple[str, str]]] = {
    "checkpoints": ("checkpoints", "checkpoint"),
    "exports": ("exports", "export"),
    "profiles": ("profiles", "profile"),
}
_within: Final[ContextVar[bool]] = ContextVar("tracelet_keeping", default=False)

RunOf = Callable[[], "Experiment | None"]


def keeping(
    kind: str, run_of: RunOf, paths: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], list[Any]]
) -> Callable[[Switch], Wrapper]:
    """A wrapper that keeps what a call writes.

    Args:
        kind: of the files.
        run_of: the run that keeps them; None for none.
        paths: where the call writes, by its instance and arguments. What is no path of a file that is there is left out.
    """

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            if not switch.on or _within.get():
                return wrapped(*args, **kwargs)
            token = _within.set(True)
            try:
                result = wrapped(*args, **kwargs)
            finally:
                _within.reset(token)
            try:
                if (run := run_of()) is not None:
                    keep(run, kind, paths(instance, args, kwargs))
            except Exception as error:
                swallow(f"keeping {kind}", error)
            return result

        return wrapper

    return build


def keep(run: Experiment, kind: str, paths: list[Any]) -> None:
    """Keep files, or folders, that are there."""
    folder, word = FOLDERS[kind]
    for path in paths:
        if isinstance(path, str | os.PathLike) and os.path.exists(path):
            name = os.path.basename(os.path.abspath(path))
            run.log_artifact(path, f"{folder}/{name}", type=word)


def path_in(at: int, name: str) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], list[Any]]:
    """The path that a call is given, by its place among the arguments and its name."""

    def paths(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        return [args[at] if len(args) > at else kwargs.get(name)]

    return paths
