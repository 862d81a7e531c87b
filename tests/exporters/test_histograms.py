"""The numbers of a histogram, against those of the values that it was made of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tensorboard.compat.proto.summary_pb2 import HistogramProto
from torch.utils.tensorboard.summary import make_histogram
from tracelet_collector.exporters.histograms import summary


def as_json(made: HistogramProto) -> bytes:
    fields = ("min", "max", "num", "sum", "sum_squares")
    said = {name: getattr(made, name) for name in fields}
    return json.dumps(said | {"bucket_limit": list(made.bucket_limit), "bucket": list(made.bucket)}).encode()


@pytest.mark.parametrize("seed", range(3))
def test_what_tensorboard_makes_of_values(seed: int) -> None:
    values = np.random.default_rng(seed).normal(3.0, 2.0, 20_000)
    edges = np.linspace(-10, 15, 200)
    found = summary(as_json(make_histogram(values, edges, None)))
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert (found["min"], found["max"]) == (values.min(), values.max())
    for percent in (5, 50, 95):
        assert found[f"p{percent}"] == pytest.approx(np.percentile(values, percent), abs=0.15)


def test_one_value() -> None:
    content = {
        "min": 2,
        "max": 2,
        "num": 5,
        "sum": 10,
        "sum_squares": 20,
        "bucket_limit": [2.0, 1.7e308],
        "bucket": [0, 5],
    }
    found = summary(json.dumps(content).encode())
    assert dict(found) == {"mean": 2, "std": 0, "min": 2, "max": 2, "p5": 2, "p50": 2, "p95": 2}


def test_nothing_in_it() -> None:
    content = {"min": 0, "max": 0, "num": 0, "sum": 0, "sum_squares": 0, "bucket_limit": [], "bucket": []}
    assert summary(json.dumps(content).encode()) == {}


def test_what_is_not_finite_is_left_out() -> None:
    content = (
        '{"min": NaN, "max": Infinity, "num": 2, "sum": 4, "sum_squares": 8, "bucket_limit": [1, 3], "bucket": [0, 2]}'
    )
    found = summary(content.encode())
    assert found["mean"] == 2
    assert not {"min", "max"} & found.keys()


def test_of_values_that_are_not_finite_there_is_no_deviation() -> None:
    content = '{"min": NaN, "max": NaN, "num": 3, "sum": NaN, "sum_squares": NaN, "bucket_limit": [1], "bucket": [3]}'
    assert not {"mean", "std"} & summary(content.encode()).keys()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"min": "x"}', b"\xff"])
def test_what_is_no_histogram(content: bytes) -> None:
    with pytest.raises(ValueError, match="no histogram"):
        summary(content)
