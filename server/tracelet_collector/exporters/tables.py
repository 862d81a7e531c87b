"""Tables as tracelet keeps them, for trackers: JSON of `columns` and `data`, read with care."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["markdown", "read"]


def read(content: bytes) -> tuple[list[str], list[list[Any]]]:
    """The columns and the rows of a table.

    Raises:
        ValueError: it is no table.
    """
    try:
        said = json.loads(content)
        columns, rows = said["columns"], said["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no table: {error}") from error
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise ValueError("no table: its columns have no names")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        raise ValueError("no table: its rows are not as long as its head")
    return columns, rows


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|")
