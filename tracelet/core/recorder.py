"""One process's stream of a run: its spool and its dictionary of names.

The whole way of a scalar from the user's call: one dictionary lookup, one slot. A fork leaves the recorder behind (its spool
belongs to the parent); the child makes another at its first record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import count

from tracelet.core.metrics import INT64_MAX, INT64_MIN, MetaValue, MetricType, RunStatus, infer_type
from tracelet.spoolfile import BlobKind
from tracelet.transport.spool import SpoolWriter

__all__ = ["Recorder"]

_MAX_STEP_DIGITS = 100


class Recorder:
    """Writes records to a spool.

    Args:
        spool: where to.
        name_of: the metric's name for a writer's directory and a tag.
        counters: per name, the next step of calls that name none; shared by the recorders of a run.
    """

    def __init__(
        self, spool: SpoolWriter, name_of: Callable[[str, str], str], counters: dict[tuple[str, str], count[int]]
    ) -> None:
        self.spool = spool
        self._name_of = name_of
        self._counters = counters
        self._put = spool.put
        self._ids: dict[tuple[str, str], int] = {}
        self._implied: dict[tuple[str, str], int] = {}
        self._typed: dict[tuple[str, str], int] = {}
        self._new_id = count(1)

    def scalar(self, log_dir: str, tag: str, value: float, step: int | None, wall_time: float | None) -> None:
        """Record a point. Steps of any size; no step counts per name."""
        key = (log_dir, tag)
        if step is None:
            identity = self._implied.get(key) or self._define(self._implied, key, implied=True)
            step = next(self._counters.setdefault(key, count()))
        else:
            identity = self._ids.get(key) or self._define(self._ids, key)
        if identity is None:
            return
        if wall_time is None:
            wall_time = time.time()
        if INT64_MIN <= step <= INT64_MAX:
            self._put(identity, step, value, wall_time)
        else:
            self._point_blob(identity, value, step, wall_time, {})

    def enhanced(
        self, name: str, value: float, kind: str, step: int | None, wall_time: float, metadata: Mapping[str, MetaValue]
    ) -> None:
        """Record a point with a type of the user's and metadata."""
        implied = step is None
        key = (name, f"{kind} implied" if implied else kind)
        identity = self._typed.get(key)
        if identity is None:
            identity = self._publish(self._typed, key, "", name, kind, inferred=False, implied=implied)
        if step is None:
            step = next(self._counters.setdefault(("", name), count()))
        if identity is None:
            return
        if metadata or not INT64_MIN <= step <= INT64_MAX:
            self._point_blob(identity, value, step, wall_time, metadata)
        else:
            self._put(identity, step, value, wall_time)

    def params(self, values: Mapping[str, MetaValue]) -> None:
        """Record parameters."""
        self.spool.put_blob(BlobKind.PARAMS, {"values": dict(values), "wall_time": time.time()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self.spool.put_blob(BlobKind.TAGS, {"values": dict(values), "wall_time": time.time()})

    def writer_seen(self, log_dir: str, label: str) -> None:
        """Record the label that a SummaryWriter's metrics carry."""
        self.spool.put_blob(BlobKind.WRITER_SEEN, {"log_dir": log_dir, "label": label})

    def end(self, status: RunStatus, reason: str) -> None:
        """Record the run's end."""
        said = {"status": status.value, "reason": reason, "wall_time": time.time()}
        self.spool.put_last(BlobKind.RUN_END, said)

    def _point_blob(
        self, identity: int, value: float, step: int, wall_time: float, metadata: Mapping[str, MetaValue]
    ) -> None:
        if abs(step) >= 10**_MAX_STEP_DIGITS:
            raise ValueError(f"a step of more than {_MAX_STEP_DIGITS} digits")
        said = {"tag": identity, "value": value, "step": step, "wall_time": wall_time, "metadata": dict(metadata)}
        self.spool.put_blob(BlobKind.POINT, said)

    def _define(self, ids: dict[tuple[str, str], int], key: tuple[str, str], implied: bool = False) -> int | None:
        log_dir, tag = key
        return self._publish(ids, key, log_dir, tag, infer_type(tag).value, inferred=True, implied=implied)

    def _publish(
        self,
        ids: dict[tuple[str, str], int],
        key: tuple[str, str],
        log_dir: str,
        tag: str,
        kind: MetricType | str,
        *,
        inferred: bool,
        implied: bool,
    ) -> int | None:
        """Define a name, then publish its id: a point that uses it comes after the definition. None: no room."""
        identity = next(self._new_id)
        said = {
            "id": identity,
            "name": self._name_of(log_dir, tag),
            "tag": tag,
            "log_dir": log_dir,
            "type": str(kind),
            "type_inferred": inferred,
            "step_implied": implied,
        }
        if not self.spool.put_blob(BlobKind.TAG_DEF, said):
            self.spool.count_dropped()
            return None
        # Two threads may define one name at once; the second definition is never used.
        return ids.setdefault(key, identity)
