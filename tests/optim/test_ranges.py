"""The events of foraging in a profiler's trace."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.support.landscapes import sphere
from tracelet import optim
from tracelet.optim.ranges import span


@pytest.mark.parametrize("name", ["BFO", "AdaptiveBFO", "HybridBFO"])
@pytest.mark.parametrize("decisions", ["host", "device"])
def test_a_trace_tells_the_four_events(name: str, decisions: str) -> None:
    settings = {} if name == "AdaptiveBFO" else {"repro_steps": 1}
    optimizer = getattr(optim, name)(
        [torch.full((3,), 2.0)], population_size=8, chem_steps=2, swim_length=2, seed=0, decisions=decisions, **settings
    )
    optimizer.step(sphere)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for _ in range(12):
            optimizer.step(sphere)
    told = {each.key: each.count for each in trace.key_averages() if each.key.startswith(f"{name}.")}
    assert told.keys() == {f"{name}.{event}" for event in ("tumble", "swim", "reproduction", "dispersal")}
    assert told[f"{name}.tumble"] == 24  # proposed and absorbed, in every round
    assert told[f"{name}.reproduction"] == 6


def test_without_a_profiler_there_is_no_range() -> None:
    assert span("one") is span("other")
