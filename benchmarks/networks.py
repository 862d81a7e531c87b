"""Optimizers on small networks: what a round costs, and how well scikit-learn's digits are told apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch
from clock import microseconds
from report import Report
from torch import Tensor, nn

from tracelet.optim import BFO, AdaptiveBFO, HybridBFO, PopulationObjective

__all__ = ["digits", "gradient_free", "network"]


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


def digits(report: Report, seeds: int, first: int) -> None:
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
        kind: [statistics.median(trained(kind, rate, seed) for seed in range(first, first + seeds)) for rate in rates]
        for kind in ("Adam", "HybridBFO")
    }
    best, worst = max(rows["HybridBFO"]), min(rows["HybridBFO"])
    report.add(
        "HybridBFO on digits, at its best learning rate",
        f"{best:.3f} (medians of {seeds} seeds)",
        beside=f"Adam {max(rows['Adam']):.3f}",
        target="within 0.005",
        met=best >= max(rows["Adam"]) - 0.005,
        rounds=rows["HybridBFO"],
    )
    report.add(
        "HybridBFO on digits, worst of learning rates 3e-4 … 1",
        f"{worst:.3f} (medians of {seeds} seeds)",
        beside=f"Adam {min(rows['Adam']):.3f}",
        target="≥ 0.95",
        met=worst >= 0.95,
        rounds=rows["Adam"],
    )


def gradient_free(report: Report, seeds: int, first: int) -> None:
    """The same without any gradient, at 20,000 units."""
    x, y, x_test, y_test = _digits()
    found = []
    for seed in range(first, first + seeds):
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
        "AdaptiveBFO on digits, gradient-free",
        f"{median:.3f} ({seeds} seeds)",
        target="≥ 0.93",
        met=median >= 0.93,
        rounds=found,
    )
