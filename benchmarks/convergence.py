"""How fast the population optimizers converge, as pictures: loss over evaluations, under noise, and HybridBFO beside Adam.

The objectives count by themselves and keep every loss they gave. Functions are shifted, and rotated where that is said;
a seed is a landscape (shift, start, rotation) and a search on it, and all optimizers search the same landscapes. Everything
is in float64, so that curves do not end at the resolution of float32.

    python benchmarks/convergence.py --seeds 7 --budget 50000 --out docs/images/optim
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from machine import describe
from PIL import Image
from report import Report
from rich.console import Console
from torch import Tensor, nn

from tracelet.optim import BFO, CMAES, AdaptiveBFO, DifferentialEvolution, HybridBFO, ParticleSwarm, batched

mpl.use("Agg")
from matplotlib import pyplot as plt

POPULATION = 50
DIGITS_UNITS = 5_000
NOISES = (0.1, 0.3, 1.0, 3.0, 10.0)
LEAST = 1e-8  # where the pictures end
LEGEND = "median and quartiles"
NEVER = 'AdaptiveBFO, reevaluate="never"'
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# Okabe & Ito's colours, which differ for colour-blind eyes too; the dashes tell the lines apart in print.
STYLES: dict[str, tuple[str, Any]] = {
    "AdaptiveBFO": ("#0072B2", "-"),
    "CMAES": ("#009E73", (0, (6, 1.5))),
    "DifferentialEvolution": ("#CC79A7", (0, (4, 1.5, 1, 1.5))),
    "ParticleSwarm": ("#E69F00", (0, (2, 1))),
    "BFO": ("#D55E00", (0, (1, 1))),
    NEVER: ("#56B4E9", (0, (3, 1, 1, 1, 1, 1))),
    "HybridBFO": ("#0072B2", "-"),
    "Adam": ("#D55E00", (0, (4, 1.5))),
}
# Name, dimensions, rotated; one picture each line.
PICTURES: dict[str, list[tuple[str, int, bool]]] = {
    "functions-10": [("rastrigin", 10, False), ("rosenbrock", 10, False), ("ackley", 10, False)],
    "functions-100": [("rastrigin", 100, False), ("rastrigin", 100, True)],
}
OPTIMIZERS = ("BFO", "ParticleSwarm", "DifferentialEvolution", "CMAES", "AdaptiveBFO")
Curve = list[float]


def sphere(z: Tensor) -> Tensor:
    return z.square().sum(1)


def rastrigin(z: Tensor) -> Tensor:
    return (z.square() - 10 * torch.cos(2 * math.pi * z) + 10).sum(1)


def rosenbrock(z: Tensor) -> Tensor:
    z = z + 1
    return (100 * (z[:, 1:] - z[:, :-1].square()).square() + (1 - z[:, :-1]).square()).sum(1)


def ackley(z: Tensor) -> Tensor:
    far = -20 * torch.exp(-0.2 * z.square().mean(1).sqrt())
    return far - torch.exp(torch.cos(2 * math.pi * z).mean(1)) + 20 + math.e


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "sphere": (sphere, 5.0),
    "rastrigin": (rastrigin, 5.12),
    "rosenbrock": (rosenbrock, 5.0),
    "ackley": (ackley, 32.0),
}


class Landscape:
    """One function with its optimum, 0, somewhere in the inner half of the bounds.

    Attributes:
        half: the bounds are (-half, half) in every coordinate.
        start: where searches begin, (D,).
        best: the least loss seen up to each evaluation, (budget,).
        evaluations: so far.
    """

    def __init__(self, name: str, dimensions: int, rotated: bool, seed: int, budget: int, noise: float = 0.0) -> None:
        self.generator = generator = torch.Generator().manual_seed(7_000 + seed)

        def anywhere() -> Tensor:
            return torch.rand(dimensions, generator=generator, dtype=torch.float64) * 2 - 1

        self.function, self.half = FUNCTIONS[name]
        self.optimum = anywhere() * self.half / 2
        self.start = anywhere() * self.half
        self.axes = torch.eye(dimensions, dtype=torch.float64)
        if rotated:
            directions = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
            self.axes = torch.linalg.qr(directions).Q
        self.rotated = rotated
        self.noise = noise
        self.best = torch.full((budget,), math.inf, dtype=torch.float64)
        self.evaluations = 0

    def losses(self, points: Tensor) -> Tensor:
        """Without noise, (n,)."""
        z = points - self.optimum
        return self.function(z @ self.axes if self.rotated else z)

    def objective(self) -> Callable[[Tensor], Tensor]:
        """What the optimizers call."""

        @batched(flat=True)
        def objective(points: Tensor) -> Tensor:
            if points.abs().max() > self.half:
                raise AssertionError("a point outside the bounds was evaluated")
            losses = self.losses(points)
            if self.noise:
                losses = losses + self.noise * torch.randn(len(losses), generator=self.generator, dtype=torch.float64)
            room = self.best[self.evaluations :][: len(losses)]
            room.copy_(losses[: len(room)])
            self.evaluations += len(losses)
            return losses

        return objective

    def curve(self, at: list[int]) -> Curve:
        """The best loss after so many evaluations."""
        best = self.best.cummin(0).values
        return [best[each - 1].item() for each in at]


def optimizer_for(name: str, landscape: Landscape, seed: int, budget: int) -> Any:
    """All with their defaults, but for the population, the budget where it is used, and the run length of BFO."""
    bounds = (-landscape.half, landscape.half)
    common: dict[str, Any] = {"population_size": POPULATION, "bounds": bounds, "seed": seed}
    params = [landscape.start.clone()]
    if name in ("AdaptiveBFO", NEVER):
        rule = "never" if name == NEVER else "auto"
        return AdaptiveBFO(params, max_evaluations=budget, reevaluate=rule, **common)
    if name == "BFO":  # 0.1 would be nothing in ackley's bounds
        return BFO(params, step_size_max=0.01 * 2 * landscape.half, **common)
    kinds: dict[str, Any] = {"CMAES": CMAES, "DifferentialEvolution": DifferentialEvolution}
    return kinds.get(name, ParticleSwarm)(params, **common)


def searched(name: str, landscape: Landscape, seed: int) -> Any:
    """One search, to the end of the landscape's budget; the optimizer."""
    budget = len(landscape.best)
    optimizer = optimizer_for(name, landscape, seed, budget)
    objective = landscape.objective()
    while landscape.evaluations < budget and not optimizer.should_stop():
        optimizer.step(objective)
    return optimizer


def quartiles(rows: list[Curve]) -> tuple[Curve, Curve, Curve]:
    """Lower quartile, median and upper quartile in every column."""
    if len(rows) == 1:
        return rows[0], rows[0], rows[0]
    columns = [statistics.quantiles(column, n=4, method="inclusive") for column in zip(*rows, strict=True)]
    low, middle, high = zip(*columns, strict=True)
    return list(low), list(middle), list(high)


def said(function: tuple[str, int, bool]) -> str:
    name, dimensions, rotated = function
    return f"{'rotated ' * rotated}{name}, {dimensions} dimensions"


def functions(report: Report, console: Console, picture: str, seeds: int, budget: int, out: Path) -> None:
    """Best loss over evaluations, one panel for each function."""
    panels = PICTURES[picture]
    at = sorted({round(budget ** (step / 150)) for step in range(151)} | {budget})
    at = [each for each in at if each >= POPULATION]
    rows, odd = math.ceil(len(panels) / 2), len(panels) % 2
    figure, grid = plt.subplots(
        rows, 2, figsize=(8.6, 3.4 * rows), layout="constrained", squeeze=False, sharey=len(panels) == 2
    )
    for axis, function in zip(grid.flat, panels, strict=False):
        for name in OPTIMIZERS:
            with console.status(f"{name} on {said(function)}"):
                landscapes = [Landscape(*function, seed, budget) for seed in range(seeds)]
                for seed, landscape in enumerate(landscapes):
                    searched(name, landscape, seed)
                curves = [landscape.curve(at) for landscape in landscapes]
            low, middle, high = quartiles(curves)
            _drawn(axis, name, at, *([max(LEAST / 10, value) for value in curve] for curve in (low, middle, high)))
            report.add(
                f"{name}, {said(function)}",
                f"{middle[-1]:.2g}",
                beside=f"quartiles {low[-1]:.2g}, {high[-1]:.2g}",
                rounds=[curve[-1] for curve in curves],
            )
        axis.set(xscale="log", yscale="log", xlim=(at[0], budget), title=said(function))
        axis.set(xlabel="evaluations of the objective", ylabel="best loss so far")
        axis.set_ylim(bottom=max(LEAST, axis.get_ylim()[0]))
        if len(panels) == 2:
            axis.label_outer()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if odd:
        grid[-1, -1].axis("off")
        grid[-1, -1].legend(handles[::-1], labels[::-1], loc="center", frameon=False, title=LEGEND)
    else:
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, frameon=False, title=LEGEND)
    _written(figure, out / f"{picture}.png")


def noise(report: Report, console: Console, seeds: int, budget: int, out: Path) -> None:
    """What a search has really found when the loss is noisy: the loss of its incumbent without noise."""
    figure, axis = plt.subplots(figsize=(8.6, 3.8), layout="constrained")

    def found(name: str, level: float, seed: int) -> float:
        landscape = Landscape("sphere", 10, False, seed, budget, level)
        return landscape.losses(searched(name, landscape, seed).best_params.unsqueeze(0)).item()

    for name in (*OPTIMIZERS[:-1], NEVER, OPTIMIZERS[-1]):
        with console.status(f"{name} under noise"):
            rows = [[found(name, level, seed) for level in NOISES] for seed in range(seeds)]
        low, middle, high = quartiles(rows)
        _drawn(axis, name, NOISES, low, middle, high, marker="o")
        for level, least, value, most in zip(NOISES, low, middle, high, strict=True):
            report.add(f"{name}, noise of {level:g}", f"{value:.2g}", beside=f"quartiles {least:.2g}, {most:.2g}")
    axis.set(xscale="log", yscale="log", title=f"noisy sphere, 10 dimensions, after {budget:,} evaluations")
    axis.set(xlabel="standard deviation of the noise, in units of the loss", ylabel="true loss of the best point")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right", frameon=False, title=LEGEND)
    _written(figure, out / "noise.png")


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels for training (four fifths) and for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[: len(x) * 4 // 5], order[len(x) * 4 // 5 :]
    return x[train], y[train], x[test], y[test]


def _batches(x: Tensor, y: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(len(x), generator=generator)[: len(x) // 128 * 128].split(128):
            yield x[part], y[part]


def trained(kind: str, rate: float, seed: int, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """Accuracy on the test set after `DIGITS_UNITS`: one network on one batch of 128, a gradient counted as three."""
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    sizes = [parameter.numel() for parameter in model.parameters()]
    units = 0
    if kind == "Adam":
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=rate)
    else:
        optimizer = HybridBFO(model.parameters(), population_size=1, lr=rate, seed=seed)
    for inputs, labels in _batches(x, y, seed):
        if units >= DIGITS_UNITS:
            break
        if kind == "Adam":
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            units += 3
            continue

        @batched(flat=True)
        def objective(points: Tensor, inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            nonlocal units
            units += len(points) * (3 if points.requires_grad else 1)
            losses = []
            for row in points:
                first, first_bias, second, second_bias = row.split(sizes)
                hidden = nn.functional.linear(inputs, first.view(32, 64), first_bias).relu()
                output = nn.functional.linear(hidden, second.view(10, 32), second_bias)
                losses.append(nn.functional.cross_entropy(output, labels))
            return torch.stack(losses)

        optimizer.step(objective)
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


def digits(report: Report, console: Console, seeds: int, out: Path) -> None:
    """Accuracy over learning rates, HybridBFO beside Adam."""
    data = _digits()
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    for kind in ("Adam", "HybridBFO"):
        with console.status(f"{kind} on the digits"):
            rows = [[trained(kind, rate, seed, data) for rate in RATES] for seed in range(seeds)]
        low, middle, high = quartiles(rows)
        for axis in axes:
            _drawn(axis, kind, RATES, low, middle, high, marker={"Adam": "s", "HybridBFO": "o"}[kind])
        report.add(
            f"{kind}, digits, learning rates {RATES[0]:g} to {RATES[-1]:g}",
            f"{min(middle):.3f} to {max(middle):.3f}",
            rounds=middle,
        )
    for axis, lowest in zip(axes, (0.0, 0.9), strict=True):
        axis.set(xscale="log", ylim=(lowest, 1.0 + (1.0 - lowest) / 50), xlabel="learning rate (lr)")
    axes[0].set(title="digits, network 64-32-10", ylabel=f"test accuracy after {DIGITS_UNITS:,} units")
    axes[1].set(title="the same, from 0.9 up")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, title=LEGEND)
    _written(figure, out / "digits.png")


def _drawn(axis: Any, name: str, at: Sequence[float], low: Curve, middle: Curve, high: Curve, **line: Any) -> None:
    """A median with its quartiles."""
    colour, dashes = STYLES[name]
    axis.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
    axis.plot(at, middle, color=colour, linestyle=dashes, linewidth=1.8, markersize=5, label=name, **line)
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _written(figure: Any, path: Path) -> None:
    """A PNG of at most 256 colours: a third of the bytes."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--budget", type=int, default=50_000, help="evaluations of a search on a function")
    parser.add_argument("--out", type=Path, default=Path("docs/images/optim"), help="the folder of the pictures")
    parser.add_argument("--only", choices=(*PICTURES, "noise", "digits"), help="one picture")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    if args.budget < 10 * POPULATION:
        parser.error(f"--budget is at least ten populations, {10 * POPULATION}")
    torch.set_num_threads(1)
    plt.rcParams.update({"font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11})
    console = Console(stderr=True)
    title = f"convergence of population optimizers: {args.seeds} seeds, {args.budget:,} evaluations"
    report = Report(title, describe(Path(tempfile.gettempdir()), ["torch"]))
    for picture in PICTURES:
        if args.only in (None, picture):
            functions(report, console, picture, args.seeds, args.budget, args.out)
    if args.only in (None, "noise"):
        noise(report, console, args.seeds, args.budget // 5, args.out)
    if args.only in (None, "digits"):
        digits(report, console, args.seeds, args.out)
    report.show(args.json)


if __name__ == "__main__":
    main()
