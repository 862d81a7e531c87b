"""Trains a small classifier on scikit-learn's digits and logs it with TensorBoard's SummaryWriter.

This is all the script knows of. Run it as it is, or with `tracelet run` in front:

    python examples/digits.py --epochs 20 --log-dir runs/digits
    tracelet run examples/digits.py --epochs 20 --log-dir runs/digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter


def digits(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """1,797 pictures of 8x8 pixels, three quarters of them for training."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(pictures / 16.0, dtype=torch.float32)
    labels = torch.tensor(labels)
    train_x, val_x, train_y, val_y = train_test_split(pictures, labels, test_size=0.25, random_state=0, stratify=labels)
    train = DataLoader(TensorDataset(train_x, train_y), batch_size=batch_size, shuffle=True)
    return train, DataLoader(TensorDataset(val_x, val_y), batch_size=256)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    """Mean loss and accuracy over a loader."""
    model.eval()
    loss = right = seen = 0.0
    for pictures, labels in loader:
        scores = model(pictures)
        loss += nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        right += (scores.argmax(dim=1) == labels).sum().item()
        seen += len(labels)
    model.train()
    return loss / seen, right / seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--log-dir", type=Path, default=Path("runs/digits"))
    args = parser.parse_args()

    torch.manual_seed(0)
    train, val = digits(args.batch_size)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * len(train))

    train_writer = SummaryWriter(args.log_dir / "train")
    val_writer = SummaryWriter(args.log_dir / "val")
    step = 0
    for epoch in range(1, args.epochs + 1):
        for pictures, labels in train:
            scores = model(pictures)
            loss = nn.functional.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            train_writer.add_scalar("loss", loss.item(), step)
            train_writer.add_scalar("accuracy", (scores.argmax(dim=1) == labels).float().mean().item(), step)
            train_writer.add_scalar("lr", schedule.get_last_lr()[0], step)
            schedule.step()
            step += 1
        val_loss, val_accuracy = evaluate(model, val)
        val_writer.add_scalar("loss", val_loss, step)
        val_writer.add_scalar("accuracy", val_accuracy, step)
        print(
            f"epoch {epoch:3d}/{args.epochs}  validation loss {val_loss:.4f}  accuracy {val_accuracy:.4f}", flush=True
        )
    train_writer.close()
    val_writer.close()


if __name__ == "__main__":
    main()
