"""A line to fit, in formed's words: data, a model, evaluators, and steps of a workflow. Registered when it is imported.

Without `from __future__ import annotations`: formed reads what steps return from their annotations.
"""

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from formed.integrations.ml import BasicBatchSampler, DataLoader
from formed.integrations.torch import (
    BaseTorchModel,
    DefaultTorchTrainingEngine,
    EvaluationCallback,
    TorchTrainer,
    TorchTrainingCallback,
)
from formed.workflow import DefaultWorkflowExecutor, FilesystemWorkflowOrganizer, WorkflowGraph, WorkflowStepResultFlag
from formed.workflow import step as workflow_step

import tracelet

Points = dict[str, list[tuple[int, float]]]


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor


@dataclasses.dataclass
class Output:
    prediction: torch.Tensor
    loss: torch.Tensor


def collate(rows: Sequence[tuple[list[float], float]]) -> Batch:
    return Batch(torch.tensor([row[0] for row in rows]), torch.tensor([[row[1]] for row in rows]))


@BaseTorchModel.register("tracelet_test_line")
class Line(BaseTorchModel):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 1)

    def forward(self, inputs: Batch, params: Any = None) -> Output:
        prediction = self.layer(inputs.x)
        return Output(prediction, torch.nn.functional.mse_loss(prediction, inputs.y))


class MeanLoss:
    """What formed has as an evaluator: the mean of the losses since it was made."""

    def __init__(self, limit: float = float("inf")) -> None:
        self.limit = limit
        self.losses: list[float] = []

    def update(self, inputs: Batch, output: Output) -> None:
        self.losses.append(output.loss.item())

    def compute(self) -> dict[str, float]:
        return {"loss": sum(self.losses) / len(self.losses)} if self.losses else {}

    def reset(self) -> None:
        self.losses = []

    def clone(self) -> "MeanLoss":
        return MeanLoss(self.limit)


@TorchTrainingCallback.register("tracelet_test_history")
class History(TorchTrainingCallback):
    """What formed tells a callback: the tests' other account of what was logged.

    Args:
        file: where it goes too, a line for each value.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self.points: Points = {}

    def on_log(self, trainer: Any, model: Any, state: Any, metrics: Any, prefix: str = "") -> None:
        for name, value in metrics.items():
            self.points.setdefault(prefix + name, []).append((int(state.step), float(value)))
            if self.file is not None:
                with open(self.file, "a") as lines:
                    lines.write(f"{prefix + name} {int(state.step)} {float(value)!r}\n")


@TorchTrainingCallback.register("tracelet_test_fails")
class Fails(TorchTrainingCallback):
    """Raises at a step."""

    def __init__(self, step: int = 3, error: type[BaseException] = RuntimeError) -> None:
        self.step = step
        self.error = error

    def on_batch_end(self, trainer: Any, model: Any, state: Any, epoch: int, output: Any) -> None:
        if state.step == self.step:
            raise self.error("no more")


def rows(count: int = 12) -> list[tuple[list[float], float]]:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
    return [(each.tolist(), float(each.sum())) for each in x]


def loader(batch_size: int = 4) -> DataLoader:
    return DataLoader(sampler=BasicBatchSampler(batch_size=batch_size), collator=collate)


class Loader:
    """A data loader that a configuration can name."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __call__(self, data: Any) -> Any:
        return loader(self.batch_size)(data)


def trainer(*callbacks: Any, engine: Any = None, **more: Any) -> TorchTrainer:
    """Three epochs of three steps."""
    given = {"max_epochs": 3, "logging_strategy": "step", "logging_interval": 1, **more}
    return TorchTrainer(
        train_dataloader=loader(),
        val_dataloader=loader(6),
        engine=engine or DefaultTorchTrainingEngine(optimizer=sgd),
        callbacks=[EvaluationCallback(MeanLoss()), *callbacks],
        **given,
    )


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def train(*callbacks: Any, **more: Any) -> Points:
    """Train the line; returns what formed's callbacks were told."""
    history = History()
    torch.manual_seed(0)
    trainer(*callbacks, history, **more).train(Line(), rows(), rows(6))
    return history.points


# -- a workflow


@workflow_step("tracelet_test_rows", format="json")
def make_rows(count: int = 12) -> Any:
    return rows(count)


@workflow_step("tracelet_test_counts", format="json")
def counts(dataset: list[Any]) -> Annotated[dict[str, float], WorkflowStepResultFlag.METRICS]:
    return {"rows": float(len(dataset))}


@workflow_step("tracelet_test_says", format="json")
def says(value: float = 1.0) -> float:
    tracelet.log({"said": value}, step=7)
    return value


@workflow_step("tracelet_test_raises", format="json")
def raises(words: str, interrupt: bool = False) -> str:
    raise KeyboardInterrupt if interrupt else ValueError(words)


@workflow_step("tracelet_test_says_later", format="json")
async def says_later(value: float) -> float:
    tracelet.log({"first": value}, step=1)
    await asyncio.sleep(0)
    tracelet.log({"second": value}, step=2)
    return value


def steps(count: int = 12, **trainer: Any) -> dict[str, Any]:
    """Rows, a training of two epochs, and an evaluation."""
    data = "tests.nested.formed.training:Loader"
    loss = {"type": "tests.nested.formed.training:MeanLoss"}
    optimizer = {"type": "torch.optim:SGD", "lr": 0.1}
    return {
        "rows": {"type": "tracelet_test_rows", "count": count},
        "trained": {
            "type": "torch::train",
            "model": {"type": "tracelet_test_line", "width": 2},
            "trainer": {
                "train_dataloader": {"type": data, "batch_size": 4},
                "val_dataloader": {"type": data, "batch_size": 6},
                "engine": {"type": "default", "optimizer": optimizer, "max_grad_norm": 1.0},
                "max_epochs": 2,
                "callbacks": [{"type": "evaluation", "evaluator": loss}],
                **trainer,
            },
            "train_dataset": refer("rows"),
            "val_dataset": refer("rows"),
        },
        "evaluated": {
            "type": "torch::evaluate",
            "model": refer("trained"),
            "evaluator": loss,
            "dataset": refer("rows"),
            "dataloader": {"type": data, "batch_size": 5},
            "random_seed": 7,
        },
    }


@workflow_step("tracelet_test_forks", format="json")
def forks() -> int:
    if (child := os.fork()) == 0:
        tracelet.log({"forked": 2.0}, step=1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def refer(step: str) -> dict[str, str]:
    return {"type": "ref", "ref": step}


def run(config: dict[str, Any], folder: Path, executor: Any = None, **more: Any) -> Any:
    """Run a workflow of some steps, with its cache in a folder."""
    organizer = FilesystemWorkflowOrganizer(folder / "formed", **more)
    return organizer.run(executor or DefaultWorkflowExecutor(), WorkflowGraph.from_config({"steps": config}))
