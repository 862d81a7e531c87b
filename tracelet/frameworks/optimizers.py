"""Optimizers: what every step leaves in a run, by torch's global step hooks.

The hooks reach optimizers that were made before, and subclasses of the user's. Each step is recorded once: an ordinary one as
`steps` counts it; a population optimizer tells whether a step has ended since it was last asked.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tracelet.frameworks import ordinary, populations
from tracelet.frameworks.backwards import leaves
from tracelet.frameworks.base import Framework
from tracelet.frameworks.hearing import Hearing
from tracelet.frameworks.optimizer_hooks import Hooks
from tracelet.frameworks.optimizer_names import ByObject, Names
from tracelet.frameworks.reading import Reader
from tracelet.frameworks.scaling import unscaled
from tracelet.frameworks.steps import Stepping, here, is_capturing
from tracelet.frameworks.tensors import is_scalar, on_host

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["OptimizersFramework"]

# Never imported from here: who has no such optimizer does not pay for it.
_POPULATIONS: Final = "tracelet.optim.population"


class OptimizersFramework(Framework):
    """The optimizers of a run. `start_logging` gives every run one; another one that is initialised takes its place.

    Args:
        every: steps between two records of an optimizer; None for each one's own rhythm (every step of a population
            optimizer, every 50th of an ordinary one), 0 for none.
        status: of a population optimizer, record all numbers of its `status`.
        histogram_every: steps between two histograms of a population; 0 for none.

    Attributes:
        kept: what is kept of each optimizer, by its identity.
    """

    identifier: ClassVar[str] = "optimizers"
    module: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch"
    since: ClassVar[tuple[int, ...]] = (2, 2)
    before: ClassVar[tuple[int, ...]] = (3,)
    _hooks: ClassVar[Hooks] = Hooks()

    def __init__(self, every: int | None = None, status: bool = False, histogram_every: int = 100) -> None:
        super().__init__(captures=every != 0)
        self.every = every
        self.status = status
        self.histogram_every = histogram_every
        self.kept: dict[int, Any] = {}
        self._names = Names()
        self._searches = ByObject[populations.Listener]()
        self._recorded: dict[str, ordinary.Listener] = {}
        self._hearing = Hearing(self._recorded, self._hooks.hearing)
        self._reader: Reader | None = None

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
        cls._hooks.install(module)

    @classmethod
    def unpatch(cls) -> None:
        """Take the hooks off; when they are not on, do nothing."""
        cls._hooks.uninstall()

    def start_tracking(self) -> None:
        """Record the steps of optimizers; also again, after `stop_tracking`.

        Raises:
            ConfigurationError: no run was given by `initialize`.
        """
        super().start_tracking()
        if self.tracking and self._experiment is not None:
            self._hooks.hearing(self._hearing)
            self._experiment.occasions.before_end(self._hearing.end)

    @property
    def updates(self) -> dict[str, int]:
        """How many steps each ordinary optimizer has made, by its name in the run."""
        return {name: listener.updates for name, listener in list(self._recorded.items())}

    @property
    def reader(self) -> Reader:
        """What reads numbers for the run."""
        if self._reader is None:
            assert self._experiment is not None
            self._reader = Reader(self._experiment)
        return self._reader

    # -- what the hooks call

    def met(self, optimizer: Any) -> None:
        """There is an optimizer, whose first step is recorded."""
        self._names.met(optimizer)
        if not _is_population(type(optimizer)):
            self._hearing.met()

    def know(self, module: Any) -> None:
        """There is a model whose parameters' names tell its optimizers apart."""
        self._names.know(module)

    def searched(self, optimizer: Any) -> None:
        """A population optimizer's step returned: record it, if it was one."""
        heard = optimizer._heard()
        if heard is None or self._experiment is None:  # a hook fired again; or the search is over
            return
        state, numbers = heard
        if is_capturing(state.positions):
            return  # a graph is being recorded: reading would spoil it
        listener = self._searches.get(optimizer)
        if listener is None:
            name = self._names.of(optimizer)
            listener = populations.Listener(self._experiment, name, self.every or 1, self.status, self.histogram_every)
            self._searches.put(optimizer, listener)
        listener.stepped(optimizer, state, numbers)

    def skipped(self, optimizer: Any) -> None:
        """A GradScaler did not let an optimizer step."""
        if not isinstance(optimizer, sys.modules["torch"].optim.Optimizer):
            return  # fastai's callback stands in for the optimizer, which steps later, if that was called
        kept = self.kept.get(id(optimizer))
        if kept is None or kept.optimizer() is not optimizer:
            kept = self.keep(optimizer)
        if isinstance(kept, ordinary.Listener):
            kept.skipped(optimizer)

    def hears(self) -> None:
        """Something is heard in this thread: forget what was heard in another run, or long ago."""
        if here.since is not self._hearing.since:
            here.forget(self._hearing.since)

    def after_backward(self, tensors: Any, inputs: Sequence[Any]) -> None:
        """`backward()` returned.

        Args:
            tensors: on what it was called.
            inputs: the only ones whose gradients it changed; empty for all.
        """
        given = tensors if isinstance(tensors, list | tuple) else [tensors]
        losses = [tensor for tensor in given if is_scalar(tensor)]
        if not losses or is_capturing(losses[0]):
            return
        self.hears()
        loss, scale = losses[0], None
        if here.scaled:
            loss, scale, here.scaled = unscaled(here.scaled, loss)
        loss = loss.detach()
        for other in losses[1:]:  # their gradients add up
            loss = loss + other.detach()
        value: Any = loss
        changed: list[ordinary.Listener] = []
        if self._hearing.is_due():
            # The script may change the loss in its place before the step.
            number = on_host(loss) if scale is None and loss.is_cpu else None
            value = loss.clone() if number is None else number
            if len(self._recorded) > 1:
                changed = self._changed(losses, inputs)
        here.losses.heard(value, scale, changed)

    def _changed(self, losses: Sequence[Any], inputs: Sequence[Any]) -> list[ordinary.Listener]:
        """The optimizers to whose gradients some losses have added."""
        known = [(listener, listener.optimizer()) for listener in list(self._recorded.values())]
        known = [(listener, optimizer) for listener, optimizer in known if optimizer is not None]
        if len(known) == 1:
            return []  # it takes what was heard last
        reached = {id(each) for each in inputs} or set().union(*map(leaves, losses))
        return [each for each, optimizer in known if not reached.isdisjoint(each.parameters(optimizer))]

    def wants_norm(self, parameter: int) -> bool:
        """Whether the norm of gradients that are clipped now is recorded.

        Args:
            parameter: the identity of one whose gradient is among them.
        """
        for listener in list(self._recorded.values()):
            optimizer = listener.optimizer()
            if optimizer is not None and parameter in listener.parameters(optimizer):
                return listener.due
        return True  # of an optimizer that has not stepped yet

    def keep(self, optimizer: Any) -> Stepping | None:
        """Know an optimizer that steps; None when nothing is recorded."""
        run = self._experiment
        if run is None or not run.active:
            return None
        kept: Stepping
        key, known = id(optimizer), self.kept

        def forget(gone: weakref.ref[Any]) -> None:
            if (other := known.get(key)) is not None and other.optimizer is gone:
                del known[key]
                other.due = False

        reference = weakref.ref(optimizer, forget)
        if _is_population(type(optimizer)):
            kept = _Search(self, reference)
        else:
            every = self.every or ordinary.EVERY
            kept = ordinary.Listener(run, self.reader, reference, self._name, self._hearing, every)
        known[key] = kept
        return kept

    def _name(self, listener: ordinary.Listener) -> str:
        name = self._names.of(listener.optimizer())
        self._recorded[name] = listener
        self._hearing.met()
        return name


class _Search:
    """A population optimizer among those whose steps are under way."""

    due = False

    def __init__(self, framework: OptimizersFramework, optimizer: weakref.ref[Any]) -> None:
        self._framework = framework
        self.optimizer = optimizer
        self.inner: Stepping | None = self  # it tells by itself whether a step has ended

    def begins(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Its step begins."""

    def ended(self, optimizer: Any) -> None:
        """Its step returned."""
        self._framework.searched(optimizer)


def _is_population(kind: type) -> bool:
    module = sys.modules.get(_POPULATIONS)
    return module is not None and issubclass(kind, module.PopulationOptimizer)
