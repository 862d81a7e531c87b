"""Metadata in trackers that have none for a point: constants in a tag or its like, what varies in JSON Lines artifacts.

A row is written for every point of a name once its metadata has varied: `{"name", "step", "wall_time", "metadata"}`. Before
the first of them goes a row with `"since": true`, which says what all points had from that step on until then.

Rows wait in the run's state, which is committed with the cursor, until they fill a file, a minute is over or the run has
ended. A file is written whole, under the next number: delivered again, it is the same file, with the same rows or more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracelet.core.metrics import MetaValue

__all__ = ["MetadataBook", "RowFile", "fit", "json_within"]

_MAX_WORD: Final = 1000
_MAX_NAMES: Final = 1000
_FILE_CHARACTERS: Final = 32 * 1024
_FILE_SECONDS: Final = 60.0

RowFile = tuple[str, bytes]


class MetadataBook:
    """The metadata of one run, over its state.

    Args:
        state: the run's; `metadata`, `rows`, `rows_since`, `row_files` and `ended` are ours.
        tags: what is to be set; added to.
        limit: characters of a tag.
    """

    def __init__(self, state: dict[str, Any], tags: dict[str, str], limit: int) -> None:
        self._state = state
        self._tags = tags
        self._limit = limit
        self._rows: list[str] = []
        self._newest: Any = None  # wall time of the last of them

    def tell(
        self,
        key: str,
        point: Mapping[str, Any],
        metadata: Mapping[str, MetaValue],
        words: Mapping[str, MetaValue],
    ) -> None:
        """Keep a point's metadata.

        Args:
            key: of the metric.
            point: name, step and wall time.
            metadata: all of it, for the row.
            words: of it what the tag shows.
        """
        kept = self._state.setdefault("metadata", {})
        if key not in kept and len(kept) >= _MAX_NAMES:
            self._tags["tracelet.metadata_left_out"] = (
                f"only the first {_MAX_NAMES} metrics that have metadata show it in a tag; that of the others is in "
                "the artifacts metadata/*.jsonl"
            )
            self.add_row(point, metadata)
            return
        entry = kept.setdefault(key, {"fields": {}, "varies": [], "since": dict(point)})
        fields, varies = entry["fields"], entry["varies"]
        shown = {
            name: fit(word, _MAX_WORD) if isinstance(word, str) else _sayable(word) for name, word in words.items()
        }
        changed = [name for name, word in shown.items() if fields.get(name, word) != word]
        if changed and not varies:
            self.add_row({**entry.get("since", point), "since": True}, fields)
        if changed or any(name not in fields for name in shown):
            varies += [name for name in changed if name not in varies]
            fields |= shown
            self._tags[f"tracelet.metric.{key}.metadata"] = _tag(fields, varies, self._limit)
        if varies:
            self.add_row(point, metadata)

    def add_row(self, point: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Keep a row."""
        values = {name: _sayable(value) for name, value in metadata.items()}
        said = {name: _sayable(value) for name, value in point.items()}
        if not (self._rows or self._state.get("rows")):
            self._state["rows_since"] = said["wall_time"]
        self._rows.append(json.dumps({**said, "metadata": values}, ensure_ascii=False) + "\n")
        self._newest = said["wall_time"]

    def files(self) -> Sequence[RowFile]:
        """At the end of a chunk: the file that is to be written now, if there is one."""
        rows = self._state.get("rows", "") + "".join(self._rows)
        if not rows:
            return []
        self._state["rows"] = rows
        if len(rows) < _FILE_CHARACTERS and not self._state.get("ended") and not self._late():
            return []
        number = self._state["row_files"] = self._state.get("row_files", 0) + 1
        del self._state["rows"], self._state["rows_since"]
        return [(f"metadata/{number:06d}.jsonl", rows.encode())]

    def _late(self) -> bool:
        since = self._state["rows_since"]
        newest = self._newest if self._rows else since
        if isinstance(since, str) or isinstance(newest, str):
            return True  # times that are no numbers
        return bool(newest - since >= _FILE_SECONDS)


def fit(text: str, limit: int) -> str:
    """The text, cut to `limit` characters with an ellipsis that says so."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def json_within(entries: Mapping[str, Any], limit: int) -> str:
    """JSON of as many entries, from the first on, as fit; `…` counts the others."""
    text = json.dumps(entries, ensure_ascii=False)
    if len(text) <= limit:
        return text
    kept: dict[str, Any] = {}
    size = 32
    for name, value in entries.items():
        size += len(json.dumps({name: value}, ensure_ascii=False))
        if size > limit:
            break
        kept[name] = value
    return json.dumps({**kept, "…": len(entries) - len(kept)}, ensure_ascii=False)


def _tag(fields: Mapping[str, MetaValue], varies: Sequence[str], limit: int) -> str:
    told: dict[str, Any] = dict(fields)
    if varies:
        told = {"tracelet.varies": list(varies), **told}  # first: what is too long is cut from the end
    return json_within(told, limit)


def _sayable(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
