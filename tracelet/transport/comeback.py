"""A writer that was taken for dead, and is not.

The collector has adopted its spool, up to the last record that was there, and has said that the run was killed: at the next
position of the writer's own stream, where the writer may have a record by now.
"""

from __future__ import annotations

import json
import time

from tracelet.guard import say
from tracelet.spoolfile import BlobKind, SlotDecoder, SpoolBlob, SpoolItem, SpoolPoint
from tracelet.spoolfile.slots import SLOTS_PER_SEGMENT
from tracelet.transport.spool import SpoolWriter

__all__ = ["come_back"]

_AT_ONCE = 4096


def come_back(spool: SpoolWriter, position: int) -> None:
    """Have the run go on.

    Args:
        spool: the writer's.
        position: the first one that the collector does not have; more than was ever sent.
    """
    say(
        f"a collector took this process for dead, and run {spool.info.run['run_id']} for killed (did something close all open "
        "files?): it goes on",
        key=f"{spool.directory.path} comes back",
    )
    if spool.info.writer.get("owner"):
        running = {"status": "running", "reason": "", "wall_time": time.time()}
        spool.put_blob(BlobKind.RUN_END, running)
    item = _item(spool, position - 1)
    if isinstance(item, SpoolPoint):
        spool.put(item.tag, item.step, item.value, item.wall_time)
    elif isinstance(item, SpoolBlob) and item.kind is not BlobKind.RUN_END:
        spool.put_blob(item.kind, json.loads(item.payload))


def _item(spool: SpoolWriter, position: int) -> SpoolItem | None:
    """What is at a position; a blob whole, if its parts are still here."""
    decoder = SlotDecoder()
    at = max(position // SLOTS_PER_SEGMENT - 1, 0) * SLOTS_PER_SEGMENT
    if not spool.look(at, 1, SlotDecoder()):
        at += SLOTS_PER_SEGMENT
    while at <= position:
        items = spool.look(at, min(_AT_ONCE, position + 1 - at), decoder)
        if not items:
            return None
        at += len(items)
        if at > position:
            return items[-1]
    return None
