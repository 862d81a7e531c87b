"""What listening to a framework costs: the steps of optimizers, with a run and without.

Blocks of steps with the hooks on and off take turns within one process, over one optimizer, and the CPU clock of the training
thread is read around them. A step of a population optimizer is a round of the algorithm over a whole population; one of an
ordinary optimizer is forward, backward and update.

    python benchmarks/frameworks.py --json build/bench-frameworks.json
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from home import temporary_home
from machine import describe
from report import Report
from torch import nn
from torch.optim import optimizer as torch_optimizer

import tracelet
from tracelet.frameworks.optimizers import OptimizersFramework
from tracelet.optim import BFO, AdaptiveBFO, HybridBFO, PopulationObjective, batched
from tracelet.settings import TraceletSettings


def network(kind: Any, **settings: Any) -> Callable[[], Any]:
    """A step over networks of 25,450 weights, on a batch of 64."""
    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    x, y = torch.randn(64, 784), torch.randint(10, (64,))
    objective = PopulationObjective(model, nn.functional.cross_entropy, chunk_size=None)(x, y)
    optimizer = kind(model.parameters(), seed=0, **settings)
    return lambda: optimizer.step(objective)


def function(kind: Any, dimensions: int, **settings: Any) -> Callable[[], Any]:
    """A step over a function that costs next to nothing."""

    @batched(flat=True)
    def sphere(points: torch.Tensor) -> torch.Tensor:
        return points.square().sum(1)

    optimizer = kind([torch.ones(dimensions)], seed=0, bounds=(-5.0, 5.0), **settings)
    return lambda: optimizer.step(sphere)


FIXED = {"swim_length": 1, "decisions": "device"}  # as many evaluations in every step
# What, how a step of it is made, steps in a block, target.
CASES: list[tuple[str, Callable[[], Callable[[], Any]], int, float | None]] = [
    (
        "BFO, 50 networks, tumble and swim with swarming",
        lambda: network(BFO, population_size=50, use_swarming=True, **FIXED),
        8,
        0.03,
    ),
    ("AdaptiveBFO, 50 networks, tumble", lambda: network(AdaptiveBFO, population_size=50, swim_length=0), 8, None),
    ("HybridBFO, 4 networks", lambda: network(HybridBFO, population_size=4), 20, None),
    ("BFO, a function of 10 dimensions, P=50", lambda: function(BFO, 10, population_size=50, **FIXED), 100, None),
]


def training(kind: Any, rates: dict[str, Any]) -> Callable[[], Any]:
    """A step of training a network of 25,450 weights, on a batch of 64."""
    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    x, y = torch.randn(64, 784), torch.randint(10, (64,))
    optimizer = kind(model.parameters(), **rates)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


ORDINARY: list[tuple[str, Callable[[], Callable[[], Any]], int, float | None]] = [
    ("SGD, a network, every 50th recorded", lambda: training(torch.optim.SGD, {"lr": 1e-3}), 100, 0.03),
    ("Adam, a network, every 50th recorded", lambda: training(torch.optim.Adam, {"lr": 1e-4}), 100, 0.03),
]


def without(report: Report) -> None:
    """What is in the way of an optimizer when nobody listens."""
    places = (torch.optim.Optimizer, torch.autograd, torch.nn.utils, torch.amp.GradScaler)
    before = [dict(vars(place)) for place in places]
    with temporary_home() as home:
        os.environ.update(home.environment())
        tracelet.start_logging(exp_name="silent", project="benchmark", settings=TraceletSettings(optimizer_every=0))
        untouched = [dict(vars(place)) for place in places] == before
        hooks = len(torch_optimizer._global_optimizer_pre_hooks) + len(torch_optimizer._global_optimizer_post_hooks)
        tracelet.stop_logging()
    none = untouched and hooks == 0
    report.add("hooks and patches with optimizer_every=0", "none" if none else "some", target="none", met=none)


def listening(
    report: Report, rounds: int, cases: list[tuple[str, Callable[[], Callable[[], Any]], int, float | None]]
) -> None:
    """CPU of the training thread that listening adds to a step."""
    with temporary_home() as home:
        os.environ.update(home.environment())
        home.start_collector()
        run = tracelet.start_logging(exp_name="steps", project="benchmark")
        for title, build, steps, target in cases:
            step = build()
            step()
            times: dict[bool, list[float]] = {True: [], False: []}
            for number in range(2 * rounds):
                listens = number % 2 == 0
                (OptimizersFramework.install if listens else OptimizersFramework.uninstall)()
                begun = time.thread_time()
                for _ in range(steps):
                    step()
                times[listens].append((time.thread_time() - begun) / steps * 1e6)
            bare = statistics.median(times[False])
            added = statistics.median(on - off for on, off in zip(times[True], times[False], strict=True))
            report.add(
                f"added to a step of {title}",
                f"{added:.1f} µs, {added / bare:.1%}",
                beside=f"a step {bare:.0f} µs",
                target=f"≤ {target:.0%}" if target else "",
                met=added / bare <= target if target else None,
                rounds=[on / off - 1 for on, off in zip(times[True], times[False], strict=True)],
            )
        OptimizersFramework.install()
        tracelet.stop_logging()
        assert home.durable(run.id) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("listening to optimizers", describe(Path(tempfile.gettempdir()), ["torch"]))
    without(report)
    listening(report, args.rounds, ORDINARY)
    listening(report, args.rounds, CASES)
    report.show(args.json)


if __name__ == "__main__":
    main()
