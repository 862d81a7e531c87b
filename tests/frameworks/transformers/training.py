"""Small trainings by Transformers, always the same one for the same arguments. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification, Trainer, TrainingArguments
from transformers.integrations.integration_utils import rewrite_logs

from tracelet import testing

__all__ = ["Point", "arguments", "arrived", "history", "model", "rows", "trainer"]

Point = tuple[str, float, int]


def model() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=32,
            max_position_embeddings=8,
            n_layers=1,
            n_heads=2,
            dim=8,
            hidden_dim=16,
            dropout=0.0,
            attention_dropout=0.0,
            seq_classif_dropout=0.0,
        )
    )


def rows(count: int = 32) -> list[dict[str, Any]]:
    """Eight tokens each; the label says whether the first one is large."""
    tokens = torch.randint(2, 32, (count, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": each, "labels": int(each[0] > 16)} for each in tokens]


def arguments(**given: Any) -> TrainingArguments:
    usual: dict[str, Any] = {
        "output_dir": "out",
        "report_to": "none",
        "max_steps": 4,
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**{**usual, **given})


def trainer(kind: type[Trainer] = Trainer, callbacks: list[Any] | None = None, **given: Any) -> Trainer:
    """A Trainer of four steps that logs each. Arguments are those of TrainingArguments, but for those that a Trainer has."""
    its = {name: given.pop(name) for name in list(given) if name in _OF_TRAINER}
    return kind(
        **{"model": model(), "train_dataset": rows(), "eval_dataset": rows(8), **its},
        args=arguments(**given),
        callbacks=callbacks,
    )


_OF_TRAINER = (
    "compute_loss_func",
    "compute_metrics",
    "eval_dataset",
    "model",
    "model_init",
    "optimizer_cls_and_kwargs",
    "optimizers",
    "train_dataset",
)


def history(ran: Trainer, *predicted: Mapping[str, float]) -> list[Point]:
    """What a Trainer has logged, and what `predict` has found, as its TensorBoard and W&B callbacks name it."""
    found: list[Point] = []
    for logs in ran.state.log_history:
        values = rewrite_logs({name: value for name, value in logs.items() if name != "step"})
        found += [(name, float(value), int(logs["step"])) for name, value in values.items()]
    for metrics in predicted:
        found += [(name, float(value), ran.state.global_step) for name, value in rewrite_logs(metrics).items()]
    return found


def arrived(cap: testing.Captured, run: Any = None) -> list[Point]:
    """What was recorded of it."""
    points = cap.points(run=run)
    return [(point.name, point.value, point.step) for point in points if not point.name.startswith("optim/")]
