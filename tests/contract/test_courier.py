"""The courier plays delivery's part: it is tried with an exporter that asks for everything again."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from tracelet_collector.exporters.base import Item, Memory, Outcome, Rewind, Run

from tests.support.exporting import Courier
from tracelet.core.metrics import Metric, Record

RUN = Run("r", "a run", "a project", "nowhere", 1.0)


class Forgetful:
    """Keeps rows as long as it lives; a new one has none, and says so."""

    kind: ClassVar[str] = "forgetful"
    batch_points: ClassVar[int] = 10
    holds = True

    def __init__(self) -> None:
        self.rows: list[Item] = []
        self.chunks: list[int] = []

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        if state.get("rows", 0) != len(self.rows):
            self.rows.clear()
            raise Rewind("the rows are gone")
        self.rows += items
        self.chunks.append(len(items))
        return Outcome(delivered=len(items), state={"rows": len(self.rows)})

    def close(self) -> None:
        pass


def records(number: int) -> list[Record]:
    return [Metric("a", float(at), at, 1.0) for at in range(number)]


def test_a_rewind_brings_all_again_cut_elsewhere() -> None:
    courier = Courier(Forgetful, RUN)
    chance = random.Random(0)
    batches = courier.batches(records(200), chance, 5)
    for batch in batches[:-1]:
        courier.deliver_items(batch)
    courier.restart()
    courier.deliver_items(batches[-1])
    exporter = courier.exporter
    assert isinstance(exporter, Forgetful)
    assert [item for batch in batches for item in batch] == exporter.rows
    assert (courier.delivered, courier.rewinds, courier.state) == (200, 1, {"rows": 200})
    assert len(exporter.chunks) < len(batches) / 2


def test_batches_have_places_that_grow() -> None:
    courier = Courier(Forgetful, RUN)
    batches = [courier.items(records(3)), *courier.batches(records(20), random.Random(1))]
    assert [item.seq for batch in batches for item in batch] == list(range(23))
    assert [{item.lsn for item in batch} for batch in batches] == [{1 + at} for at in range(len(batches))]


def test_an_exporter_that_rewinds_for_ever_is_found_out() -> None:
    class Never(Forgetful):
        def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
            raise Rewind("never")

    courier = Courier(Never, RUN)
    with pytest.raises(Rewind):
        courier.deliver(*records(1))
