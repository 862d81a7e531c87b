"""How good and how fast the population optimizers are, counted by a harness that does not trust them.

The harness counts evaluations itself, keeps the best loss it has seen itself, and stops at its own budget. Functions are
shifted; searches begin at a random point, with a spread of 0.2 of the bounds' width. Speed is CPU time of one thread,
beside what nobody can do without (the batched objective and one normal number per coordinate) in the same run.

    python benchmarks/optimizers.py --part quality --seeds 15 --json build/bench-optimizers.json
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import describe
from report import Report
from torch import Tensor, nn

from tracelet.optim import BFO, CMAES, AdaptiveBFO, HybridBFO, PopulationObjective, batched

BUDGET = 50_000
WIDTHS = {"rastrigin": 5.12, "rosenbrock": 5.0, "ackley": 32.0, "sphere": 100.0}
PARTS = ("quality", "speed", "network", "digits")
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
]


@dataclass
class Landscape:
    """A shifted (and perhaps rotated) function that counts, keeps the best it saw, and checks the bounds."""

    name: str
    dimensions: int
    seed: int
    rotated: bool = False
    evaluations: int = 0
    best: float = math.inf

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(90_000 + self.seed)
        self.width = WIDTHS[self.name]
        self.shift = (torch.rand(self.dimensions, generator=generator) * 2 - 1) * self.width * 0.4
        self.start = (torch.rand(self.dimensions, generator=generator) * 2 - 1) * self.width
        self.axes = None
        if self.rotated:
            noise = torch.randn(self.dimensions, self.dimensions, generator=generator, dtype=torch.float64)
            self.axes = torch.linalg.qr(noise).Q.float()

    def losses(self, points: Tensor) -> Tensor:
        """Of n points, (n,), in float32."""
        z = points - self.shift
        if self.axes is not None:
            z = z @ self.axes
        if self.name == "sphere":
            return z.square().sum(1)
        if self.name == "rastrigin":
            return (z.square() - 10 * torch.cos(2 * math.pi * z) + 10).sum(1)
        if self.name == "rosenbrock":
            z = z + 1
            return (100 * (z[:, 1:] - z[:, :-1].square()).square() + (1 - z[:, :-1]).square()).sum(1)
        far = -20 * torch.exp(-0.2 * z.square().mean(1).sqrt())
        return far - torch.exp(torch.cos(2 * math.pi * z).mean(1)) + 20 + math.e

    def judged(self) -> Callable[[Tensor], Tensor]:
        """The same as an objective."""

        @batched(flat=True)
        def objective(points: Tensor) -> Tensor:
            room = BUDGET - self.evaluations
            self.evaluations += len(points)
            if points.abs().max() > self.width:
                raise AssertionError("a point outside the bounds was evaluated")
            losses = self.losses(points)
            if room > 0:
                self.best = min(self.best, losses[:room].min().item())
            return losses

        return objective


def quality(report: Report, seeds: int, first: int, only: str) -> None:
    """Median of the best loss after 50,000 evaluations, with quartiles."""
    algorithms: dict[str, Any] = {"AdaptiveBFO": AdaptiveBFO, "BFO": BFO, "CMAES": CMAES}
    for algorithm, name, dimensions, known, rotated, target in CELLS:
        said = f"{algorithm}, {'rotated ' * rotated}{name}-{dimensions}, budget {'known' if known else 'not known'}"
        if only not in said:
            continue
        found, cost = [], []
        for seed in range(first, first + seeds):
            landscape = Landscape(name, dimensions, seed, rotated)
            optimizer = algorithms[algorithm](
                [landscape.start.clone()],
                bounds=(-landscape.width, landscape.width),
                seed=seed,
                max_evaluations=BUDGET if known else None,
                population_size=50,
            )
            objective = landscape.judged()
            begun = time.process_time()
            while landscape.evaluations < BUDGET and not optimizer.should_stop():
                optimizer.step(objective)
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


def microseconds(function: Callable[[], Any], rounds: int) -> float:
    """CPU time of one call."""
    begun = time.process_time()
    for _ in range(rounds):
        function()
    return (time.process_time() - begun) / rounds * 1e6


def per_evaluation(optimizer: Any, objective: Any, rounds: int) -> float:
    """CPU time of one evaluation, the optimizer's own work included."""
    before = optimizer.evaluations
    total = microseconds(lambda: optimizer.step(objective), rounds) * rounds
    return total / (optimizer.evaluations - before)


def speed(report: Report, repeats: int) -> None:
    """CPU per evaluation, each beside its measure in the same run; the best ratio of several."""
    for population, dimensions, target in ((50, 10, 8.0), (50, 100, 8.0), (500, 10, 8.0), (500, 1000, 1.3)):
        landscape = Landscape("rastrigin", dimensions, 0)
        objective = batched(flat=True)(landscape.losses)
        points = torch.randn(population, dimensions)
        rounds = max(5, 20_000 // population // (1 + dimensions // 100))
        bounds = {"bounds": (-landscape.width, landscape.width), "seed": 0, "population_size": population}
        bfo, adaptive = (kind([landscape.start.clone()], **bounds) for kind in (BFO, AdaptiveBFO))

        def bare(points: Tensor = points, objective: Any = objective) -> None:
            with torch.no_grad():
                objective(points)
                torch.randn(points.shape)

        for optimizer in (bfo, adaptive):
            optimizer.step(objective)
        over_bare, over_bfo = [], []
        for _ in range(repeats):
            floor = microseconds(bare, rounds) / population
            canonical = per_evaluation(bfo, objective, max(5, rounds // 10))
            learnt = per_evaluation(adaptive, objective, max(5, rounds // 10))
            over_bare.append(canonical / floor)
            over_bfo.append(learnt / canonical)
        size = f"P={population}, D={dimensions}"
        report.add(
            f"BFO over objective and randn, {size}",
            f"{min(over_bare):.2f}x",
            target=f"≤ {target:g}x",
            met=min(over_bare) <= target,
            rounds=over_bare,
        )
        report.add(
            f"AdaptiveBFO over BFO, {size}",
            f"{min(over_bfo):.2f}x",
            target="≤ 2x",
            met=min(over_bfo) <= 2,
            rounds=over_bfo,
        )
    _closures(report, repeats)


def _closures(report: Report, repeats: int) -> None:
    landscape = Landscape("rastrigin", 10, 0)
    parameter = nn.Parameter(landscape.start.clone())

    def closure() -> float:
        with torch.no_grad():
            return landscape.losses(parameter.unsqueeze(0)).item()

    optimizer = BFO([parameter], population_size=50, bounds=(-5.12, 5.12), seed=0)
    optimizer.step(closure)
    ratios = []
    for _ in range(repeats):
        bare = microseconds(closure, 500)
        ratios.append(per_evaluation(optimizer, closure, 10) / bare)
    report.add(
        "BFO with a closure, over the same calls alone, rastrigin, P=50, D=10",
        f"{min(ratios):.2f}x",
        target="≤ 1.5x",
        met=min(ratios) <= 1.5,
        rounds=ratios,
    )


def network(report: Report, repeats: int) -> None:
    """A 784-32-10 network, P=50, B=64: a population's evaluation, and a whole round with swarming."""
    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    x, y = torch.randn(64, 784), torch.randint(10, (64,))
    objective = PopulationObjective(model, nn.functional.cross_entropy, chunk_size=None)(x, y)
    optimizer = BFO(
        model.parameters(), population_size=50, use_swarming=True, swim_length=1, seed=0, decisions="device"
    )
    optimizer.step(objective)
    stacked = optimizer._layout.stacked(optimizer.population)
    named = dict(zip([name for name, _ in model.named_parameters()], stacked.values(), strict=True))

    def bare() -> None:
        with torch.no_grad():
            for _ in range(50):
                nn.functional.cross_entropy(model(x), y)

    def population() -> None:
        with torch.no_grad():
            objective.losses(named)

    rows = [
        (microseconds(bare, 5), microseconds(population, 5), microseconds(lambda: optimizer.step(objective), 5))
        for _ in range(repeats)
    ]
    ratio = min(judged / alone for alone, judged, _ in rows)
    report.add("evaluating 50 networks over 50 forwards", f"{ratio:.2f}x", target="≤ 1.1x", met=ratio <= 1.1)
    alone, whole = min(row[0] for row in rows), min(row[2] for row in rows)
    report.add(
        "a round of two evaluations with swarming, 50 networks",
        f"{whole / 1e3:.1f} ms",
        beside=f"50 forwards {alone / 1e3:.1f} ms",
        target="≤ 7.4x of the forwards",
        met=whole / alone <= 7.4,
    )


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1437]], y[order[:1437]], x[order[1437:]], y[order[1437:]]


def _batches(x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(len(x), generator=generator)[: len(x) // 128 * 128].split(128):
            yield x[part], y[part]


def digits(report: Report, seeds: int) -> None:
    """Accuracy on scikit-learn's digits after 5,000 units: one network on one batch of 128, a gradient counted as three."""
    x, y, x_test, y_test = _digits()

    def trained(kind: str, rate: float, seed: int) -> float:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        objective = PopulationObjective(model, nn.functional.cross_entropy, chunk_size=None)
        units = 0.0
        if kind == "Adam":
            adam = torch.optim.Adam(model.parameters(), lr=rate)
        else:
            optimizer = HybridBFO(model.parameters(), population_size=1, lr=rate, seed=seed)
        for inputs, targets in _batches(x, y, seed):
            if kind == "Adam":
                adam.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                adam.step()
                units += 3
            else:
                optimizer.step(objective(inputs, targets))
                units = optimizer.evaluations + 2 * optimizer.status["gradient_evaluations"]
            if units >= 5000:
                break
        with torch.no_grad():
            return float((model(x_test).argmax(1) == y_test).float().mean())

    rates = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    rows = {
        kind: [statistics.median(trained(kind, rate, seed) for seed in range(seeds)) for rate in rates]
        for kind in ("Adam", "HybridBFO")
    }
    best, worst = max(rows["HybridBFO"]), min(rows["HybridBFO"])
    report.add(
        "HybridBFO on digits, at its best learning rate",
        f"{best:.3f}",
        beside=f"Adam {max(rows['Adam']):.3f}",
        target="within 0.005",
        met=best >= max(rows["Adam"]) - 0.005,
        rounds=rows["HybridBFO"],
    )
    report.add(
        "HybridBFO on digits, worst of learning rates 3e-4 … 1",
        f"{worst:.3f}",
        beside=f"Adam {min(rows['Adam']):.3f}",
        target="≥ 0.95",
        met=worst >= 0.95,
        rounds=rows["Adam"],
    )


def gradient_free(report: Report, seeds: int) -> None:
    """The same without any gradient, at 20,000 units."""
    x, y, x_test, y_test = _digits()
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        objective = PopulationObjective(model, nn.functional.cross_entropy, chunk_size=None)
        optimizer = AdaptiveBFO(model.parameters(), init_std=0.05, reevaluate="never", seed=seed)
        for inputs, targets in _batches(x, y, seed):
            optimizer.step(objective(inputs, targets))
            if optimizer.evaluations >= 20_000:
                break
        with torch.no_grad():
            found.append(float((model(x_test).argmax(1) == y_test).float().mean()))
    median = statistics.median(found)
    report.add(
        "AdaptiveBFO on digits, gradient-free", f"{median:.3f}", target="≥ 0.93", met=median >= 0.93, rounds=found
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--only", default="", help="of the cells of quality: those whose name has this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report("population optimizers", describe(Path(tempfile.gettempdir()), ["torch"]))
    parts = args.part or PARTS
    if "speed" in parts:
        speed(report, args.repeats)
    if "network" in parts:
        network(report, args.repeats)
    if "quality" in parts:
        quality(report, args.seeds, args.first_seed, args.only)
    if "digits" in parts:
        digits(report, args.seeds)
        gradient_free(report, args.seeds)
    report.show(args.json)


if __name__ == "__main__":
    main()
