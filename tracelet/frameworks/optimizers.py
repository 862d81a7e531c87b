"""Optimizers: what every step of a population optimizer tells of itself, by torch's global step hooks.

The hooks reach optimizers that were made before, and subclasses of the user's. They fire twice when a subclass calls
`super().step()`: the optimizer tells whether a step has ended since it was last asked, so each is recorded once.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from itertools import chain, count
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from tracelet.core.active import current
from tracelet.frameworks.base import Framework
from tracelet.frameworks.patching import MethodPatch, after
from tracelet.frameworks.populations import Listener
from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["OptimizersFramework"]

T = TypeVar("T")
# Never imported from here: who has no such optimizer does not pay for it.
_POPULATIONS: Final = "tracelet.optim.population"


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
        self._listeners = _ByObject[Listener]()

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
        """A population optimizer's step returned: record it, if it was one."""
        heard = optimizer._heard()
        if heard is None or self._experiment is None:  # a hook fired again; or the search is over
            return
        state, numbers = heard
        if state.positions.is_cuda and sys.modules["torch"].cuda.is_current_stream_capturing():
            return  # a graph is being recorded: reading would spoil it
        listener = self._listeners.get(optimizer)
        if listener is None:
            name = self._names.of(optimizer)
            listener = Listener(self._experiment, name, self.every or 1, self.status, self.histogram_every)
            self._listeners.put(optimizer, listener)
        listener.stepped(optimizer, state, numbers)


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


class _ByObject(Generic[T]):
    """Something for each of some objects, as long as they live: whatever they say of equality, and of their hash."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[Any], T]] = {}

    def get(self, thing: Any) -> T | None:
        kept = self._kept.get(id(thing))
        return kept[1] if kept is not None and kept[0]() is thing else None

    def put(self, thing: Any, value: T, gone: Callable[[T], Any] = lambda _: None) -> None:
        """Keep a value. `gone` is called with it when the object is gone."""
        key = id(thing)

        def forget(reference: weakref.ref[Any]) -> None:
            if (kept := self._kept.get(key)) is not None and kept[0] is reference:
                del self._kept[key]
            gone(value)

        self._kept[key] = (weakref.ref(thing, forget), value)


class _Met:
    """An optimizer that there is, or was."""

    named = False


class _Names:
    """What the optimizers of a run are called.

    The name is that of the class. Of several, each is called with what its parameters' names begin with (`generator.BFO`), or
    with its number in the order of their making (`BFO.0`). The first one keeps its plain name when nobody knew of the second.
    """

    def __init__(self) -> None:
        self._met = _ByObject[_Met]()
        # In the order of their making; none that is gone without a name.
        self._of_class: dict[str, dict[_Met, None]] = {}
        self._taken: dict[str, None] = {}

    def met(self, optimizer: Any) -> _Met:
        """Know an optimizer among those of its class."""
        if (known := self._met.get(optimizer)) is not None:
            return known
        mine, others = _Met(), self._of_class.setdefault(type(optimizer).__name__, {})
        others[mine] = None
        self._met.put(optimizer, mine, lambda met: None if met.named else others.pop(met, None))
        return mine

    def of(self, optimizer: Any) -> str:
        """The name of an optimizer that begins to be recorded."""
        kind, mine = type(optimizer).__name__, self.met(optimizer)
        of_class = self._of_class.setdefault(kind, {})
        of_class.setdefault(mine, None)  # it may have become of another class
        known = list(of_class)
        names = [kind] if known == [mine] else []
        if not names and (prefix := _prefix(optimizer)):
            names.append(f"{prefix}.{kind}")
        numbered = (f"{kind}.{number}" for number in count(known.index(mine)))
        name = next(name for name in chain(names, numbered) if name not in self._taken)
        self._taken[name] = None
        mine.named = True
        return name


def _prefix(optimizer: Any) -> str:
    """The module that all parameters of an optimizer are in, where it was given their names."""
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    first = {name.partition(".")[0] for name in names if "." in name}
    return first.pop() if len(first) == 1 and all("." in name for name in names) else ""
