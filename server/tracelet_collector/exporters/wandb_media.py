"""Media and artifacts as W&B has them: a file of the run, and a value of the history that points to it.

The values are those that wandb's own classes make (`wandb.Image`, `Audio`, `Video`, `Object3D`, `Html`, `Histogram`, `Table`);
a test compares. They are made here because those classes want Pillow, soundfile or numpy where a file need only be copied, and
give it a name that is another one the next time.

    image, figure     image-file
    audio             audio-file
    video             video-file (GIF)
    text              html-file: the text as it is, in a `<pre>`. A table would be an artifact of its own for every text
    histogram         histogram: counts and edges of the buckets
    mesh              object3D-file (.obj: points, colors and faces), the first one of the batch; and the file itself
    pr_curve          table-file: threshold, precision, recall, tp, fp, tn, fn
    table             table-file: the table as it is; of more than 10,000 rows the first ones, and the file itself
    embedding         table-file of the vectors with their labels, when it is not too long; and the file itself
    graph, others     a file, and its path in the history

What cannot be read as its kind is such a file, too. An artifact is a file of the run under its own path, without a row: logged
again under that path it takes the first one's place, and `wandb sync` takes it along.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import math
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tracelet.core.metrics import Media
from tracelet_collector.exporters import tables
from tracelet_collector.exporters.artifact_paths import clean_path, file_ending, folder_of, within

__all__ = ["RunFile", "artifact_path", "drawn"]

_MAX_ROWS: Final = 10_000  # of a table; what W&B shows
_MAX_CELLS: Final = 1_000_000
_MAX_BINS: Final = 512
_MAX_BYTES: Final = 64 * 1024 * 1024  # what is read to be drawn; larger content is only a file
# What W&B itself, or another of the run's files, may have.
_RESERVED: Final = ("media", "tracelet", "artifact", "artifacts", "logs", "code", "tmp")
_RESERVED_NAMES: Final = ("config.yaml", "output.log", "requirements.txt", "diff.patch", "conda-environment.yaml")


@dataclass(slots=True)
class RunFile:
    """A file of the run.

    Attributes:
        path: among the run's files.
        content: the bytes, or the file that has them.
    """

    path: str
    content: bytes | Path

    def put(self, folder: Path) -> Path:
        """Put it among the run's files; one that is there already stays untouched, under no name.

        Returns:
            Where it is.
        """
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name[:40]}.new")
        draft.unlink(missing_ok=True)
        if isinstance(self.content, bytes):
            draft.write_bytes(self.content)
        else:
            try:
                os.link(self.content, draft)  # nobody changes a blob
            except OSError:
                shutil.copyfile(self.content, draft)
        draft.replace(target)
        return target


@dataclass(slots=True)
class Drawing:
    """Media as W&B has them.

    Attributes:
        value: of the history.
        files: what it points to.
    """

    value: Any
    files: list[RunFile] = field(default_factory=list)


def artifact_path(path: str) -> str:
    """Where an artifact goes among the run's files: where it says, or under `user/` where that is taken."""
    clean = clean_path(path)
    first = clean.partition("/")[0]
    if first in _RESERVED or clean in _RESERVED_NAMES or first.startswith(("wandb-", ".")):
        return f"user/{clean}"
    return clean


def drawn(media: Media, key: str, row: int, content: bytes | Path) -> Drawing:
    """What W&B is given for media.

    Args:
        media: the record.
        key: its key in the history.
        row: the number of its row.
        content: as `Run.content` found it.
    """
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    draw = _KINDS.get(media.kind)
    if draw is not None and size <= _MAX_BYTES:
        data = content if isinstance(content, bytes) else content.read_bytes()
        with contextlib.suppress(Exception):  # it may not be what its kind says, and a parser raise anything
            return draw(_Place(media, key, row, content), data)
    return _Place(media, key, row, content).as_file()


@dataclass(slots=True)
class _Place:
    """Where the files of one record go."""

    media: Media
    key: str
    row: int
    content: bytes | Path

    def file(self, folder: str, ending: str, data: bytes | Path) -> tuple[RunFile, dict[str, Any]]:
        """A file, and what the history says of any."""
        digest, size = _digest(data)
        path = folder_of(clean_path(self.key.strip("/") or "_"))
        head, slash, name = path.rpartition("/")
        name = within(name, 140)
        path = f"media/{folder}/{head}{slash}{name}_{self.row}_{digest[:20]}.{ending}"
        return RunFile(path, data), {"path": path, "sha256": digest, "size": size}

    def raw(self) -> tuple[RunFile, dict[str, Any]]:
        """The content as it is, of whatever kind."""
        kind = within(clean_path(self.media.kind.replace("/", "_")), 60)
        return self.file(kind, file_ending(self.media.media_type), self.content)

    def as_file(self) -> Drawing:
        """A file, and its path in the history."""
        made, said = self.raw()
        return Drawing(said["path"], [made])


def _image(place: _Place, data: bytes) -> Drawing:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG")
    width, height = struct.unpack(">II", data[16:24])
    made, said = place.file("images", "png", place.content)
    return Drawing({"_type": "image-file", "format": "png", "width": width, "height": height, **said}, [made])


def _audio(place: _Place, data: bytes) -> Drawing:
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError("no WAV")
    made, said = place.file("audio", "wav", place.content)
    return Drawing({"_type": "audio-file", **said}, [made])


def _video(place: _Place, data: bytes) -> Drawing:
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        raise ValueError("no GIF")
    made, said = place.file("videos", "gif", place.content)
    return Drawing({"_type": "video-file", **said}, [made])


def _text(place: _Place, data: bytes) -> Drawing:
    page = f'<pre style="white-space: pre-wrap">{html.escape(data.decode(), quote=False)}</pre>'
    made, said = place.file("html", "html", page.encode())
    return Drawing({"_type": "html-file", **said}, [made])


def _histogram(place: _Place, data: bytes) -> Drawing:
    said = json.loads(data)
    low, high = float(said["min"]), float(said["max"])
    counts = [float(count) for count in said["bucket"]]
    # TensorBoard's first and last buckets are endless; the least and the greatest value end them.
    edges = [low, *(min(max(float(limit), low), high) for limit in said["bucket_limit"])]
    if not counts or len(edges) != len(counts) + 1 or not all(map(math.isfinite, edges)):
        raise ValueError("no histogram")
    while len(counts) > _MAX_BINS:  # two become one
        edges = [*edges[:-1:2], edges[-1]]
        counts = [sum(counts[at : at + 2]) for at in range(0, len(counts), 2)]
    whole = all(count.is_integer() for count in counts)
    return Drawing(
        {"_type": "histogram", "values": [int(count) for count in counts] if whole else counts, "bins": edges}
    )


def _mesh(place: _Place, data: bytes) -> Drawing:
    import numpy

    with numpy.load(io.BytesIO(data), allow_pickle=False) as arrays:
        points = arrays["vertices"][0]
        colors = arrays["colors"][0] / 255 if "colors" in arrays else None
        faces = arrays["faces"][0] + 1 if "faces" in arrays else ()
    lines = [
        "v " + " ".join(repr(float(number)) for number in (*point, *(colors[at] if colors is not None else ())))
        for at, point in enumerate(points)
    ]
    lines += ["f " + " ".join(str(int(corner)) for corner in face) for face in faces]
    made, said = place.file("object3D", "obj", ("\n".join(lines) + "\n").encode())
    whole, _ = place.raw()
    return Drawing({"_type": "object3D-file", **said}, [made, whole])


_CURVE: Final = ("thresholds", "precision", "recall", "tp", "fp", "tn", "fn")


def _pr_curve(place: _Place, data: bytes) -> Drawing:
    said = json.loads(data)
    columns = [name for name in _CURVE if name in said]
    return _table(place, columns, list(zip(*(said[name] for name in columns), strict=True)))


def _embedding(place: _Place, data: bytes) -> Drawing:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
            raise ValueError("too large for a table")
        tensors = [line.split("\t") for line in archive.read("tensors.tsv").decode().splitlines()]
        labels = archive.read("metadata.tsv").decode().splitlines() if "metadata.tsv" in archive.namelist() else []
    if not 0 < len(tensors) <= _MAX_ROWS or len(tensors) * len(tensors[0]) > _MAX_CELLS:
        raise ValueError("too large for a table")
    if len(labels) == len(tensors) + 1:  # several columns have a header
        labels = labels[1:]
    rows = [[float(number) for number in tensor] for tensor in tensors]
    columns = [f"x{at}" for at in range(len(rows[0]))]
    if len(labels) == len(rows):
        columns = ["label", *columns]
        rows = [[label, *row] for label, row in zip(labels, rows, strict=True)]  # type: ignore[list-item]
    drawing = _table(place, columns, rows)
    drawing.files.append(place.raw()[0])
    return drawing


def _data_table(place: _Place, data: bytes) -> Drawing:
    columns, rows = tables.read(data)
    if len(rows) > _MAX_ROWS:
        drawing = _table(place, columns, rows[:_MAX_ROWS])
        drawing.files.append(place.raw()[0])
        return drawing
    made, said = place.file("table", "table.json", place.content)  # W&B's own form
    return Drawing({"_type": "table-file", "ncols": len(columns), "nrows": len(rows), **said}, [made])


def _table(place: _Place, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Drawing:
    if not columns or len(rows) > _MAX_ROWS or any(len(row) != len(columns) for row in rows):
        raise ValueError("no table")
    table = json.dumps({"columns": list(columns), "data": [list(row) for row in rows]})
    made, said = place.file("table", "table.json", table.encode())
    return Drawing({"_type": "table-file", "ncols": len(columns), "nrows": len(rows), **said}, [made])


_KINDS: Final[Mapping[str, Callable[[_Place, bytes], Drawing]]] = {
    "image": _image,
    "figure": _image,
    "audio": _audio,
    "video": _video,
    "text": _text,
    "histogram": _histogram,
    "mesh": _mesh,
    "pr_curve": _pr_curve,
    "table": _data_table,
    "embedding": _embedding,
}


def _digest(data: bytes | Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    for part in [data] if isinstance(data, bytes) else _parts(data):
        digest.update(part)
        size += len(part)
    return digest.hexdigest(), size


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(1024 * 1024):
            yield part
