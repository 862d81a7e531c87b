"""Delivers runs to a folder that TensorBoard reads: `tensorboard --logdir <target>`.

    <target>/<project>/<name>-<id>/
        events.out.tfevents…            what came by no writer, or by the run's only one
        <label>/events.out.tfevents…    what came by the writer of this label
        events.out.…hparams, run.json   the run as a whole: see `tensorboard_card`
        metadata.jsonl                  what TensorBoard has no place for: types, metadata, values outside float32
        projector_config.pbtxt          with the folder `embeddings`: what the projector reads
        artifacts/…                     artifacts
        media/…                         media that TensorBoard has no form for

Files that grow are as long as the state says, which is committed with the cursor; what is behind that is cut off. So a chunk
that is delivered twice is in them once, and one that is cut elsewhere makes the same bytes.

What TensorBoard cannot hold as it is:

    a value outside float32     infinite, zero or short of digits; the value is in `metadata.jsonl`; counted as rerouted
    a time that is no number,   the nearest that it shows, the run's beginning for `nan`; the time is in `metadata.jsonl`;
      or millions of years off    counted as rerouted
    other media, and content    a file in `media`; counted as rerouted
      that is not what it says
    a step outside int64        a dead letter

The state of a run, as it is committed with the cursor:

    run, link, file     its folder below the target; the same for people; what its event files are called
    sizes               by path in the folder: how long a file that grows is
    about               what `Run.tags` were
    tags, params, labels, dropped, status, reason, ended    see `run.json`
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote, urlsplit

from tracelet.core.metrics import (
    INT64_MAX,
    INT64_MIN,
    Artifact,
    Gap,
    Media,
    Metric,
    MetricType,
    Params,
    Record,
    RunEnd,
    RunStatus,
    Tags,
    WriterSeen,
)
from tracelet_collector.exporters.base import Dead, Gone, Item, Memory, Outcome, Paused, Retryable, Run
from tracelet_collector.exporters.tensorboard_beside import Beside
from tracelet_collector.exporters.tensorboard_card import CARD, HPARAMS, card, hparams_events
from tracelet_collector.exporters.tensorboard_events import (
    SHOWN,
    NotShown,
    as_float32,
    as_time,
    first_event,
    framed,
    media_event,
    scalar_event,
)
from tracelet_collector.exporters.tensorboard_files import RunFolder
from tracelet_collector.exporters.tensorboard_names import (
    PARTS,
    PLUGIN_OF,
    TagBook,
    folder_of_label,
    folder_of_run,
    mark,
    split,
)

__all__ = ["TensorBoardExporter"]

_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_PLACE: Final = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})
_MOST_SHOWN: Final = 256 * 1024 * 1024  # bytes of content in an event; what is larger is a file
_SLOWEST: Final = 512 * 1024  # bytes in a second: checksums are made in Python, and some content is parsed there
_PATIENCE: Final = 60.0
_PLAIN: Final = 1  # in the memory: a name has nothing special any more


class TensorBoardExporter:
    """The exporter of kind `tensorboard`; see `exporters.base` for what that means."""

    kind: ClassVar[str] = "tensorboard"
    batch_points: ClassVar[int] = 5000

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Deliver records of one run; see `Exporter.export`."""
        root = Path(unquote(urlsplit(run.target).path))
        with _translated(root):
            delivery = _Delivery(root, run, state, memory)
            delivery.folder.check()
            try:
                return delivery.deliver(items)
            except BaseException:
                delivery.folder.cut_back()
                raise
            finally:
                delivery.folder.close()

    @property
    def holds(self) -> bool:
        """Nothing: every call opens its files, and closes them."""
        return False

    def close(self) -> None:
        """There is nothing to let go of."""


class _Delivery:
    """One call of `export`."""

    def __init__(self, root: Path, run: Run, state: Mapping[str, Any], memory: Memory) -> None:
        self._run = run
        self._memory = memory
        self._state: dict[str, Any] = {
            key: dict(value) if isinstance(value, dict) else value for key, value in state.items()
        }
        self._created = run.created if math.isfinite(run.created) else 0.0
        place: str = self._state.setdefault("run", folder_of_run(run))
        self._state.setdefault("link", f"{run.target}#{quote(place)}")
        self._file: str = self._state.setdefault(
            "file", f"events.out.tfevents.{max(0, int(self._created)):010d}.tracelet"
        )
        self.folder = RunFolder(root / place, state.get("sizes", {}))
        self._tags = TagBook(memory)
        self._beside = Beside(self.folder, self._tags, memory)
        self._folders: dict[str, str] = {}
        self._told: dict[tuple[str, str], Any] = {}  # by kind and name: facts that this call has seen
        self._outcome = Outcome(state=self._state)

    def deliver(self, items: Sequence[Item]) -> Outcome:
        """Write records, and what they change of the run's card."""
        said = dict(self._run.tags)
        if said and self._state.get("about") != said:  # later words of the script's come later
            self._state["about"] = said
            self._part("tags").update(said)
        self._look_up(items)
        for item in items:
            self._deliver(item)
        self._state["sizes"] = self.folder.finish()
        self._write_whole(CARD, card(self._run, self._state))
        self._write_whole(HPARAMS, hparams_events(self._run, self._state))
        self._outcome.stamps = {**self._tags.stamps, **self._beside.stamps}
        return self._outcome

    def _look_up(self, items: Sequence[Item]) -> None:
        """Ask the memory once for all that the chunk's names need."""
        keys: set[int] = set()
        for kind, name, (label, tag) in {
            (_kind(record), record.name, split(record))
            for record in (item.record for item in items)
            if isinstance(record, Metric | Media)
        }:
            keys.add(mark("facts", kind, name))
            if plugin := PLUGIN_OF.get(kind):
                keys.update(mark("tag", self._folder_of(label), tag + part) for part in PARTS.get(plugin, ("",)))
        self._tags.look_up(keys)

    def _deliver(self, item: Item) -> None:
        record = item.record
        if isinstance(record, Metric | Media) and not INT64_MIN <= record.step <= INT64_MAX:
            self._bury(item, f"the step {record.step} is outside the 64-bit integers that TensorBoard stores")
        elif isinstance(record, Metric):
            self._add_point(record)
        elif isinstance(record, Media | Artifact):
            self._add_content(item, record)
        else:
            self._add_words(record)

    def _bury(self, item: Item, why: str) -> None:
        self._outcome.dead.append(Dead(item, why))

    def _add_point(self, metric: Metric) -> None:
        folder, tag, about = self._place(metric)
        value, near = as_float32(metric.value)
        time, timely = as_time(metric.wall_time, self._created)
        self._append(folder, framed(scalar_event(tag, metric, time, value, about)))
        if metric.metadata or not (near and timely):
            row: dict[str, Any] = {"name": metric.name, "step": metric.step, "wall_time": metric.wall_time}
            row |= {} if near else {"value": metric.value}
            self._beside.add_row(row | ({"metadata": metric.metadata} if metric.metadata else {}))
        self._count(near and timely)

    def _count(self, as_it_is: bool) -> None:
        if as_it_is:
            self._outcome.delivered += 1
        else:
            self._outcome.rerouted += 1

    def _add_content(self, item: Item, record: Media | Artifact) -> None:
        size = len(record.content) if isinstance(record.content, bytes) else record.content.size
        try:
            content = self._run.content(record.content)
        except Gone as error:
            self._bury(item, str(error))
            return
        self._memory.working(_PATIENCE + size / _SLOWEST)
        try:
            if isinstance(record, Artifact):
                self._beside.add_artifact(record, content)
                as_it_is = True
            else:
                as_it_is = self._add_media(record, content, size)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            self._bury(item, f"it cannot be stored: {error}")
            return
        self._count(as_it_is)

    def _add_media(self, media: Media, content: bytes | Path, size: int) -> bool:
        """Add media where TensorBoard shows them, or as a file.

        Returns:
            Whether TensorBoard shows them as they are.
        """
        embedding = media.kind == MetricType.EMBEDDING.value
        try:
            if size > _MOST_SHOWN or not (embedding or media.kind in SHOWN):
                raise NotShown(f"TensorBoard shows no {media.kind} of {size} bytes")
            raw = content if isinstance(content, bytes) else content.read_bytes()
            folder, tag, _ = self._place(media)
            time, timely = as_time(media.wall_time, self._created)
            if embedding:
                self._beside.add_embedding(folder, tag, media, raw)
                self._begin(folder)
            else:
                self._append(folder, framed(media_event(tag, media, time, raw)))
        except NotShown:
            self._beside.add_media(media, content)
            return False
        self._beside.add_metadata(media, timely)
        return timely

    def _add_words(self, record: Record) -> None:
        """What is said of the run as a whole."""
        state = self._state
        if isinstance(record, Params):
            self._part("params").update({name: _sayable(value) for name, value in record.values.items()})
        elif isinstance(record, Tags):
            self._part("tags").update(record.values)
        elif isinstance(record, WriterSeen):
            self._part("labels")[record.log_dir] = record.label
        elif isinstance(record, Gap):
            state["dropped"] = state.get("dropped", 0) + record.dropped
        elif isinstance(record, RunEnd):
            ended = record.status is not RunStatus.RUNNING
            state["status"], state["reason"] = record.status.value, record.reason
            state["ended"] = _sayable(record.wall_time) if ended else None

    def _part(self, name: str) -> dict[str, Any]:
        part: dict[str, Any] = self._state.setdefault(name, {})
        return part

    def _place(self, record: Metric | Media) -> tuple[str, str, str]:
        """Where a record goes: the folder, the tag, and what is to be said of the tag, if that is new."""
        kind = _kind(record)
        label, wanted = split(record)
        folder = self._folder_of(label)
        plugin = PLUGIN_OF.get(kind)
        tag = self._tags.tag(folder, wanted, plugin) if plugin else wanted
        facts = _facts(record, kind, tag != wanted and f"{folder}/{tag}".lstrip("/"))
        if self._told.get((kind, record.name), self) == facts:
            return folder, tag, ""
        self._told[kind, record.name] = facts
        return folder, tag, self._tell(record, kind, facts)

    def _tell(self, record: Metric | Media, kind: str, facts: Mapping[str, Any]) -> str:
        """Keep what is said of a name, when it is not what was said last."""
        key = mark("facts", kind, record.name)
        known, now = self._tags.recall(key), mark(json.dumps(facts)) if facts else 0
        if not now and known:
            now = _PLAIN
        if known == now:
            return ""
        self._tags.remember(key, now)
        self._beside.add_row({"name": record.name, "since": record.step, "wall_time": record.wall_time, **facts})
        said = {name: value for name, value in facts.items() if name in ("type", "step_implied")}
        return "" if facts.get("inferred") else ", ".join(f"{name}: `{value}`" for name, value in said.items())

    def _folder_of(self, label: str) -> str:
        folder = self._folders.get(label)
        if folder is None:
            folder = self._folders[label] = folder_of_label(label)
        return folder

    def _begin(self, folder: str) -> str:
        """The event file of a writer, which has at least a beginning."""
        path = f"{folder}/{self._file}" if folder else self._file
        if not self.folder.has(path):
            self.folder.append(path, framed(first_event(self._created)))
        return path

    def _append(self, folder: str, event: bytes) -> None:
        self.folder.append(self._begin(folder), event)

    def _write_whole(self, path: str, content: bytes | None) -> None:
        """Write a file that is made of the state, when it is not there as it should be: a crash may have left a later one."""
        if content is None:
            return
        try:
            if (self.folder.root / path).read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        self.folder.write(path, content)


def _kind(record: Metric | Media) -> str:
    return "" if isinstance(record, Metric) else record.kind


def _facts(record: Metric | Media, kind: str, stored: str | bool) -> dict[str, Any]:
    """What is to be known of a name that its events do not say."""
    facts: dict[str, Any] = {}
    if isinstance(record, Metric) and record.type != MetricType.SCALAR.value:
        facts = {"type": record.type, "inferred": record.type_inferred}
    elif kind in ("figure", "video", "table"):
        facts["type"] = kind
    if record.step_implied:
        facts["step_implied"] = True
    if stored:
        facts["stored"] = stored
    return facts


def _sayable(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    """Turn errors of the file system into what they mean.

    Args:
        root: the target, for the message.
    """
    try:
        yield
    except OSError as error:
        said = f"{error.strerror or error}: {error.filename or root}"
        if error.errno in _NO_RIGHT:
            raise Paused(
                f"the folder {root} cannot be written: {said}. Make it writable, or start a run with another "
                "TRACELET_TENSORBOARD_DIR"
            ) from error
        if error.errno in _NO_PLACE:
            raise Paused(f"{root} is no folder that can be written: {said}. Move away what is there") from error
        raise Retryable(f"the folder {root} cannot be written now: {said}") from error
