"""Optimizers: what every step of a population optimizer tells of itself, by torch's global step hooks.

The hooks reach optimizers that were made before, and subclasses of the user's. They fire twice when a subclass calls
`super().step()`: a step is known by the optimizer's own count of steps, and recorded once.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.core.active import current
from tracelet.frameworks.base import Framework
from tracelet.frameworks.patching import MethodPatch, after
from tracelet.frameworks.populations import Listener
from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["OptimizersFramework"]

_POPULATIONS: Final = (
    "tracelet.optim.population"  # never imported from here: who has no such optimizer does not pay for it
)


class OptimizersFramework(Framework):
    """The optimizers of a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        every: steps between two records of an optimizer; None for each one's own rhythm (every step of a population
            optimizer), 0 for none.
        status: of a population optimizer, record all numbers of its `status`.
        histogram_every: steps between two histograms of a population; 0 for none.
    """

    identifier: ClassVar[str] = "optimizers"
    module: ClassVar[str] = "torch.optim.optimizer"
    package: ClassVar[str] = "torch"
    since: ClassVar[tuple[int, ...]] = (2, 2)
    _hook: ClassVar[Any] = None
    _met: ClassVar[MethodPatch | None] = None

    def __init__(self, every: int | None = None, status: bool = False, histogram_every: int = 100) -> None:
        super().__init__(captures=every != 0)
        self.every = every
        self.status = status
        self.histogram_every = histogram_every
        self._names = _Names()
        self._listeners: weakref.WeakKeyDictionary[Any, Listener] = weakref.WeakKeyDictionary()

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about optimizers."""
        return {
            "every": options.optimizer_every,
            "status": options.optimizer_status,
            "histogram_every": options.optimizer_histogram_every,
        }

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The setting that switches the capture off, if it does."""
        return ["optimizer_every"] if options.optimizer_every == 0 else []

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Hook into the steps and constructions of all optimizers; when that is done, do nothing."""
        if cls._hook is None:
            cls._hook = module.register_optimizer_step_post_hook(_on_step)
        if cls._met is None:
            # How many there are of a class has to be known before the first of them steps.
            cls._met = MethodPatch(module.Optimizer, "__init__", after("meeting an optimizer", _on_init))
        cls._met.install()

    @classmethod
    def unpatch(cls) -> None:
        """Take the hooks off; when they are not on, do nothing."""
        if cls._hook is not None:
            cls._hook.remove()
            cls._hook = None
        if cls._met is not None:
            cls._met.uninstall()

    def met(self, optimizer: Any) -> None:
        """There is an optimizer."""
        self._names.met(optimizer)

    def stepped(self, optimizer: Any) -> None:
        """A population optimizer ended a step."""
        listener = self._listeners.get(optimizer)
        if listener is None:
            if self._experiment is None:
                return
            name = self._names.of(optimizer)
            listener = Listener(self._experiment, name, self.every or 1, self.status, self.histogram_every)
            self._listeners[optimizer] = listener
        listener.stepped(optimizer)


def _is_population(kind: type) -> bool:
    module = sys.modules.get(_POPULATIONS)
    return module is not None and issubclass(kind, module.PopulationOptimizer)


def _framework() -> OptimizersFramework | None:
    run = current()
    if run is None or not run.active:
        return None
    framework = run._frameworks.get(OptimizersFramework.identifier)
    return framework if framework is not None and framework.tracking else None


def _on_init(optimizer: Any, *_: Any, **__: Any) -> None:
    if _is_population(type(optimizer)) and (framework := _framework()) is not None:
        framework.met(optimizer)


def _on_step(optimizer: Any, *_: Any) -> None:
    try:
        if _is_population(type(optimizer)) and (framework := _framework()) is not None:
            framework.stepped(optimizer)
    except Exception as error:
        swallow("recording an optimizer's step", error)


class _Names:
    """What the optimizers of a run are called.

    The name is that of the class. Of several, each is called with what its parameters' names begin with (`generator.BFO`), or
    with its number in the order of their making (`BFO.0`). The first one keeps its plain name when nobody knew of the second.
    """

    def __init__(self) -> None:
        self._of_class: dict[str, list[_Met]] = {}
        self._taken: dict[str, None] = {}

    def met(self, optimizer: Any) -> _Met:
        """Know an optimizer among those of its class."""
        known = self._of_class.setdefault(type(optimizer).__name__, [])
        for other in known:
            if other.reference() is optimizer:
                return other
        known.append(_Met(weakref.ref(optimizer)))
        return known[-1]

    def of(self, optimizer: Any) -> str:
        """The name of an optimizer that begins to be recorded."""
        kind, mine = type(optimizer).__name__, self.met(optimizer)
        # One that is gone and never stepped is forgotten.
        known = [each for each in self._of_class[kind] if each.named or each.reference() is not None]
        self._of_class[kind] = known
        names = [kind] if known == [mine] else []
        if not names and (prefix := _prefix(optimizer)):
            names.append(f"{prefix}.{kind}")
        numbered = (f"{kind}.{number}" for number in count(known.index(mine)))
        name = next(name for name in chain(names, numbered) if name not in self._taken)
        self._taken[name] = None
        mine.named = True
        return name


@dataclass(eq=False, slots=True)
class _Met:
    reference: weakref.ref[Any]
    named: bool = False


def _prefix(optimizer: Any) -> str:
    """The module that all parameters of an optimizer are in, where it was given their names."""
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    first = {name.partition(".")[0] for name in names if "." in name}
    return first.pop() if len(first) == 1 and all("." in name for name in names) else ""
