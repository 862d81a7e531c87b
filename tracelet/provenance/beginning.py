"""Begins what is recorded of a run beside what its script logs: in the process that began it, and where else it makes sense."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tracelet.core import nesting
from tracelet.core.ranks import rank
from tracelet.guard import Guard

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options

__all__ = ["SETTINGS", "begin"]

SETTINGS: Final = frozenset({"provenance", "environment", "system_every", "console"})  # what `begin` reads
_BEGINNING: Final = Guard("recording what the run was")
_ENDING: Final = Guard("ending what is recorded of the run")
_AT_END: Final = 2.0  # seconds that the script waits for the rest
_LAST: Final = 0.2  # and for the last look, where there is nothing left of that
_begun: weakref.WeakKeyDictionary[Experiment, list[Callable[[float], Any]]] = weakref.WeakKeyDictionary()


def begin(run: Experiment, options: Options, *, below: bool = False) -> None:
    """Record what a run was, how the machine fares, and what the script prints, as the settings say.

    All that takes time happens on threads. In the process that began the run; of the ranks of a distributed training the first
    one tells its parameters, and the first of each node how that one fares. A nested run has its own parameters and its own
    console; of the rest it has the tags: what the machine does, and all files, are its outer run's. Calling it again, before
    the run has a stream, takes the place of the first call.

    Args:
        run: records; one without a stream is waited for.
        options: the settings.
        below: it is within a run of a process above.
    """
    if not run.active or not run.plan.carried or not (options.provenance or options.system_every or options.console):
        return
    with _BEGINNING:
        _begin(run, options, below)


def _begin(run: Experiment, options: Options, below: bool) -> None:
    me = rank()
    around = [known for outer in nesting.outers(run) if (known := nesting.options_of(outer)) is not None]
    owner = run.is_owner
    ends = _begun.get(run)
    if ends is not None:
        if run.begun:
            return
        while ends:
            ends.pop()(0.0)
    first = owner or (me is not None and me.rank == 0)
    of_node = owner or (me is not None and me.rank > 0 and me.local_rank == 0)
    at_once: list[Callable[[], None]] = []
    threads: list[Callable[[], None]] = []
    ends = _begun[run] = []
    if options.system_every and of_node and not (below or any(known.system_every for known in around)):
        from tracelet.provenance.system import SystemMetrics

        metrics = SystemMetrics(run, options.system_every)
        threads.append(metrics.start)
        ends.append(metrics.end)
    if options.console and owner:
        from tracelet.provenance.console import Console

        console = Console(run)
        at_once.append(console.watch)
        threads.append(console.start)
        ends.append(console.end)
    if options.provenance and first:
        from tracelet.provenance.arguments import listen
        from tracelet.provenance.gathering import Gathering
        from tracelet.provenance.parameters import in_frames, of_hydra

        nested = below or any(known.provenance for known in around)
        gathering = Gathering(run, options.environment, "parameters" if not owner else "tags" if nested else "all")
        heard: list[None] = []

        def hear(params: dict[str, Any]) -> None:
            heard.append(None)
            gathering.found(params)

        def look() -> None:
            # In the middle of start_logging, or of what records first: the script's names are in the frames above.
            gathering.found({**of_hydra(), **in_frames(sys._getframe(), namespaces=not heard)})

        at_once.append(look)
        hush = listen(hear)
        ends += [gathering.end, lambda _: hush()]
        if owner:
            gathering.alongside, threads = threads, []
        threads.append(gathering.start)

    def start_all() -> None:
        if _begun.get(run) is ends:
            for start in (*at_once, *threads):
                with _BEGINNING:
                    start()

    def end_all() -> None:
        if _begun.get(run) is not ends:
            return
        del _begun[run]
        until = time.monotonic() + _AT_END
        while ends:  # what was started alongside comes after what started it
            with _ENDING:
                ends.pop()(max(until - time.monotonic(), _LAST))

    run.occasions.when_begun(start_all)
    run.occasions.before_end(end_all)
