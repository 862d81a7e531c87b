"""The record: types by word and by guess."""

from __future__ import annotations

import dataclasses

import pytest

from tracelet.core.metrics import Metric, MetricType, infer_type


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("loss", "loss"),
        ("train/loss", "loss"),
        ("Loss/Train", "loss"),
        ("valLoss", "loss"),
        ("losses", "loss"),
        ("loss_gradient_norm", "gradient"),
        ("grad_norm", "gradient"),
        ("lr", "learning_rate"),
        ("lr-Adam", "learning_rate"),
        ("lr/group0", "learning_rate"),
        ("Learning_Rate", "learning_rate"),
        ("learningRate", "learning_rate"),
        ("val/Accuracy", "accuracy"),
        ("acc", "accuracy"),
        ("top-5", "accuracy"),
        ("top1", "accuracy"),
        ("best_fitness", "fitness"),
        ("population_diversity", "diversity"),
        ("gpu/memory_usage", "system"),
        ("cpu", "system"),
        ("glossary", "scalar"),
        ("accordion", "scalar"),
        ("flr", "scalar"),
        ("", "scalar"),
        ("ä", "scalar"),
    ],
)
def test_what_a_tag_suggests(tag: str, expected: str) -> None:
    assert infer_type(tag).value == expected


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (MetricType.LOSS, "loss"),
        ("accuracy", "accuracy"),
        (" fitness ", "fitness"),
        ("my own", "my own"),
        ("Loss", "Loss"),
    ],
)
def test_word(given: MetricType | str, word: str) -> None:
    assert MetricType.word(given) == word
    assert type(MetricType.word(given)) is str


@pytest.mark.parametrize(("given", "error"), [(5, TypeError), (None, TypeError), ("", ValueError), ("  ", ValueError)])
def test_no_word(given: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="metric_type"):
        MetricType.word(given)  # type: ignore[arg-type]


def test_a_type_reads_as_its_word() -> None:
    assert f"{MetricType.LEARNING_RATE}" == "learning_rate"
    assert {str(kind) for kind in MetricType} >= {
        "loss",
        "accuracy",
        "learning_rate",
        "gradient",
        "fitness",
        "diversity",
    }


def test_a_point_stays_as_it_is() -> None:
    point = Metric("train/loss", 0.1, 2**70, 1.5, tag="loss")
    assert (point.step, point.metadata, point.step_implied) == (2**70, {}, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.value = 1.0  # type: ignore[misc]
