"""What goes with a trainable to Ray's workers, pickled: which run is theirs. They may not have tracelet."""

from __future__ import annotations

import pickle
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tracelet.core import nesting

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment

__all__ = ["of", "run_id_of"]

_made: Final[weakref.WeakKeyDictionary[Any, dict[type, type]]] = weakref.WeakKeyDictionary()


def run_id_of(outer: str, trial_id: str) -> str:
    """The run id of a trial: driver and worker come to the same.

    Args:
        outer: id of the run around it.
        trial_id: Ray's.
    """
    return f"{trial_id}-{outer[:100]}"


def of(cache: Any, trainable: type, outer: Experiment) -> type:
    """The class that workers are to be actors of.

    Args:
        cache: Ray's cache of such classes, which knows one by its class.
        trainable: the user's, or what Ray made of a function.
        outer: the run around the trials.
    """
    options = nesting.options_of(outer)
    if options is None or not outer.plan.carried:
        return trainable
    kinds = tuple(backend.kind for backend in outer.plan.backends)
    options = replace(options, project=outer.project, backend=kinds, home=None, parent=None, group=None)
    made = _made.setdefault(cache, {})
    if trainable not in made:
        made[trainable] = _carrying(trainable, outer.id, str(outer.plan.home), pickle.dumps(options))
    return made[trainable]


def _carrying(trainable: Any, outer: str, home: str, options: bytes) -> type:
    # It is pickled by value, as what is defined in a function is. So nothing in it may lead to a name of this module: where
    # tracelet is not installed, the trial could not begin.

    class Carrying(trainable):  # type: ignore[misc]
        def train(self) -> Any:
            self._tracelet_call("join", outer, self.trial_id, self.trial_name, home, options)
            return super().train()

        def reset(self, *args: Any, **kwargs: Any) -> Any:
            self._tracelet_call("leave")
            return super().reset(*args, **kwargs)

        def stop(self) -> Any:
            try:
                return super().stop()
            finally:
                self._tracelet_call("leave")

        def _tracelet_call(self, name: str, *args: Any) -> None:
            if getattr(self, "_tracelet_missing", False):
                return
            try:
                from tracelet.nested import ray_workers

                getattr(ray_workers, name)(*args)
            except Exception as error:  # another version, or none
                import sys

                self._tracelet_missing = True
                said = f"{type(error).__name__}: {error}"
                sys.stderr.write(f"tracelet: what this worker logs is not recorded: {said}\n")

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Carrying, name, getattr(trainable, name))
    return Carrying
