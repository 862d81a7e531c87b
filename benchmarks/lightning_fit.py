"""What listening to Lightning costs: fits of 2,000 tiny steps, listened to and not, in turns within one process.

The CPU clock of the whole process is read around each fit, so what the sender does meanwhile is in it. Not listened to means
that all patches are off: Lightning's, the SummaryWriter's and the optimizers'.

    python benchmarks/lightning_fit.py --json build/bench-lightning-fit.json
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from home import temporary_home
from machine import describe
from report import Report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tracelet
from tracelet import frameworks

STEPS = 2000


class Tiny(pl.LightningModule):
    """One layer, two values logged a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean square of what comes out."""
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss)
        self.log("weight", self.layer.weight[0, 0])
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The cheapest one."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def tensorboard() -> Any:
    return pl.loggers.TensorBoardLogger(tempfile.mkdtemp(dir="."))


# What, its logger, steps between two that are logged, target.
CASES: list[tuple[str, Callable[[], Any], int, float | None]] = [
    ("TensorBoardLogger, a record every 50 steps, as Lightning sets it", tensorboard, 50, 1.02),
    ("TensorBoardLogger, a record every step", tensorboard, 1, None),
    ("logger=False, a record every 50 steps", lambda: False, 50, 1.02),
]


def fit(logger: Callable[[], Any], every: int) -> float:
    """CPU seconds of a fit."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=logger(),
        log_every_n_steps=every,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    batches = DataLoader(TensorDataset(torch.randn(STEPS, 8)), batch_size=1)
    begun = time.process_time()
    trainer.fit(Tiny(), batches)
    return time.process_time() - begun


def listening(report: Report, rounds: int) -> None:
    """Fits with and without."""
    with temporary_home() as home, tempfile.TemporaryDirectory() as folder:
        os.environ.update(home.environment())
        home.start_collector()
        os.chdir(folder)
        run = tracelet.start_logging(exp_name="fits", project="benchmark")
        for title, logger, every, target in CASES:
            times: dict[bool, list[float]] = {True: [], False: []}
            fit(logger, every)
            for number in range(2 * rounds):
                listens = number % 2 == (number // 2) % 2  # who goes first takes turns too
                if listens:
                    for framework in run._frameworks.values():
                        framework.start_tracking()
                else:
                    frameworks.uninstall_all()
                times[listens].append(fit(logger, every))
            ratios = [on / off for on, off in zip(times[True], times[False], strict=True)]
            report.add(
                f"{STEPS} steps listened to, {title}",
                f"{statistics.median(ratios):.3f} of the CPU time without",
                beside=f"{statistics.median(times[False]) / STEPS * 1e6:.0f} µs a step",
                target=f"≤ {target}" if target else "",
                met=statistics.median(ratios) <= target if target else None,
                rounds=ratios,
            )
        tracelet.stop_logging()
        assert home.durable(run.id) > 0
        os.chdir("/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    json = args.json and args.json.resolve()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    report = Report("listening to Lightning", describe(Path(tempfile.gettempdir()), ["torch", "lightning"]))
    listening(report, args.rounds)
    report.show(json)


if __name__ == "__main__":
    main()
