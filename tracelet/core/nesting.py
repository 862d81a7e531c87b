"""Which run is within which.

A nested run is within another one, its *outer* run, from its start. It was found either in the context in which the nested
one was started, or, by a thread that has no context of its own, among the runs of the main thread. The first is a link by
which a context that has lost its run finds the one around it; along the second a thread never walks: what it starts must not
take the place of a run that the main thread started.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.core.options import Options

__all__ = ["around", "of_main_thread", "options_of", "outer_of", "outermost", "outers", "put", "shared", "within"]


class _Nest(NamedTuple):
    outer: Experiment | None
    by_context: bool
    in_main: bool
    options: Options | None


_nests: weakref.WeakKeyDictionary[Experiment, _Nest] = weakref.WeakKeyDictionary()
_NONE = _Nest(None, False, False, None)


def put(run: Experiment, outer: Experiment | None, by_context: bool, options: Options | None) -> None:
    """A run starts here and now; or again: then it stays where it is.

    Args:
        run: the run.
        outer: the run that it is within.
        by_context: that is the context's.
        options: what it was started with.
    """
    if outer is None and (known := _nests.get(run)) is not None:
        _nests[run] = known._replace(options=options or known.options)
        return
    in_main = threading.current_thread() is threading.main_thread() and (outer is None or _of(outer).in_main)
    _nests[run] = _Nest(outer, by_context, in_main, options)


def outer_of(run: Experiment) -> Experiment | None:
    """The run that a run is within."""
    return _of(run).outer


def around(run: Experiment) -> Experiment | None:
    """The same, if it was found in the context."""
    nest = _of(run)
    return nest.outer if nest.by_context else None


def outers(run: Experiment) -> list[Experiment]:
    """All that a run is within, the innermost first."""
    chain = []
    while (outer := outer_of(run)) is not None:
        chain.append(outer)
        run = outer
    return chain


def options_of(run: Experiment) -> Options | None:
    """What a run was started with; None when nobody knows."""
    return _of(run).options


def outermost(run: Experiment, runs: Iterable[Experiment]) -> Experiment:
    """The run around all others around a run, of those that are there."""
    there = set(runs)
    found = run
    while (outer := around(run)) is not None:
        run = outer
        if run in there:
            found = run
    return found


def within(run: Experiment, runs: Iterable[Experiment]) -> list[Experiment]:
    """Of some runs those that are within one, the innermost first."""
    chains = [(outers(other), other) for other in runs if other is not run]
    return [other for chain, other in sorted(chains, key=lambda each: -len(each[0])) if run in chain]


def shared(runs: Iterable[Experiment]) -> Experiment | None:
    """The run that each of some runs is, or is within, or has within it: the innermost one.

    Of a chain that is its end; of several runs within one, that one; of runs that have nothing in common, none.
    """
    there = list(runs)
    around_some = {outer for run in there for outer in outers(run)}
    found: list[Experiment] | None = None
    for run in there:
        if run in around_some:
            continue
        chain = [outer for outer in (*reversed(outers(run)), run) if outer in there]
        found = chain if found is None else [one for one, other in zip(found, chain, strict=False) if one is other]
    return found[-1] if found else None


def of_main_thread(runs: Iterable[Experiment]) -> list[Experiment]:
    """Of some runs those that the main thread started, within such as it started too."""
    return [run for run in runs if _of(run).in_main]


def _of(run: Experiment) -> _Nest:
    return _nests.get(run, _NONE)
