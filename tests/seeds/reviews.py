"""What document 004's fragments take for granted: short reviews, good ones and bad ones, a model of them, and how it is judged.

A project of formed's names this module in its settings. Without `from __future__ import annotations`: formed reads the
annotations of classes and steps.
"""

from functools import partial
from typing import Any

import torch
from formed.integrations.ml import BasicBatchSampler, DataLoader, DataModule, Extra, LabelIndexer, Tokenizer
from formed.integrations.ml.metrics import Average, MulticlassAccuracy
from formed.integrations.torch import (
    BaseTorchModel,
    DefaultTorchTrainingEngine,
    EvaluationCallback,
    TorchTrainer,
    TorchTrainingCallback,
)
from formed.workflow import step

Points = dict[str, list[tuple[int, float]]]

WORDS = (
    ("a fine film", "a dull film"),
    ("good and warm", "bad and cold"),
    ("what a fine story", "what a dull story"),
    ("warm good film", "cold bad film"),
)


def reviews(count: int) -> list[dict[str, str]]:
    """Every second one is good."""
    texts = [text for pair in WORDS for text in pair]
    return [{"text": texts[number % len(texts)], "label": ("good", "bad")[number % 2]} for number in range(count)]


train_data, val_data, test_data = reviews(96), reviews(24), reviews(16)


@DataModule.register("my_datamodule")
class ReviewModule(DataModule):
    text: Tokenizer
    label: Extra[LabelIndexer] = Extra.default()


class ReviewEvaluator:
    """Accuracy and mean loss, of outputs with the attributes that the document's models give them."""

    def __init__(self) -> None:
        self.accuracy: Any = MulticlassAccuracy()
        self.loss = Average("loss")

    def update(self, inputs: Any, output: Any) -> None:
        targets = inputs.label.tolist()
        self.accuracy.update(self.accuracy.Input(predictions=output.label.tolist(), targets=targets))
        self.loss.update([output.loss.item()])

    def compute(self) -> dict[str, float]:
        return {**self.accuracy.compute(), **self.loss.compute()}

    def reset(self) -> None:
        self.accuracy.reset()
        self.loss.reset()

    def clone(self) -> "ReviewEvaluator":
        return ReviewEvaluator()


@step("reviews")
def load_reviews(part: str) -> Any:
    return {"train": train_data, "val": val_data, "test": test_data}[part]


@TorchTrainingCallback.register("written_down")
class WrittenDown(TorchTrainingCallback):
    """What formed tells a callback, in memory and in a file: the tests' other account of what was logged."""

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self.points: Points = {}

    def on_log(self, trainer: Any, model: Any, state: Any, metrics: Any, prefix: str = "") -> None:
        for name, value in metrics.items():
            self.points.setdefault(prefix + name, []).append((int(state.step), float(value)))
            if self.file is not None:
                with open(self.file, "a") as lines:
                    lines.write(f"{prefix + name} {int(state.step)} {float(value)!r}\n")


class Output(dict[str, Any]):
    """A mapping whose values are attributes too: the fragments want now one, now the other."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class BagOfWords(BaseTorchModel):
    """The mean of the words' vectors, and a line through them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.EmbeddingBag(32, 8, padding_idx=0)
        self.line = torch.nn.Linear(8, 2)

    def forward(self, inputs: Any, params: Any = None) -> Output:
        logits = self.line(self.words(torch.as_tensor(inputs.text.surfaces.ids)))
        loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(inputs.label).long())
        return Output(logits=logits, label=logits.argmax(-1), loss=loss)


datamodule = ReviewModule(text=Tokenizer(), label=LabelIndexer())
with datamodule.train():
    train_instances = [datamodule.instance(each) for each in train_data]
val_instances = [datamodule.instance(each) for each in val_data]


def loader(batch_size: int) -> DataLoader:
    return DataLoader(sampler=BasicBatchSampler(batch_size=batch_size), collator=datamodule.batch)


given = {
    "train_dataloader": loader(32),
    "val_dataloader": loader(12),
    "engine": DefaultTorchTrainingEngine(optimizer=partial(torch.optim.Adam, lr=1e-2)),
    "max_epochs": 3,
    "logging_strategy": "step",
}


def train(trainer: Any = None, **more: Any) -> Points:
    """Train a bag of words, with a trainer that a fragment made or one of these arguments.

    Returns:
        What formed's callbacks were told.
    """
    written = WrittenDown()
    if trainer is None:
        trainer = TorchTrainer(**{**given, **more})
        trainer._callbacks = [EvaluationCallback(ReviewEvaluator()), *trainer._callbacks]
    trainer._callbacks = [*trainer._callbacks, written]
    trainer.train(BagOfWords(), train_instances, val_instances)
    return written.points
