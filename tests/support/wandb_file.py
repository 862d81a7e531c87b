"""What an offline run of Weights & Biases has in its `.wandb` file, whose own reader wandb no longer ships."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["history", "records"]

BLOCK = 32 * 1024  # the framing is that of LevelDB's log, behind a header of seven bytes
HEADER = struct.Struct("<4sHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _messages(data: bytes) -> Iterator[bytes]:
    if len(data) < HEADER.size:
        return  # it is just being made
    begin, _, version = HEADER.unpack_from(data)
    assert (begin, version) == (b":W&B", 0)
    at, parts = HEADER.size, []
    while at + HEADER.size <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER.size:
            at += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, at)
        if at + HEADER.size + length > len(data):
            return  # it is just being written
        parts.append(data[at + HEADER.size : at + HEADER.size + length])
        at += HEADER.size + length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
        else:
            assert kind in (FIRST, MIDDLE), kind


def records(file: Path) -> list[Any]:
    """All records of a run, as wandb's messages."""
    from wandb.proto import wandb_internal_pb2

    return [wandb_internal_pb2.Record.FromString(message) for message in _messages(file.read_bytes())]


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(file)
        if record.WhichOneof("record_type") == "history"
    ]
