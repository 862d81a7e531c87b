"""What users hand over as a table, made into content: JSON of `columns` and `data`, as MLflow and W&B keep their own.

A table is known by what it can do: nothing that makes tables is imported here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from tracelet.core.contents import Content, array_of
from tracelet.core.metrics import MetaValue
from tracelet.guard import say

__all__ = ["MOST_BYTES", "MOST_ROWS", "is_frame", "table"]

MOST_ROWS: Final = 100_000
MOST_BYTES: Final = 16 * 1024 * 1024
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_NONE_OF_PANDAS: Final = frozenset({"NAType", "NaTType"})


def is_frame(given: Any) -> bool:
    """Whether it is a DataFrame of pandas or polars, or a Table of pyarrow."""
    return any(
        hasattr(given, columns) and callable(getattr(given, rows, None))
        for columns, rows in (("columns", "itertuples"), ("columns", "iter_rows"), ("column_names", "to_pylist"))
    )


def table(given: Any, columns: Iterable[Any] | None, name: str) -> Content:
    """A table as JSON.

    Args:
        given: a DataFrame; a mapping of columns; a sequence of mappings, or of rows; an array or tensor of two dimensions.
        columns: names of the columns of rows that have none; of others, which ones, in this order.
        name: the metric's, for what is said.

    Returns:
        Content. Its metadata say how many `rows` and `columns` it has, and, when it was cut, how many there were
        (`rows_given`).

    Raises:
        ValueError: rows and columns do not fit.
        TypeError: it is no table.
    """
    wanted = None if columns is None else [str(column) for column in columns]
    names, rows, number = _read(given, wanted)
    if len(set(names)) < len(names):
        names = _told_apart(names)
    head = f'{{"columns":{_encode(names)},"data":['
    size = len(head) + 2
    lines: list[str] = []
    for row in islice(rows, MOST_ROWS):
        cells = [_cell(value) for value in row]
        if len(cells) != len(names):
            raise ValueError(f"row {len(lines)} has {len(cells)} cells for {len(names)} columns")
        line = _encode(cells)
        size += len(line) + 1
        if size > MOST_BYTES:
            break
        lines.append(line)
    said: dict[str, MetaValue] = {"rows": len(lines), "columns": len(names)}
    if len(lines) < number:
        say(
            f"table {name} has {number:,} rows: the first {len(lines):,} are recorded "
            f"({MOST_ROWS:,} rows and {MOST_BYTES >> 20} MiB at most); log_artifact keeps files of any size",
            key=f"table {name} is cut",
        )
        said["rows_given"] = number
    return Content(f"{head}{','.join(lines)}]}}".encode(), "application/json", said)


def _read(given: Any, wanted: list[str] | None) -> tuple[list[str], Iterable[Iterable[Any]], int]:
    """Names of the columns, rows, and how many rows there are."""
    if is_frame(given):
        if hasattr(given, "itertuples"):
            names, rows = given.columns, given.itertuples(index=False, name=None)
        elif hasattr(given, "iter_rows"):
            names, rows = given.columns, given.iter_rows()
        else:
            names = given.column_names
            rows = zip(*(column.to_pylist() for column in given.columns), strict=True)
        return _chosen([_column_name(name) for name in names], rows, len(given), wanted)
    if isinstance(given, Mapping):
        return _of_columns(given, wanted)
    if hasattr(given, "dtype") and hasattr(given, "shape"):
        return _of_array(array_of(given), wanted)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{type(given).__name__} is no table: give a DataFrame, a mapping of columns, or rows")
    whole = given if isinstance(given, Sequence) else list(given)
    listed = whole[:MOST_ROWS]
    if any(isinstance(row, Mapping) for row in listed):
        return _of_mappings(listed, len(whole), wanted)
    if any(isinstance(row, str | bytes) or not isinstance(row, Iterable) for row in listed):
        raise TypeError("a table's rows are sequences or mappings: one of them is neither")
    rows = [list(row) for row in listed]
    names = wanted if wanted is not None else _numbered(max(map(len, rows), default=0))
    return names, rows, len(whole)


def _of_columns(given: Mapping[Any, Any], wanted: list[str] | None) -> tuple[list[str], Iterable[Iterable[Any]], int]:
    names = [_column_name(name) for name in given]
    if not any(_is_column(column) for column in given.values()):
        cells = [list(given.values())] if given else []
        return _chosen(names, cells, len(cells), wanted)
    columns = [_listed(column) for column in given.values()]
    lengths = [length for _, length in columns]
    if len(set(lengths)) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in zip(names, lengths, strict=True))
        raise ValueError(f"columns differ in length: {said}")
    return _chosen(names, zip(*(cells for cells, _ in columns), strict=True), lengths[0], wanted)


def _of_mappings(
    given: Sequence[Mapping[Any, Any]], number: int, wanted: list[str] | None
) -> tuple[list[str], Iterable[Iterable[Any]], int]:
    if not all(isinstance(row, Mapping) for row in given):
        raise TypeError("a table's rows are sequences or mappings, all of them the same")
    rows = [{_column_name(name): value for name, value in row.items()} for row in given]
    names = wanted if wanted is not None else list(dict.fromkeys(name for row in rows for name in row))
    return names, ([row.get(name) for name in names] for row in rows), number


def _of_array(given: Any, wanted: list[str] | None) -> tuple[list[str], Iterable[Iterable[Any]], int]:
    if given.dtype.names and given.ndim == 1:
        return _chosen(list(given.dtype.names), given[:MOST_ROWS].tolist(), len(given), wanted)
    if given.ndim == 1:
        given = given[:, None]
    if given.ndim != 2:
        raise ValueError(f"a table has two dimensions, not the shape {given.shape}")
    names = wanted if wanted is not None else _numbered(given.shape[1])
    return names, given[:MOST_ROWS].tolist(), len(given)


def _chosen(
    names: list[str], rows: Iterable[Iterable[Any]], number: int, wanted: list[str] | None
) -> tuple[list[str], Iterable[Iterable[Any]], int]:
    """Of the columns those that are wanted."""
    if wanted is None:
        return names, rows, number
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"there is no column {missing[0]!r}; there are: {', '.join(names)}")
    places = [names.index(name) for name in wanted]
    return wanted, _picked(rows, places), number


def _picked(rows: Iterable[Iterable[Any]], places: Sequence[int]) -> Iterator[list[Any]]:
    for row in rows:
        cells = list(row)
        yield [cells[place] for place in places]


def _is_column(given: Any) -> bool:
    if isinstance(given, str | bytes | Mapping):
        return False
    if hasattr(given, "ndim"):
        return bool(given.ndim)
    return isinstance(given, Iterable)


def _listed(column: Any) -> tuple[list[Any], int]:
    """The cells of a column, as many as are recorded, and how many it has."""
    if not _is_column(column):
        raise ValueError("columns are sequences: one of them is a single value")
    if hasattr(column, "detach"):
        column = array_of(column)
    if not hasattr(column, "__len__"):
        column = list(column)
    return list(islice(column, MOST_ROWS)), len(column)


def _column_name(name: Any) -> str:
    """A column's name; of several levels, joined."""
    return "/".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _numbered(number: int) -> list[str]:
    return [str(at) for at in range(number)]


def _told_apart(names: list[str]) -> list[str]:
    """Names of which none is there twice: a later one gets a number."""
    given: dict[str, None] = {}
    for name in names:
        candidate, number = name, 2
        while candidate in given:
            candidate, number = f"{name}_{number}", number + 1
        given[candidate] = None
    return list(given)


def _cell(value: Any) -> str | int | float | bool | None:
    """A cell: JSON has no NaN, which is none, as it is for pandas; and no infinity, which is a word."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value  # type: ignore[no-any-return]
    if kind is not float:
        if kind.__name__ in _NONE_OF_PANDAS:
            return None
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            value = value.item()
        if isinstance(value, str | bool) or value is None:
            return str(value) if isinstance(value, str) else value
        if isinstance(value, int):
            return int(value)
        if not isinstance(value, float):
            return _text(value)
        value = float(value)
    if math.isfinite(value):
        return value  # type: ignore[no-any-return]
    return None if math.isnan(value) else str(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # the user's own __str__ fails
        return type(value).__name__
