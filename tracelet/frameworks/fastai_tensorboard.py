"""What fastai's TensorBoardCallback writes of a fit: the Recorder's numbers once more, under the same names.

Those are recorded already. The callback counts steps from 1 in each fit, and writes the last training loss again for each batch
of a validation. What else it writes (predictions, a graph, an embedding) arrives as from any SummaryWriter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final

from tracelet.frameworks import once
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.patching import Switch, Wrapper

if TYPE_CHECKING:
    from tracelet.frameworks.fastai import FastaiFramework

__all__ = ["places"]

Library = type["FastaiFramework"]

_MODULE: Final = "fastai.callback.tensorboard"


def places(library: Library) -> list[Place]:
    """Where it is seen."""
    return [
        Place(_MODULE, "TensorBoardCallback", name, _writing(library), later=True)
        for name in ("after_batch", "after_epoch")
    ]


class _Again(once.Scope):
    """Points of these names are those that were recorded."""

    __slots__ = ("_names",)

    def __init__(self, names: AbstractSet[str]) -> None:
        super().__init__()
        self._names = names

    def takes(self, writer: Any, tag: str, value: float, step: int | None) -> bool:
        """Whether a SummaryWriter's point is another one."""
        return tag not in self._names


def _writing(library: Library) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], callback: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            names: AbstractSet[str] = frozenset()
            if switch.on:
                try:
                    if (framework := library.here()) is not None:
                        names = framework.learning(callback.learn).names
                except Exception as error:
                    swallow("seeing what TensorBoardCallback writes", error)
            if not names:
                return wrapped(*args, **kwargs)
            token = once.enter(_Again(names))
            try:
                return wrapped(*args, **kwargs)
            finally:
                once.leave(token)

        return wrapper

    return build
