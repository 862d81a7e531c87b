"""An exporter driven as delivery drives it: records in the log's order, and a memory that is committed with the cursor."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tracelet_collector.exporters.base import Dead, Exporter, Item, Outcome, Rewind, Run

from tracelet.core.metrics import POINTS, Metric, Record

__all__ = ["Courier", "points_of"]

_MOST_REWINDS = 3  # in a row: more would never end


@dataclass
class _Memory:
    kept: dict[int, int] = field(default_factory=dict)

    def recall(self, keys: Sequence[int]) -> Mapping[int, int]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def working(self, seconds: float) -> None:
        assert seconds > 0


class Courier:
    """Delivers records to one run, and commits what became of them.

    Chunks begin and end where batches of the log do. When the exporter asks for a `Rewind`, all that was committed is
    forgotten, and comes again from the first record on, cut elsewhere.

    Args:
        make: a new exporter; several couriers may be given the same one.
        run: whose records they are.
        seed: of where chunks are cut after a rewind.

    Attributes:
        delivered, collapsed, rerouted: points, as committed.
        dead: letters, as committed.
        rewinds: how often the exporter asked for one.
    """

    def __init__(self, make: Callable[[], Exporter], run: Run, seed: int = 0) -> None:
        self._make = make
        self._chance = random.Random(seed)
        self.exporter = make()
        self.run = run
        self.rewinds = 0
        self.next_lsn = 1
        self.next_seq = 0
        self._committed: list[Item] = []
        self._forget()

    def _forget(self) -> None:
        self.state: dict[str, Any] = {}
        self.memory = _Memory()
        self.delivered = self.collapsed = self.rerouted = 0
        self.dead: list[Dead] = []

    def items(self, records: Iterable[Record]) -> list[Item]:
        """Records as one batch of the log: with the places that it gives them."""
        items = [Item(self.next_lsn, self.next_seq + at, record) for at, record in enumerate(records)]
        self.next_lsn += 1
        self.next_seq += len(items)
        return items

    def batches(self, records: Sequence[Record], chance: random.Random, most: int = 10) -> list[list[Item]]:
        """Records as batches of the log, of up to `most` each."""
        found, at = [], 0
        while at < len(records):
            end = at + chance.randint(1, most)
            found.append(self.items(records[at:end]))
            at = end
        return found

    def deliver(self, *records: Record) -> Outcome:
        """Deliver records as one chunk, and commit."""
        return self.deliver_items(self.items(records))

    def deliver_items(self, items: Sequence[Item]) -> Outcome:
        """Deliver a chunk, and commit."""
        outcome = self.deliver_uncommitted(items)
        self._commit(items, outcome)
        self._committed += items
        return outcome

    def deliver_uncommitted(self, items: Sequence[Item]) -> Outcome:
        """Deliver a chunk, and crash before the commit: nobody knows."""
        for _ in range(_MOST_REWINDS):
            try:
                return self._export(items)
            except Rewind:
                self._rewind()
        return self._export(items)

    def deliver_crashing(self, batches: Sequence[Sequence[Item]], chance: random.Random, restarts: float) -> None:
        """Deliver batches in chunks, with crashes between delivery and commit; after a crash chunks are cut elsewhere.

        Args:
            batches: of the log.
            chance: draws the cuts and the crashes.
            restarts: the part of the crashes that end the worker too.
        """
        at = 0
        while at < len(batches):
            for _ in range(chance.randrange(3)):
                self.deliver_uncommitted(_joined(batches[at : at + chance.randint(1, 8)]))
                if chance.random() < restarts:
                    self.restart()
            end = at + chance.randint(1, 8)
            self.deliver_items(_joined(batches[at:end]))
            at = end

    def restart(self) -> None:
        """A new worker: nothing is left but what was committed."""
        self.exporter.close()
        self.exporter = self._make()

    def _export(self, items: Sequence[Item]) -> Outcome:
        before = copy.deepcopy(self.state)
        outcome = self.exporter.export(self.run, items, self.state, self.memory)
        assert self.state == before, "the exporter changed the state it was given"
        points = sum(isinstance(item.record, POINTS) for item in items)
        assert outcome.delivered + outcome.collapsed + outcome.rerouted + len(outcome.dead) == points
        assert all(-(2**63) <= number < 2**63 for entry in outcome.stamps.items() for number in entry)
        return outcome

    def _commit(self, items: Sequence[Item], outcome: Outcome) -> None:
        self.state = json.loads(json.dumps(outcome.state))
        self.memory.kept.update(outcome.stamps)
        self.delivered += outcome.delivered
        self.collapsed += outcome.collapsed
        self.rerouted += outcome.rerouted
        self.dead += outcome.dead

    def _rewind(self) -> None:
        """All that was committed, again from the first record on."""
        self.rewinds += 1
        self._forget()
        batches = [list(batch) for _, batch in groupby(self._committed, key=lambda item: item.lsn)]
        at = rewinds = 0
        while at < len(batches):
            end = at + self._chance.randint(1, 8)
            items = _joined(batches[at:end])
            try:
                outcome = self._export(items)
            except Rewind:
                self.rewinds += 1
                rewinds += 1
                assert rewinds < _MOST_REWINDS, "the exporter rewinds for ever"
                self._forget()
                at = 0
                continue
            self._commit(items, outcome)
            at = end


def _joined(batches: Iterable[Sequence[Item]]) -> list[Item]:
    return [item for batch in batches for item in batch]


def points_of(items: Iterable[Item]) -> list[Metric]:
    """The points among items."""
    return [item.record for item in items if isinstance(item.record, Metric)]
