"""Population optimizers in Lightning: what is logged is the model as it stands, and the callback tells of the search."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.pages import examples
from tracelet.optim import BFO, HybridBFO, lightning

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def data() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 4, generator=generator), torch.randn(16, 1, generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=8)


class Automatic(pl.LightningModule):
    """Two batches an epoch; Lightning makes the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(4, 1)
        self.found: list[tuple[float, float]] = []
        self.last = 0.0

    def configure_optimizers(self):
        return HybridBFO(self.parameters(), population_size=3, gradient_weight=0.5)

    def train_dataloader(self) -> DataLoader:
        return data()

    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self.model(batch[0]), batch[1])
        self.log("train_loss", loss)
        self.last = loss.item()
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        with torch.no_grad():
            now = nn.functional.mse_loss(self.model(batch[0]), batch[1]).item()
        self.found.append((self.last, now))


def manual(package: ModuleType, make: Callable[[Any], list], every: int = 1) -> Any:
    """A module of one of the packages that steps all its optimizers itself."""

    class Manual(package.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)
            self.automatic_optimization = False

        def configure_optimizers(self):
            return make(self)

        def training_step(self, batch, batch_idx) -> None:
            def closure():
                self.zero_grad()
                loss = nn.functional.mse_loss(self.first(batch[0]) + self.second(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss

            optimizers = self.optimizers()
            if (batch_idx + 1) % every == 0:
                for each in optimizers if isinstance(optimizers, list) else [optimizers]:
                    each.step(closure)

    return Manual()


def said(value: Any) -> str:
    """A setting on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def rows(logger: CSVLogger) -> list[dict[str, float]]:
    logger.save()
    names, *lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    return [
        {name: float(value) for name, value in zip(names.split(","), line.split(","), strict=True) if value}
        for line in lines
    ]


def again(monkeypatch: pytest.MonkeyPatch, *without: str) -> Any:
    """The callback's module as it is where some packages were not imported."""
    for name in without:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location("lightning_again", lightning.__file__)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_logged_is_the_model_as_it_stands(tmp_path: Path) -> None:
    from tracelet.optim import BFOCallback

    module, logger = Automatic(), CSVLogger(tmp_path)
    trainer = pl.Trainer(max_epochs=3, log_every_n_steps=1, logger=logger, callbacks=[BFOCallback()], **QUIET)
    trainer.fit(module)
    assert len(module.found) == trainer.global_step == 6
    for seen, now in module.found:
        assert seen == pytest.approx(now, rel=1e-5)
    assert module.found[4][0] < module.found[0][0]  # the same batch, two epochs later
    told = {row["step"]: row for row in rows(logger) if "best_fitness" in row}
    assert list(told) == [1, 2, 3, 4, 5, 6]
    assert [row["best_fitness"] for row in told.values()] == pytest.approx([now for _, now in module.found], rel=1e-5)
    assert told[6]["population_diversity"] == pytest.approx(trainer.optimizers[0]._compute_diversity())
    logged = [row["train_loss"] for row in rows(logger) if "train_loss" in row]
    assert logged == pytest.approx([now for _, now in module.found], rel=1e-5)


def test_the_pages_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(examples("docs/optim/integrations.md")["PyTorch Lightning"], {"__name__": "__main__"})
    (file,) = tmp_path.rglob("events.out.tfevents.*")
    assert [event.step for event in EventAccumulator(str(file)).Reload().Scalars("best_fitness")] == list(range(1, 9))


@pytest.mark.parametrize("package", [pl, pytorch_lightning], ids=lambda package: package.__name__)
def test_several_optimizers_and_loggers(package: ModuleType, tmp_path: Path) -> None:
    loggers = [package.loggers.CSVLogger(tmp_path / name) for name in ("one", "two")]
    module = manual(
        package,
        lambda made: [
            HybridBFO(made.first.parameters(), population_size=2),
            torch.optim.SGD(made.first.parameters(), lr=0.0),
            BFO(made.second.parameters(), population_size=4),
        ],
    )
    callback = lightning.BFOCallback()
    assert isinstance(callback, package.Callback)
    trainer = package.Trainer(max_epochs=2, logger=loggers, callbacks=callback, **QUIET)
    trainer.fit(module, data())
    for logger in loggers:
        told = rows(logger)
        assert [row["step"] for row in told] == [3, 6, 9, 12]  # Lightning counts the steps of all optimizers
        for row in told:
            assert row.keys() == {"step"} | {
                f"{name}/{place}" for name in ("best_fitness", "population_diversity") for place in (0, 2)
            }
        assert told[-1]["best_fitness/2"] == pytest.approx(trainer.optimizers[2].best_fitness)


def test_other_optimizers_and_missing_loggers_are_passed_over(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer = pl.Trainer(max_epochs=1, logger=logger, callbacks=[lightning.BFOCallback()], **QUIET)
    trainer.fit(manual(pl, lambda made: [torch.optim.SGD(made.parameters(), lr=0.1)]), data())
    assert logger.experiment.metrics == []
    trainer = pl.Trainer(max_epochs=1, logger=False, callbacks=[lightning.BFOCallback()], **QUIET)
    trainer.fit(manual(pl, lambda made: [BFO(made.parameters(), population_size=4)]), data())
    assert trainer.global_step == 2


def test_wrapped_optimizers_and_searches_that_have_not_begun(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    module = manual(pl, lambda made: [BFO(made.parameters(), population_size=4)], every=2)
    trainer = pl.Trainer(max_epochs=1, logger=logger, callbacks=[lightning.BFOCallback()], **QUIET)
    trainer.fit(module, data())
    assert [row["step"] for row in rows(logger)] == [1]  # after the second batch
    (search,) = trainer.optimizers
    trainer.strategy.optimizers = [module.optimizers()]
    assert type(trainer.optimizers[0]) is not type(search) is BFO
    lightning.BFOCallback().on_train_batch_end(trainer, module, None, None, 2)
    assert [row["best_fitness"] for row in rows(logger)] == pytest.approx([search.best_fitness] * 2)


def test_it_is_a_callback_of_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(monkeypatch).BFOCallback.__bases__ == (pl.Callback, pytorch_lightning.Callback)
    with monkeypatch.context() as patch:
        assert again(patch, "lightning.pytorch").BFOCallback.__bases__ == (pytorch_lightning.Callback,)
    callback = again(monkeypatch, "pytorch_lightning").BFOCallback()
    assert type(callback).__bases__ == (pl.Callback,)
    monkeypatch.undo()
    # The other package's trainer calls it all the same.
    trainer = pytorch_lightning.Trainer(max_epochs=1, callbacks=[callback], logger=False, **QUIET)
    trainer.fit(manual(pytorch_lightning, lambda made: [BFO(made.parameters(), population_size=4)]), data())
    assert trainer.global_step == 2


def test_without_lightning_only_the_callback_is_missing() -> None:
    code = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
import tracelet.optim
from tracelet.optim import *
try:
    from tracelet.optim import BFOCallback
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "BFOCallback needs Lightning: pip install 'tracelet[lightning]'\n"


def test_the_command_line_takes_its_settings_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {
        "population_size": 3,
        "bounds": [-0.5, 0.5],
        "lr": 0.05,
        "seed": 7,
        "max_evaluations": 1000,
        "reevaluate": "always",
    }

    class Told(Automatic):
        configure_optimizers = pl.LightningModule.configure_optimizers

    command = LightningCLI(
        Told,
        args=[
            "fit",
            "--optimizer=tracelet.optim.HybridBFO",
            *(f"--optimizer.init_args.{name}={said(value)}" for name, value in settings.items()),
            "--trainer.max_epochs=3",
            "--trainer.log_every_n_steps=1",
            "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
            f"--trainer.logger.init_args.save_dir={tmp_path}",
            "--trainer.callbacks+=tracelet.optim.BFOCallback",
            *(f"--trainer.{name}={said(value)}" for name, value in QUIET.items()),
        ],
    )
    (optimizer,) = command.trainer.optimizers
    assert type(optimizer) is HybridBFO
    assert {name: optimizer.defaults[name] for name in settings if name != "seed"} == {
        **{name: value for name, value in settings.items() if name != "seed"},
        "bounds": (-0.5, 0.5),
    }
    assert optimizer._seed == 7
    assert optimizer.population.shape == (3, 5)
    assert optimizer.population.abs().max() <= 0.5
    assert command.model.found[4][0] < command.model.found[0][0]
    told = [row["best_fitness"] for row in rows(command.trainer.logger) if "best_fitness" in row]
    assert told == pytest.approx([now for _, now in command.model.found], rel=1e-5)
