"""What document 003 leaves to its reader: a model, and data small enough that an epoch takes no time."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = [
    "Discriminator",
    "GanLosses",
    "Generator",
    "LitModel",
    "MNISTDataModule",
    "MyDataModule",
    "MyModel",
    "digits",
]


def digits(count: int, seed: int = 0, mistaken: bool = False) -> TensorDataset:
    """Images that look like their class, 784 numbers each; mistaken ones have the label of the next."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.rand(10, 784, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % 10
    images = classes[labels] + torch.randn(count, 784, generator=generator)
    return TensorDataset(images, (labels + mistaken) % 10)


class LitModel(L.LightningModule):
    """Logs `train_loss` when Lightning does, `val_loss` of every epoch."""

    def __init__(self, lr: float = 1e-3, hidden_dim: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(784, hidden_dim), nn.ReLU(), nn.Dropout(dropout))
        self.decoder = nn.Linear(hidden_dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


class MyDataModule(L.LightningDataModule):
    """40 images to train on, 20 to validate with, whose loss rises with what is learnt."""

    def __init__(self, batch_size: int = 20, num_workers: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.options = {"batch_size": batch_size, "num_workers": num_workers}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(digits(40), **self.options)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(digits(20, seed=1, mistaken=True), **self.options)


MyModel, MNISTDataModule = LitModel, MyDataModule


class Generator(nn.Sequential):
    """Makes images of noise."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 784))


class Discriminator(nn.Sequential):
    """Tells them from those of the data."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(784, 1))


class GanLosses:
    """The two losses of a GAN of both."""

    generator: Generator
    discriminator: Discriminator

    def discriminator_loss(self, batch: Any) -> Tensor:
        made = self.generator(torch.randn(len(batch[0]), 4)).detach()
        return nn.functional.softplus(-self.discriminator(batch[0])).mean() + (
            nn.functional.softplus(self.discriminator(made)).mean()
        )

    def generator_loss(self, batch: Any) -> Tensor:
        return nn.functional.softplus(-self.discriminator(self.generator(torch.randn(len(batch[0]), 4)))).mean()
