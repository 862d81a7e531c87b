"""One process's stream of a run: its spool and its dictionary of names.

The whole way of a scalar from the user's call: one dictionary lookup, one slot. A fork leaves the recorder behind (its spool
belongs to the parent); the child makes another at its first record.
"""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

from tracelet.core.metrics import INT64_MAX, INT64_MIN, BlobRef, MetaValue, Metric, MetricType, RunStatus, infer_type
from tracelet.guard import say
from tracelet.spoolfile import BlobKind
from tracelet.transport.spool import SpoolWriter

__all__ = ["Recorder"]

_MAX_STEP_DIGITS = 100
_INLINE: Final = 4 * 1024  # larger content costs the caller less as a file than as slots; the wire allows INLINE_BYTES


class Recorder:
    """Writes records to a spool.

    Args:
        spool: where to.
        name_of: the metric's name for a writer's directory and a tag.
        counters: per name, the next step of calls that name none; shared by the recorders of a run.

    Attributes:
        definitions: by id, what was logged under it; nothing of what processors made.
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
        self._derived: dict[tuple[Any, ...], int] = {}
        self._new_id = count(1)
        self.definitions: dict[int, Mapping[str, Any]] = {}

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
        self,
        name: str,
        value: float,
        kind: str,
        step: int | None,
        wall_time: float,
        metadata: Mapping[str, MetaValue],
        log_dir: str = "",
    ) -> None:
        """Record a point with a type of the user's and metadata."""
        implied = step is None
        key = (f"{log_dir}\0{name}" if log_dir else name, f"{kind} implied" if implied else kind)
        identity = self._typed.get(key)
        if identity is None:
            identity = self._publish(self._typed, key, log_dir, name, kind, inferred=False, implied=implied)
        if step is None:
            step = next(self._counters.setdefault(("", name), count()))
        if identity is None:
            return
        if metadata or not INT64_MIN <= step <= INT64_MAX:
            self._point_blob(identity, value, step, wall_time, metadata)
        else:
            self._put(identity, step, value, wall_time)

    def media(
        self,
        log_dir: str,
        tag: str,
        kind: str,
        content: bytes,
        media_type: str,
        step: int | None,
        wall_time: float | None,
        metadata: Mapping[str, MetaValue],
    ) -> None:
        """Record what is no number: an image, a text, …. Without a step, the calls of that name and kind are counted."""
        implied = step is None
        # No tag of a scalar's has a NUL in this place: their ids and counters are others.
        key = (log_dir, f"{tag}\0{kind} implied" if implied else f"{tag}\0{kind}")
        identity = self._typed.get(key)
        if identity is None:
            identity = self._publish(self._typed, key, log_dir, tag, kind, inferred=False, implied=implied)
        if step is None:
            step = next(self._counters.setdefault((log_dir, f"{tag}\0{kind}"), count()))
        _check_step(step)
        if identity is None:
            return
        said = {
            "tag": identity,
            "step": step,
            "wall_time": time.time() if wall_time is None else wall_time,
            "media_type": media_type,
            "metadata": dict(metadata),
        }
        self._put_content(BlobKind.MEDIA, said, content, tag)

    def artifact(
        self, path: str, content: bytes | BlobRef, media_type: str, wall_time: float, metadata: Mapping[str, MetaValue]
    ) -> bool:
        """Record a file.

        Args:
            path: fit to be an artifact's.
            content: the bytes; or where the spool's blobs keep them, for this record.
            media_type: what it is.
            wall_time: when it was as it is.
            metadata: what belongs to it.

        Returns:
            False: there was no room; it is dropped, counted and said.
        """
        said = {"path": path, "wall_time": wall_time, "media_type": media_type, "metadata": dict(metadata)}
        return self._put_content(BlobKind.ARTIFACT, said, content, path)

    def _put_content(self, kind: BlobKind, said: dict[str, Any], content: bytes | BlobRef, name: str) -> bool:
        blobs = self.spool.blobs
        if isinstance(content, bytes):
            if len(content) <= _INLINE:
                return self.spool.put_blob(kind, {**said, "inline": b64encode(content).decode()})
            raw, content = content, BlobRef(hashlib.sha256(content).hexdigest(), len(content), "")
            try:
                blobs.keep_bytes(content.sha256, raw)
            except OSError as error:
                self.spool.count_dropped()
                say(
                    f"no room for {name} in {self.spool.directory.path} ({error.strerror}): it is dropped, and counted",
                    key="no room for content",
                )
                return False
        if self.spool.put_blob(kind, {**said, "blob": content.sha256, "size": content.size}):
            return True
        blobs.give_back(content.sha256)
        return False

    def derived(self, point: Metric) -> bool:
        """Record a point that a processor made. Only the one who runs them calls this.

        Returns:
            False: there was no room.
        """
        said = {
            "name": point.name,
            "tag": point.tag or point.name,
            "log_dir": point.log_dir,
            "type": point.type,
            "type_inferred": point.type_inferred,
            "step_implied": point.step_implied,
        }
        key = tuple(said.values())
        if (identity := self._derived.get(key)) is None:
            identity = next(self._new_id)
            if not self.spool.put_blob(BlobKind.TAG_DEF, {"id": identity, **said}):
                return False
            self._derived[key] = identity
        if point.metadata or not INT64_MIN <= point.step <= INT64_MAX:
            return self._point_blob(identity, point.value, point.step, point.wall_time, point.metadata)
        return self._put(identity, point.step, point.value, point.wall_time)

    def resumed(self) -> None:
        """Record that the run goes on, whatever end it had."""
        said = {"status": RunStatus.RUNNING.value, "reason": "", "wall_time": time.time()}
        self.spool.put_blob(BlobKind.RUN_END, said)

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
    ) -> bool:
        _check_step(step)
        said = {"tag": identity, "value": value, "step": step, "wall_time": wall_time, "metadata": dict(metadata)}
        return self.spool.put_blob(BlobKind.POINT, said)

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
        self.definitions[identity] = said
        # Two threads may define one name at once; the second definition is never used.
        return ids.setdefault(key, identity)


def _check_step(step: int) -> None:
    if abs(step) >= 10**_MAX_STEP_DIGITS:
        raise ValueError(f"a step of more than {_MAX_STEP_DIGITS} digits")
