"""An exporter driven as delivery drives it: records in the log's order, and a memory that is committed with the cursor."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracelet_collector.exporters.base import Dead, Exporter, Item, Outcome, Run

from tracelet.core.metrics import POINTS, Metric, Record

__all__ = ["Courier", "points_of"]


@dataclass
class _Memory:
    kept: dict[int, int] = field(default_factory=dict)

    def recall(self, keys: Sequence[int]) -> Mapping[int, int]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def working(self, seconds: float) -> None:
        assert seconds > 0


class Courier:
    """Delivers records to one run, and commits what became of them.

    Attributes:
        delivered, collapsed, rerouted: points, as committed.
        dead: letters, as committed.
    """

    def __init__(self, make: Callable[[], Exporter], run: Run) -> None:
        self._make = make
        self.exporter = make()
        self.run = run
        self.state: dict[str, Any] = {}
        self.memory = _Memory()
        self.delivered = self.collapsed = self.rerouted = 0
        self.dead: list[Dead] = []
        self.next_seq = 0

    def items(self, records: Iterable[Record]) -> list[Item]:
        """Records with the places that the log gives them."""
        items = [Item(1, self.next_seq + at, record) for at, record in enumerate(records)]
        self.next_seq += len(items)
        return items

    def deliver(self, *records: Record) -> Outcome:
        """Deliver records as one chunk, and commit."""
        return self.deliver_items(self.items(records))

    def deliver_items(self, items: Sequence[Item]) -> Outcome:
        """Deliver a chunk, and commit."""
        outcome = self.deliver_uncommitted(items)
        self.state = json.loads(json.dumps(outcome.state))
        self.memory.kept.update(outcome.stamps)
        self.delivered += outcome.delivered
        self.collapsed += outcome.collapsed
        self.rerouted += outcome.rerouted
        self.dead += outcome.dead
        return outcome

    def deliver_uncommitted(self, items: Sequence[Item]) -> Outcome:
        """Deliver a chunk, and crash before the commit: nobody knows."""
        before = copy.deepcopy(self.state)
        outcome = self.exporter.export(self.run, items, self.state, self.memory)
        assert self.state == before, "the exporter changed the state it was given"
        points = sum(isinstance(item.record, POINTS) for item in items)
        assert outcome.delivered + outcome.collapsed + outcome.rerouted + len(outcome.dead) == points
        assert all(-(2**63) <= number < 2**63 for entry in outcome.stamps.items() for number in entry)
        return outcome

    def restart(self) -> None:
        """A new worker: nothing is left but what was committed."""
        self.exporter.close()
        self.exporter = self._make()


def points_of(items: Iterable[Item]) -> list[Metric]:
    """The points among items."""
    return [item.record for item in items if isinstance(item.record, Metric)]
