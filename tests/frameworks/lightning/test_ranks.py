"""Several processes: the first rank's values arrive, once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

# In a process of its own: torch is not to be forked where it has worked before. Both ranks log 4 of the 8 batches.
FORKED = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from tracelet import testing


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.log("rank", float(self.global_rank))
        self.logger.log_metrics({"direct": float(batch_idx)}, batch_idx)
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Logger(pl.loggers.logger.Logger):
    name, version = "own", 0

    def log_metrics(self, metrics, step=None):  # on all ranks
        pass

    def log_hyperparams(self, params):
        pass


with testing.capture() as cap:
    trainer = pl.Trainer(
        accelerator="cpu", strategy="ddp_fork", devices=2, max_epochs=1, log_every_n_steps=1, logger=Logger(),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Model(), DataLoader(TensorDataset(torch.ones(8, 1))))
points = [(point.name, point.value, point.step) for point in cap.points() if not point.name.startswith("optim/")]
print(json.dumps({"points": sorted(points), "lr": cap.params["lr"]}))
"""


def test_forked_ranks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TRACELET_RAISE_INTERNAL": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = [
        [name, value, step]
        for step in range(4)
        for name, value in (("direct", float(step)), ("epoch", 0.0), ("rank", 0.0))
    ]
    assert found == {"points": sorted(expected), "lr": 0.1}
