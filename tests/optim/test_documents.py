"""What documents of BFO do with it, with the import line changed to `tracelet.optim`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tracelet.optim import BFO, AdaptiveBFO, HybridBFO, accumulate


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 4, generator=generator), torch.randn(16, 1, generator=generator)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def test_a_monitored_subclass_logs_to_tensorboard(model: nn.Module, data: tuple, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))

    class MonitoredBFO(BFO):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.step_count = 0

        def step(self, closure):
            loss = super().step(closure)
            writer.add_scalar("Loss/train", loss, self.step_count)
            writer.add_scalar("BFO/best_fitness", self.best_fitness, self.step_count)
            writer.add_scalar("BFO/population_diversity", self._compute_diversity(), self.step_count)
            if self.step_count % 100 == 0:
                writer.add_histogram("BFO/population", self.population.flatten(), self.step_count)
            self.step_count += 1
            return loss

    optimizer = MonitoredBFO(model.parameters(), population_size=8)
    x, y = data
    for _ in range(3):
        optimizer.step(lambda: nn.functional.mse_loss(model(x), y).item())
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [len(events.Scalars(f"BFO/{name}")) for name in ("best_fitness", "population_diversity")] == [3, 3]
    assert [event.value for event in events.Scalars("Loss/train")] == [
        event.value for event in events.Scalars("BFO/best_fitness")
    ]


def test_a_tracker_reads_the_names_that_it_knows(model: nn.Module, data: tuple) -> None:
    x, y = data
    optimizer = AdaptiveBFO(model.parameters(), population_size=10)
    losses, diversities, lengths, rates = [], [], [], []
    for _ in range(13):
        losses.append(optimizer.step(lambda: nn.functional.mse_loss(model(x), y).item()))
        diversities.append(optimizer._compute_diversity())
        lengths.append(optimizer.defaults["step_size_max"])
        if len(losses) > 10:
            recent = losses[-10:]
            rates.append((recent[0] - recent[-1]) / (recent[0] + 1e-8))
    assert len(rates) == 3
    assert all(type(each) is float for each in losses + diversities + lengths)
    assert optimizer.defaults["elim_prob"] > 0


def test_data_parallel_models_are_searched(data: tuple) -> None:
    model = nn.DataParallel(nn.Linear(4, 1))
    x, y = data
    optimizer = BFO(model.parameters(), population_size=50)
    before = nn.functional.mse_loss(model(x), y).item()
    for _ in range(3):
        loss = optimizer.step(lambda: nn.functional.mse_loss(model(x), y).item())
    assert loss < before


def test_mixed_precision_and_accumulation(model: nn.Module, data: tuple) -> None:
    x, y = data
    optimizer = HybridBFO(model.parameters(), population_size=2)

    def amp_closure() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss.item()

    assert optimizer.step(amp_closure) >= optimizer.step(amp_closure)
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    searching = BFO(model.parameters(), population_size=6)
    loss = searching.step(accumulate(lambda batch: nn.functional.mse_loss(model(batch[0]), batch[1]), batches))
    assert loss.item() == pytest.approx(nn.functional.mse_loss(model(x), y).item(), rel=1e-5)


@pytest.mark.parametrize("automatic", [True, False])
def test_lightning_logs_the_model_as_it_stands(automatic: bool, data: tuple, tmp_path: Path) -> None:
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset

    x, y = data

    class LitModel(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(4, 1)
            self.automatic_optimization = automatic
            self.found: list[tuple[float, float]] = []
            self.last = 0.0

        def configure_optimizers(self):
            return HybridBFO(self.parameters(), population_size=3, gradient_weight=0.5)

        def training_step(self, batch, batch_idx):
            if automatic:
                loss = nn.functional.mse_loss(self.model(batch[0]), batch[1])
                self.last = loss.item()
                return loss

            def closure() -> float:
                self.zero_grad()
                loss = nn.functional.mse_loss(self.model(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss.item()

            self.last = self.optimizers().step(closure)
            self.log("train_loss", self.last)
            return {"loss": torch.tensor(self.last)}

        def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
            optimizer = self.trainer.optimizers[0]
            with torch.no_grad():
                now = nn.functional.mse_loss(self.model(batch[0]), batch[1]).item()
            self.found.append((self.last, now))
            assert optimizer.best_fitness == pytest.approx(now, rel=1e-5)
            assert optimizer._compute_diversity() > 0

    module = LitModel()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=8))
    assert len(module.found) == trainer.global_step == 6
    for seen, now in module.found:
        assert seen == pytest.approx(now, rel=1e-5)
    assert module.found[4][0] < module.found[0][0]  # the same batch, two epochs later
