"""Watches what a method of a SummaryWriter writes, without a patch on the file's writer, which every scalar would pay for.

The method is called on a stand-in for the writer. That is the writer in everything but one: what it gives out as its file's
writer passes each summary and graph on to the real one, and keeps it for us too. So content is encoded once, by TensorBoard,
and nothing is shared between threads or calls.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from wrapt import ObjectProxy

from tracelet.guard import say, swallow
from tracelet.patching import Switch, Wrapper

__all__ = ["Taken", "watching"]

if TYPE_CHECKING:
    _Proxy = ObjectProxy[Any]
else:
    _Proxy = ObjectProxy

Hook = Callable[[Any, "list[Taken]", "tuple[Any, ...]", "Mapping[str, Any]"], None]


class Taken(NamedTuple):
    """What was written.

    Attributes:
        content: a Summary, or a GraphDef.
        step: as the file's writer got it.
        walltime: likewise.
    """

    content: Any
    step: Any
    walltime: Any


class _WatchedFile(_Proxy):
    def __init__(self, file: Any, taken: list[Taken]) -> None:
        super().__init__(file)
        self._self_taken = taken

    def add_summary(self, summary: Any, global_step: Any = None, walltime: Any = None) -> Any:
        result = self.__wrapped__.add_summary(summary, global_step, walltime)
        self._self_taken.append(Taken(summary, global_step, walltime))
        return result

    def add_graph(self, graph_profile: Any, walltime: Any = None) -> Any:
        result = self.__wrapped__.add_graph(graph_profile, walltime)
        self._self_taken.append(Taken(graph_profile[0], None, walltime))
        return result

    def add_onnx_graph(self, graph: Any, walltime: Any = None) -> Any:
        result = self.__wrapped__.add_onnx_graph(graph, walltime)
        self._self_taken.append(Taken(graph, None, walltime))
        return result


class _WatchedWriter(_Proxy):
    def __init__(self, writer: Any, taken: list[Taken]) -> None:
        super().__init__(writer)
        self._self_taken = taken

    def _get_file_writer(self) -> Any:
        return _WatchedFile(self.__wrapped__._get_file_writer(), self._self_taken)

    def __getattr__(self, name: str) -> Any:
        writer = self.__wrapped__
        if name.startswith("add_") and name not in writer.__dict__:
            # `add_figure` calls `self.add_image`: on the stand-in, so that it is the figure's picture and no image beside it.
            kind = type(writer)
            return getattr(kind, name).__get__(self, kind)
        return getattr(writer, name)


def watching(what: str, wanted: Callable[[Any], bool], hook: Hook) -> Callable[[Switch], Wrapper]:
    """A wrapper that calls `hook(writer, taken, args, kwargs)` once the original has returned.

    Args:
        what: the call, as the line on stderr names it.
        wanted: whether a writer's calls are recorded now.
        hook: must not change what it gets.
    """

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            taken: list[Taken] | None = None
            call = wrapped
            if switch.on and type(instance) is not _WatchedWriter:
                try:
                    if wanted(instance):
                        taken = []
                        call = _on(wrapped, _WatchedWriter(instance, taken))
                except Exception as error:
                    swallow(what, error)
                    taken, call = None, wrapped
            result = call(*args, **kwargs)
            if taken is not None:
                try:
                    if call is wrapped:
                        say(f"{what} is not possible: another tool has put something there that cannot be watched")
                    else:
                        hook(instance, taken, args, kwargs)
                except Exception as error:
                    swallow(what, error)
            return result

        return wrapper

    return build


def _on(bound: Any, instance: Any) -> Any:
    """A bound method, bound to another instance; itself, where nobody can tell how."""
    if type(bound) is types.MethodType:
        return types.MethodType(bound.__func__, instance)
    parent = getattr(bound, "_self_parent", None)  # what another tool wrapped by wrapt
    return bound if parent is None else parent.__get__(instance, type(instance.__wrapped__))
