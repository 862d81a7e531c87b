"""What TensorBoard made of media, made into content: its Summary and GraphDef messages, and the files of its projector.

Fields are read, never a class asked: torch takes these messages from tensorboard, tensorboardX has its own of the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tracelet.core import contents
from tracelet.core.contents import Content
from tracelet.core.metrics import MetaValue, MetricType

__all__ = ["content_of", "graph_content", "projector_content"]

_ROWS: Final = 6  # tp, fp, tn, fn, precision, recall
# How torch and tensorboardX end the tags of a mesh's parts.
_PARTS: Final = {
    **{"VERTEX": "vertices", "FACE": "faces", "COLOR": "colors"},
    **{"1": "vertices", "2": "faces", "3": "colors"},
}


def content_of(kind: MetricType, summary: Any, layout: str) -> Iterator[Content]:
    """The content of a summary.

    Args:
        kind: what was logged.
        summary: the message.
        layout: the module with the message of custom scalars' layouts.
    """
    if kind is MetricType.MESH:
        yield _mesh(summary.value)
        return
    for value in summary.value:
        if kind in (MetricType.IMAGE, MetricType.FIGURE, MetricType.VIDEO):
            if raw := value.image.encoded_image_string:
                yield _image(value.image, raw)
        elif kind is MetricType.AUDIO:
            sound = value.audio
            said: dict[str, MetaValue] = {"sample_rate": int(sound.sample_rate), "frames": int(sound.length_frames)}
            yield Content(sound.encoded_audio_string, sound.content_type, said)
        elif kind is MetricType.HISTOGRAM:
            yield _histogram(value.histo)
        elif kind is MetricType.TEXT:
            yield Content(b"".join(value.tensor.string_val), "text/plain")
        elif kind is MetricType.PR_CURVE:
            numbers = list(value.tensor.float_val)
            each = len(numbers) // _ROWS
            yield contents.curve([numbers[at * each : (at + 1) * each] for at in range(_ROWS)])
        elif kind is MetricType.LAYOUT:
            from google.protobuf.json_format import MessageToDict

            message = import_module(layout).Layout.FromString(value.tensor.string_val[0])
            yield contents.to_json(MessageToDict(message, preserving_proto_field_name=True))


def graph_content(graph: Any) -> Content:
    """A GraphDef as text, which TensorBoard's graph page opens."""
    from google.protobuf.text_format import MessageToString

    return Content(MessageToString(graph).encode(), "text/x-protobuf")


def projector_content(folder: Path, points: int, dimensions: int, metadata: bool, sprite: bool) -> Content:
    """The files of an embedding.

    Args:
        folder: where the writer has put them.
        points: how many.
        dimensions: of each.
        metadata: this call wrote labels; else a file of that name is an earlier one's.
        sprite: likewise, of pictures.

    Raises:
        OSError: they are not there, or not on this machine.
    """
    names = ["tensors.tsv"] + ["metadata.tsv"] * metadata + ["sprite.png"] * sprite
    return contents.of_projector({name: (folder / name).read_bytes() for name in names}, points, dimensions)


def _image(image: Any, raw: bytes) -> Content:
    media_type = "image/gif" if raw.startswith(b"GIF8") else "image/png"
    return Content(raw, media_type, {"width": int(image.width), "height": int(image.height)})


def _histogram(histogram: Any) -> Content:
    said = [f'"{name}":{_written(getattr(histogram, name))}' for name in ("min", "max", "num", "sum", "sum_squares")]
    lists = {"bucket_limit": histogram.bucket_limit, "bucket": histogram.bucket}
    said += [f'"{name}":[{",".join(map(_written, numbers))}]' for name, numbers in lists.items()]
    return Content(f"{{{','.join(said)}}}".encode(), "application/json")


# A histogram has hundreds of numbers, and the next one has the same: writing them is most of what it costs.
@lru_cache(maxsize=8192)
def _written(number: float) -> str:
    return json.dumps(number)


def _mesh(values: Any) -> Content:
    import numpy

    parts: dict[str, Any] = {}
    for value in values:
        name = _PARTS[value.tag.rpartition("_")[2]]
        shape = [dim.size for dim in value.tensor.tensor_shape.dim]
        parts[name] = numpy.array(value.tensor.float_val, dtype="f4").reshape(shape)
    return contents.mesh(parts.get("vertices"), parts.get("colors"), parts.get("faces"), None)


def config_of(given: Any) -> dict[str, MetaValue]:
    """A mesh's `config_dict` as metadata."""
    return {"config": json.dumps(given, sort_keys=True)} if given else {}
