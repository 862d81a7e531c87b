"""What lies beside a run's events: files, and rows of what TensorBoard has no place for."""

from __future__ import annotations

import io
import json
import math
import mimetypes
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tracelet.core.metrics import Artifact, Media
from tracelet_collector.exporters.artifact_paths import Owner, Shelf, clean_path, within
from tracelet_collector.exporters.base import Memory
from tracelet_collector.exporters.tensorboard_events import NotShown
from tracelet_collector.exporters.tensorboard_files import RunFolder
from tracelet_collector.exporters.tensorboard_names import TagBook, component, mark

__all__ = ["Beside"]

_ROWS: Final = "metadata.jsonl"
_MAX_PATH: Final = 600  # bytes of a metric's name as folders
_ENDINGS: Final[Mapping[str, str]] = {"application/x-npz": ".npz", "text/plain": ".md", "text/x-protobuf": ".pbtxt"}
_PARTS: Final = ("tensors.tsv", "metadata.tsv", "sprite.png")  # of an embedding
_IN_CONTENT: Final = frozenset(
    {"width", "height", "frames", "fps", "sample_rate", "points", "dimensions", "config"}
)  # metadata that the content says itself


class Beside:
    """The other files of a run's folder, for one call of `export`.

    Args:
        folder: the run's.
        book: the run's memory.
        memory: the same, for paths.
    """

    def __init__(self, folder: RunFolder, book: TagBook, memory: Memory) -> None:
        self._folder = folder
        self._book = book
        self._shelf = Shelf(memory, b"tensorboard")

    @property
    def stamps(self) -> Mapping[int, int]:
        """Entries to be added to the memory."""
        return self._shelf.stamps

    def add_row(self, said: Mapping[str, Any]) -> None:
        """Add a row to `metadata.jsonl`. JSON has no NaN and no infinity: they are words."""
        row = {
            name: {inner: _sayable(each) for inner, each in value.items()}
            if isinstance(value, Mapping)
            else _sayable(value)
            for name, value in said.items()
        }
        self._folder.append(_ROWS, json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def add_metadata(self, media: Media, timely: bool) -> None:
        """Add a row for media whose metadata say more than the content does, or whose time is stored as another one."""
        more = {name: value for name, value in media.metadata.items() if name not in _IN_CONTENT}
        if more or not timely:
            self.add_row({"name": media.name, "step": media.step, "wall_time": media.wall_time, "metadata": more})

    def add_media(self, media: Media, content: bytes | Path) -> None:
        """Store media as a file, and say where."""
        ending = _ENDINGS.get(media.media_type) or mimetypes.guess_extension(media.media_type) or ".bin"
        kind = component(f"{media.kind}s")
        path = f"media/{kind}/{_as_folders(media.name)}/step_{media.step}{self._again(media)}{ending}"
        stored = self._claim(path, Owner.MEDIA)
        self._folder.write(stored, content)
        self.add_row({"name": media.name, "step": media.step, "wall_time": media.wall_time, "stored": stored})

    def add_artifact(self, artifact: Artifact, content: bytes | Path) -> None:
        """Store an artifact; one of the same path takes its place."""
        stored = self._claim(f"artifacts/{clean_path(artifact.path)}", Owner.FILE)
        self._folder.write(stored, content)
        renamed = {} if stored == f"artifacts/{artifact.path}" else {"stored": stored}
        if renamed or artifact.metadata:
            said = {"artifact": artifact.path, "wall_time": artifact.wall_time}
            self.add_row({**said, **renamed, "metadata": artifact.metadata})

    def add_embedding(self, folder: str, tag: str, media: Media, content: bytes) -> None:
        """Store an embedding as the projector's files, and tell the projector of it.

        Args:
            folder: of the writer, in the run's.
            tag: what it is called there.
            media: the record.
            content: its content.

        Raises:
            NotShown: the content is no embedding.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                files = {name: archive.read(name) for name in archive.namelist() if name in _PARTS}
        except Exception as error:  # what zipfile says of content that is none
            raise NotShown(f"{type(error).__name__}: {error}") from error
        points = files.get("tensors.tsv", b"").count(b"\n")
        if not points:
            raise NotShown("an embedding without points")
        again = self._again(media)
        path = f"embeddings/{_as_folders(tag)}/step_{media.step}{again}"
        config = ProjectorConfig()
        said = config.embeddings.add(tensor_name=f"{tag}:{media.step:05}{again}", tensor_path=f"{path}/tensors.tsv")
        if "metadata.tsv" in files:
            said.metadata_path = f"{path}/metadata.tsv"
        if "sprite.png" in files:
            side = int.from_bytes(files["sprite.png"][16:20], "big") // (math.isqrt(points - 1) + 1)
            said.sprite.image_path = f"{path}/sprite.png"
            said.sprite.single_image_dim.extend([side, side])
        below = f"{folder}/" if folder else ""
        for name, data in files.items():
            self._folder.write(f"{below}{path}/{name}", data)
        told = text_format.MessageToString(config, as_utf8=True)
        self._folder.append(f"{below}projector_config.pbtxt", told.encode())

    def _again(self, media: Media) -> str:
        """What tells the second of a kind, name and step from the first."""
        key = mark("media", media.kind, media.name, str(media.step))
        self._book.look_up([key])
        number = self._book.recall(key) + 1
        self._book.remember(key, number)
        return f"_{number}" if number > 1 else ""

    def _claim(self, path: str, owner: Owner) -> str:
        return self._shelf.claim(path, owner)


def _as_folders(name: str) -> str:
    path = "/".join(map(component, name.split("/")))
    return path if len(path.encode()) <= _MAX_PATH else within(component(name), 120)


def _sayable(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
