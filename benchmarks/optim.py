"""How good and how fast the population optimizers are, counted by a harness that does not trust them.

The harness counts evaluations itself, keeps the best loss it has seen itself, and stops at its own budget. Functions are
shifted; searches begin at a random point, with a spread of 0.2 of the bounds' width. Speed is CPU time of one thread,
beside what nobody can do without (the batched objective and one normal number per coordinate) in the same run.

    python benchmarks/optim.py --part quality --seeds 15 --json build/bench-optim.json

pycma and EvoTorch's SNES are measured beside them where they are installed (`pip install cma`, `pip install evotorch`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from clock import microseconds, per_evaluation
from landscapes import BUDGET, Landscape
from machine import describe
from networks import digits, gradient_free, network
from optim_peers import PEERS
from report import Report
from torch import Tensor, nn

from tracelet.optim import BFO, CMAES, AdaptiveBFO, batched

PARTS = ("quality", "speed", "network", "digits", "gradient-free")
# Algorithm, function, dimensions, whether the budget is known, rotated, target of the median.
CELLS: list[tuple[str, str, int, bool, bool, float | None]] = [
    ("AdaptiveBFO", "rastrigin", 10, True, False, 1e-4),
    ("AdaptiveBFO", "rosenbrock", 10, True, False, 1e-8),
    ("AdaptiveBFO", "ackley", 10, True, False, 1e-6),
    ("AdaptiveBFO", "rastrigin", 100, True, False, 50),
    ("AdaptiveBFO", "rastrigin", 100, False, False, 80),
    ("AdaptiveBFO", "rosenbrock", 100, True, False, 95),
    ("AdaptiveBFO", "ackley", 100, True, False, 5e-5),
    ("AdaptiveBFO", "sphere", 100, True, False, 1e-9),
    ("AdaptiveBFO", "rastrigin", 100, True, True, 330),
    ("BFO", "rastrigin", 10, False, False, None),
    ("BFO", "rosenbrock", 10, False, False, None),
    ("BFO", "ackley", 10, False, False, None),
    ("CMAES", "rastrigin", 100, False, False, 120),
    ("CMAES", "rastrigin", 100, False, True, None),
    ("pycma", "rastrigin", 100, False, False, None),
    ("pycma", "rastrigin", 100, False, True, None),
    ("EvoTorch SNES", "rastrigin", 10, False, False, None),
    ("EvoTorch SNES", "rastrigin", 100, False, False, None),
]
# Population, dimensions; at most how many times as slow as the objective and one normal number per coordinate; at least how
# many times as fast as EvoTorch's SNES.
SIZES: list[tuple[int, int, float | None, float | None]] = [
    (50, 10, 8.0, 3.0),
    (50, 100, 8.0, None),
    (500, 10, 8.0, None),
    (500, 1000, 1.3, 1.5),
]


def quality(report: Report, seeds: int, first: int, only: str) -> None:
    """Median of the best loss after 50,000 evaluations, with quartiles."""
    for algorithm, name, dimensions, known, rotated, target in CELLS:
        said = f"{algorithm}, {'rotated ' * rotated}{name}-{dimensions}, budget {'known' if known else 'not known'}"
        if only not in said:
            continue
        if algorithm in PEERS and not PEERS[algorithm].installed:
            report.add(said, "not installed")
            continue
        found, cost = [], []
        for seed in range(first, first + seeds):
            landscape = Landscape(name, dimensions, seed, rotated)
            go_on = _search(algorithm, landscape, seed, known)
            begun = time.process_time()
            while landscape.evaluations < BUDGET and go_on():
                pass
            cost.append((time.process_time() - begun) / landscape.evaluations * 1e6)
            found.append(landscape.best)
        median = statistics.median(found)
        low, _, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else (median,) * 3
        report.add(
            said,
            f"{median:.3g} (quartiles {low:.2g}, {high:.2g}; {seeds} seeds)",
            beside=f"{statistics.median(cost):.1f} µs of CPU an evaluation",
            target=f"≤ {target:g}" if target is not None else "",
            met=None if target is None else median <= target,
            rounds=found,
        )


def _search(algorithm: str, landscape: Landscape, seed: int, known: bool) -> Callable[[], bool]:
    """A step of one search, which returns whether it goes on."""
    objective = landscape.judged()
    if algorithm in PEERS:
        return PEERS[algorithm].start(landscape, objective, 50, seed)
    optimizer: Any = {"AdaptiveBFO": AdaptiveBFO, "BFO": BFO, "CMAES": CMAES}[algorithm](
        [landscape.start.clone()],
        bounds=(-landscape.width, landscape.width),
        seed=seed,
        max_evaluations=BUDGET if known else None,
        population_size=50,
    )

    def step() -> bool:
        optimizer.step(objective)
        return not optimizer.should_stop()

    return step


def speed(report: Report, repeats: int) -> None:
    """CPU per evaluation, each beside its measure in the same run, in turns."""
    snes = PEERS["EvoTorch SNES"]
    for population, dimensions, most, faster in SIZES:
        landscape = Landscape("rastrigin", dimensions, 0)
        objective = batched(flat=True)(landscape.losses)
        points = torch.randn(population, dimensions)
        rounds = 10_000 // population
        settings = {"bounds": (-landscape.width, landscape.width), "seed": 0, "population_size": population}
        generation = None
        if faster is not None and snes.installed:
            generation = snes.start(landscape, landscape.losses, population, 0)

        def bare(points: Tensor = points, objective: Any = objective) -> None:
            with torch.no_grad():
                objective(points)
                torch.randn(points.shape)

        floor, canonical, learnt, other = [], [], [], []
        for _ in range(repeats):
            floor.append(microseconds(bare, rounds) / population)
            # The same beginning of a search every time: what comes later, when little improves, is cheaper.
            for kind, costs in ((BFO, canonical), (AdaptiveBFO, learnt)):
                optimizer = kind([landscape.start.clone()], **settings)
                for _ in range(10):
                    optimizer.step(objective)
                costs.append(per_evaluation(optimizer, objective, rounds))
            if generation is not None:
                other.append(microseconds(generation, rounds) / population)
        size = f"P={population}, D={dimensions}"
        _ratio(report, f"BFO over objective and randn, {size}", canonical, floor, most=most)
        _ratio(report, f"AdaptiveBFO over BFO, {size}", learnt, canonical, most=2.0)
        if other:
            _ratio(report, f"EvoTorch SNES over BFO, {size}", other, canonical, least=faster)
        elif faster is not None:
            report.add(f"EvoTorch SNES over BFO, {size}", "not installed", target=f"≥ {faster:g}x")
    _closures(report, repeats)


def _ratio(
    report: Report,
    what: str,
    costs: list[float],
    measures: list[float],
    most: float | None = None,
    least: float | None = None,
) -> None:
    """The least cost over the least measure: what others do on the machine only adds."""
    best = min(costs) / min(measures)
    ratios = [cost / measure for cost, measure in zip(costs, measures, strict=True)]
    report.add(
        what,
        f"{best:.2f}x",
        beside=f"{min(costs):.2f} over {min(measures):.2f} µs; pairs {min(ratios):.2f}-{max(ratios):.2f}",
        target=f"≤ {most:g}x" if most is not None else f"≥ {least:g}x" if least is not None else "",
        met=best <= most if most is not None else best >= least if least is not None else None,
        rounds=ratios,
    )


def _closures(report: Report, repeats: int) -> None:
    landscape = Landscape("rastrigin", 10, 0)
    parameter = nn.Parameter(landscape.start.clone())

    def closure() -> float:
        with torch.no_grad():
            return landscape.losses(parameter.unsqueeze(0)).item()

    optimizer = BFO([parameter], population_size=50, bounds=(-5.12, 5.12), seed=0)
    optimizer.step(closure)
    bare, whole = [], []
    for _ in range(repeats):
        bare.append(microseconds(closure, 1000))
        whole.append(per_evaluation(optimizer, closure, 20))
    _ratio(report, "BFO with a closure, over the same calls alone, rastrigin, P=50, D=10", whole, bare, most=1.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--only", default="", help="of the cells of quality: those whose name has this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None, help="of two files: …-speed.json and …-quality.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = args.part or PARTS
    machine = describe(Path(tempfile.gettempdir()), ["torch", "cma", "evotorch"])
    fast, good = (Report(f"population optimizers: {what}", machine) for what in ("speed", "quality"))
    if "speed" in parts:
        speed(fast, args.repeats)
    if "network" in parts:
        network(fast, args.repeats)
    if "quality" in parts:
        quality(good, args.seeds, args.first_seed, args.only)
    if "digits" in parts:
        digits(good, args.seeds, args.first_seed)
    if "gradient-free" in parts:
        gradient_free(good, args.seeds, args.first_seed)
    for what, report in (("speed", fast), ("quality", good)):
        if report.figures:
            report.show(args.json and args.json.with_stem(f"{args.json.stem}-{what}"))


if __name__ == "__main__":
    main()
