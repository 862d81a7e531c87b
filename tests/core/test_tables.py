"""Tables: what people call one, made into columns and rows of JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch

from tests.support import runs
from tests.support.spool_points import records_of
from tracelet.core import tables
from tracelet.core.metrics import BlobRef, Media
from tracelet.spoolfile import SpoolDirectory


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError


def made(given: Any, columns: Any = None) -> tuple[list[str], list[list[Any]]]:
    content = tables.table(given, columns, "t")
    assert content.media_type == "application/json"
    said = json.loads(content.data)
    assert list(said) == ["columns", "data"]
    assert content.metadata == {"rows": len(said["data"]), "columns": len(said["columns"])}
    return said["columns"], said["data"]


class Frame:
    """A DataFrame as polars has it."""

    columns = ("a", "b")

    def iter_rows(self) -> Iterator[tuple[Any, ...]]:
        return iter([(1, "x"), (2, None)])

    def __len__(self) -> int:
        return 2


WANTED = (["a", "b"], [[1, "x"], [2, None]])


@pytest.mark.parametrize(
    "given",
    [
        pandas.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["i", "j"]),
        Frame(),
        pyarrow.table({"a": [1, 2], "b": ["x", None]}),
        {"a": [1, 2], "b": ("x", None)},
        {"a": np.array([1, 2]), "b": pandas.Series(["x", None])},
        {"a": torch.tensor([1, 2]), "b": ["x", None]},
        [{"a": 1, "b": "x"}, {"a": 2}],
        np.array([(1, "x"), (2, None)], dtype=[("a", int), ("b", object)]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_has_columns(given: Any) -> None:
    assert made(given) == WANTED
    assert made(given, ["b", "a"]) == (["b", "a"], [["x", 1], [None, 2]])


@pytest.mark.parametrize(
    "given",
    [[[1, "x"], (2, None)], ((1, "x"), (2, None)), np.array([[1, "x"], [2, None]], dtype=object)],
    ids=["rows", "tuples", "array"],
)
def test_what_has_none(given: Any) -> None:
    assert made(given, ("a", "b")) == WANTED
    assert made(given) == (["0", "1"], WANTED[1])


def test_other_shapes() -> None:
    assert made({"a": 1, "b": "x"}) == (["a", "b"], [[1, "x"]])
    assert made(torch.arange(4.0, requires_grad=True).reshape(2, 2)) == (["0", "1"], [[0.0, 1.0], [2.0, 3.0]])
    assert made(np.arange(3)) == (["0"], [[0], [1], [2]])
    assert made([], ["a"]) == (["a"], [])
    assert made([]) == made({}) == ([], [])
    assert made(pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([("a", "b"), ("a", "c")]))) == (
        ["a/b", "a/c"],
        [[1, 2]],
    )
    twice = pandas.DataFrame([[1, 2, 3]], columns=["a", "a", "a_2"])
    assert made(twice) == (["a", "a_2", "a_2_2"], [[1, 2, 3]])


def test_cells() -> None:
    cells: dict[str, tuple[Any, Any]] = {
        "int": (2**70, 2**70),
        "bool": (True, True),
        "none": (None, None),
        "nan": (float("nan"), None),
        "inf": (-float("inf"), "-inf"),
        "text": ("ü\ud800", "ü\ud800"),
        "numpy float": (np.float32(0.5), 0.5),
        "numpy nan": (np.float64("nan"), None),
        "numpy bool": (np.bool_(False), False),
        "numpy text": (np.str_("x"), "x"),
        "hostile": (Hostile(), "Hostile"),
        "tensor": (torch.tensor(3), 3),
        "NA": (pandas.NA, None),
        "NaT": (pandas.NaT, None),
        "day": (datetime.date(2024, 2, 3), "2024-02-03"),
        "list": ([1, 2], "[1, 2]"),
        "array": (np.array([1, 2]), "[1 2]"),
        "path": (Path("a/b"), "a/b"),
    }
    assert made([[given for given, _ in cells.values()]], cells) == (
        list(cells),
        [[wanted for _, wanted in cells.values()]],
    )


@pytest.mark.parametrize(
    ("given", "columns", "why"),
    [
        ([[1], [1, 2]], None, "row 0 has 1 cells for 2 columns"),
        ([[1, 2]], ["a"], "row 0 has 2 cells for 1 columns"),
        ({"a": [1], "b": [1, 2]}, None, "columns differ in length: a has 1, b has 2"),
        ({"a": [1], "b": 2}, None, "one of them is a single value"),
        ({"a": [1]}, ["b"], "there is no column 'b'; there are: a"),
        (np.zeros((2, 2, 2)), None, r"not the shape \(2, 2, 2\)"),
        ("abc", None, "str is no table"),
        (["abc"], None, "one of them is neither"),
        ([{"a": 1}, [1]], None, "all of them the same"),
        (3, None, "int is no table"),
    ],
)
def test_what_is_no_table(given: Any, columns: Any, why: str) -> None:
    with pytest.raises((ValueError, TypeError), match=why):
        tables.table(given, columns, "t")


def test_the_first_of_too_many_rows(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert (tables.MOST_ROWS, tables.MOST_BYTES) == (100_000, 16 * 2**20)
    monkeypatch.setattr(tables, "MOST_ROWS", 1000)
    content = tables.table(np.arange(tables.MOST_ROWS + 5), None, "many")
    assert content.metadata == {"rows": tables.MOST_ROWS, "columns": 1, "rows_given": tables.MOST_ROWS + 5}
    assert json.loads(content.data)["data"][-1] == [tables.MOST_ROWS - 1]
    long = range(tables.MOST_ROWS + 5)
    for given in ({"a": long}, [[k] for k in long], [{"a": k} for k in long], pandas.DataFrame({"a": long})):
        other = tables.table(given, ["a"], "many")
        assert (other.metadata, json.loads(other.data)["data"]) == (content.metadata, json.loads(content.data)["data"])
    wide = tables.table([["x" * 1_000_000]] * 20, ["text"], "wide")
    assert wide.metadata == {"rows": 16, "columns": 1, "rows_given": 20}
    assert len(wide.data) <= tables.MOST_BYTES
    assert len(json.loads(wide.data)["data"]) == 16
    said = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[2].partition(" (")[0].strip() for line in said] == [
        "table many has 1,005 rows: the first 1,000 are recorded",
        "table wide has 20 rows: the first 16 are recorded",
    ]


def test_a_run_records_it(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with runs.running(home) as run:
        run.log_table("eval/t", {"a": [1, 2]}, 3)
        run.log_table("eval/t", {"a": [3]})
        run.log_table("large", np.zeros((5000, 3)), 0, columns="xyz")
        monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
        run.log_table("wrong", "no table", 0)
    first, implied, large = records_of(Media, home)
    assert (first.name, first.kind, first.step, first.step_implied) == ("eval/t", "table", 3, False)
    assert (implied.step, implied.step_implied) == (0, True)
    assert json.loads(first.content) == {"columns": ["a"], "data": [[1], [2]]}  # type: ignore[arg-type]
    assert isinstance(large.content, BlobRef)
    (spool,) = SpoolDirectory.under(home)
    said = json.loads((spool.blobs / large.content.sha256).read_bytes())
    assert said == {"columns": ["x", "y", "z"], "data": [[0.0] * 3] * 5000}
    assert "recording table wrong failed (TypeError: str is no table" in capfd.readouterr().err
