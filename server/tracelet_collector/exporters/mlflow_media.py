"""Media and artifacts as files of an MLflow run: what they are called, and what goes beside them.

    image, figure        images/<key>+step+<n>+timestamp+<ms>+<uuid>.png, and a small one with `+compressed`: so MLflow calls
                         the images of its own `log_image`, and its page shows them in a grid with a slider.
    table                tables/<key>/step_<n>.json, as MLflow's own `log_table` makes it, and named in its tag for the page
    everything else      <kind>s/<key>/step_<n>.<ending>
    an artifact          its own path; where MLflow would refuse it, another one, and the tag `tracelet.artifact.<hash>`

The uuid is made of the run, the kind, the key, the step and how many there were of these before: delivered again, an image has
the same name. A second text (audio, …) of one key and step is `step_<n>_2`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tracelet.core.metrics import INT64_MAX, INT64_MIN, Artifact, BlobRef, Media, MetricType, Record
from tracelet_collector.exporters.artifact_paths import Owner, Shelf, clean_path, file_ending, folder_of, within
from tracelet_collector.exporters.base import Item, Memory
from tracelet_collector.exporters.names import memory_key, sanitise

__all__ = ["IMAGE_KINDS", "PlannedFile", "listed", "place", "renamed"]

IMAGE_KINDS: Final = frozenset({"image", "figure"})
_FOLDERS: Final[Mapping[str, str]] = {"audio": "audio", "mesh": "meshes", "layout": "layouts"}
_NAMESPACE: Final = uuid.UUID("8d3f6a52-6a0e-5d0c-9f4e-2f6f0f3b9a11")
_MAX_KEY: Final = 120  # bytes of an image's name; the rest of it has at most 120
_MAX_KEY_BIG_STEP: Final = 60
_MAX_KIND: Final = 60


@dataclass(slots=True, eq=False)
class PlannedFile:
    """A file on its way.

    Attributes:
        item: the record, for the account; None: it belongs to no point.
        content: the bytes, or where they are.
        path: among the run's artifacts; final after `place`.
        small: for an image the path of the small one, without its ending.
        owner: what the path stands for.
        key, timestamp: of media: the metric's key, and the time in milliseconds.
    """

    item: Item | None
    content: bytes | BlobRef
    path: str = ""
    small: str = ""
    owner: Owner = Owner.MEDIA
    key: str = ""
    timestamp: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size


def place(files: Sequence[PlannedFile], run: str, memory: Memory) -> dict[int, int]:
    """Give every file its path, in the log's order.

    Args:
        files: of a chunk.
        run: MLflow's id of the run.
        memory: knows what earlier chunks had.

    Returns:
        The entries to be added to `memory`.
    """
    if not files:
        return {}
    shelf = Shelf(memory, run.encode())
    stamps = _name(files, run, memory)
    shelf.look_up(file.path for file in files)
    for file in files:
        file.path = shelf.claim(file.path, file.owner)
        if file.small:
            file.small = shelf.claim(file.small, file.owner)
    return stamps | shelf.stamps


def renamed(files: Sequence[PlannedFile]) -> dict[str, str]:
    """Tags that say of artifacts with another path which one they had."""
    tags: dict[str, str] = {}
    for file in files:
        if file.item is not None and isinstance(file.item.record, Artifact) and file.item.record.path != file.path:
            path = file.item.record.path
            mark = hashlib.blake2b(path.encode(), digest_size=8).hexdigest()
            tags[f"tracelet.artifact.{mark}"] = json.dumps({"path": path, "stored": file.path}, ensure_ascii=False)
    return tags


def listed(files: Sequence[PlannedFile], state: dict[str, Any], longest: int) -> dict[str, str]:
    """The tag by which MLflow's page knows the tables among a run's files; the newest ones, when it cannot hold all.

    Args:
        files: of a chunk, placed.
        state: the run's, which remembers them.
        longest: characters that a tag may have.
    """
    new = [file.path for file in files if file.item is not None and _is_table(file.item.record)]
    if not new:
        return {}
    paths = list(dict.fromkeys([*state.get("tables", ()), *new]))
    while len(said := json.dumps([{"path": path, "type": "table"} for path in paths])) > longest:
        paths.pop(0)
    state["tables"] = paths
    return {"mlflow.loggedArtifacts": said}


def _is_table(record: Record) -> bool:
    return isinstance(record, Media) and record.kind == MetricType.TABLE.value


def _name(files: Sequence[PlannedFile], run: str, memory: Memory) -> dict[int, int]:
    """Paths as they should be."""
    counted = [
        (file, file.item.record, _count_key(run, file.item.record.kind, file.key, file.item.record.step))
        for file in files
        if file.item is not None and isinstance(file.item.record, Media)
    ]
    before = memory.recall(list(dict.fromkeys(key for _, _, key in counted))) if counted else {}
    stamps: dict[int, int] = {}
    for file, media, key in counted:
        number = stamps[key] = stamps.get(key, before.get(key, 0)) + 1
        if media.kind in IMAGE_KINDS:
            file.path, file.small = _image_paths(file, media, run, number)
        else:
            file.path = _media_path(file.key, media, number)
    for file in files:
        if file.item is not None and isinstance(file.item.record, Artifact):
            file.path = clean_path(file.item.record.path)
    return stamps


def _image_paths(file: PlannedFile, media: Media, run: str, number: int) -> tuple[str, str]:
    plain = INT64_MIN <= media.step <= INT64_MAX
    key = within(file.key.replace("/", "~"), _MAX_KEY if plain else _MAX_KEY_BIG_STEP)
    mark = uuid.uuid5(_NAMESPACE, f"{run}\0{media.kind}\0{file.key}\0{media.step}\0{number}")
    path = f"images/{key}+step+{media.step}+timestamp+{file.timestamp}+{mark}"
    return f"{path}.{file_ending(media.media_type)}", f"{path}+compressed"


def _media_path(key: str, media: Media, number: int) -> str:
    kind = within(sanitise(media.kind, _MAX_KIND).replace("/", "_"), _MAX_KIND)
    again = f"_{number}" if number > 1 else ""
    folder = _FOLDERS.get(media.kind, f"{kind}s")
    return f"{folder}/{folder_of(key)}/step_{media.step}{again}.{file_ending(media.media_type)}"


def _count_key(run: str, kind: str, key: str, step: int) -> int:
    raw = f"{run}\0media\0{kind}\0{key}\0{step}".encode("utf-8", "surrogatepass")
    return memory_key(raw)
