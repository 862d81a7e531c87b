"""Points as TensorBoard's events, in the forms that SummaryWriter gives them: so every reader of its files reads these too.

point               simple_value: a float32, as TensorBoard's own writers make it
image, figure,      Summary.Image (a GIF moves)
  video
histogram           HistogramProto, in float64
audio               Summary.Audio
text, pr_curve,     tensors of the plugins of these names
  mesh, layout
table               a text: Markdown
graph               GraphDef
"""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from collections.abc import Callable, Mapping
from ctypes import c_float
from typing import Final

from google.protobuf import json_format, text_format
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.mesh import metadata as mesh_metadata
from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData
from tensorboard.plugins.pr_curve.plugin_data_pb2 import PrCurvePluginData
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData

from tracelet.core.metrics import Media, Metric
from tracelet_collector.exporters import tables

__all__ = ["SHOWN", "NotShown", "as_float32", "as_time", "first_event", "framed", "media_event", "scalar_event"]

_LAYOUT_TAG: Final = "custom_scalars__config__"
_LEAST: Final = 2.0**-126  # of float32, with all of its digits
_LAST_TIME: Final = 8.64e12  # seconds; what JavaScript calls a date ends there, in the year 275760
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"BM")
_CURVE: Final = ("tp", "fp", "tn", "fn", "precision", "recall")
_MOST_ROWS: Final = 10_000  # of a table; its page makes HTML of all of them
_MOST_THRESHOLDS: Final = 127  # of a curve that TensorBoard's page can read


class NotShown(Exception):
    """TensorBoard has no form for this content."""


def framed(event: Event) -> bytes:
    """An event as it stands in a file: its length and itself, each with its checksum."""
    data = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def first_event(created: float) -> Event:
    """What every file begins with. Under this version, steps that go backward hide nothing."""
    return Event(wall_time=created, file_version="brain.Event:2", source_metadata=SourceMetadata(writer="tracelet"))


def as_float32(value: float) -> tuple[float, bool]:
    """The value as TensorBoard stores it, and whether that is the nearest of its kind to it, within 6e-8 of it.

    It is not where a finite value becomes infinite, or loses digits on its way to zero.
    """
    stored = c_float(value).value
    near = stored == value or not math.isfinite(value) or (math.isfinite(stored) and abs(value) >= _LEAST)
    return stored, near


def as_time(wall_time: float, instead: float) -> tuple[float, bool]:
    """The time as TensorBoard can show it, and whether that is the time itself.

    Its fast loader reads no further in a file than to a time that is no number; its page knows the times of JavaScript.

    Args:
        wall_time: seconds since the epoch.
        instead: what stands for a time that is no number.
    """
    if math.isnan(wall_time):
        return instead, False
    shown = max(-_LAST_TIME, min(_LAST_TIME, wall_time))
    return shown, shown == wall_time


def scalar_event(tag: str, metric: Metric, wall_time: float, stored: float, description: str) -> Event:
    """A point.

    Args:
        tag: where it goes.
        metric: the point.
        wall_time: its time, as TensorBoard can show it.
        stored: its value as a float32.
        description: what TensorBoard says of the tag, in Markdown; it takes the first one.
    """
    event = Event(wall_time=wall_time, step=metric.step)
    value = event.summary.value.add(tag=tag, simple_value=stored)
    if description:
        value.metadata.plugin_data.plugin_name = "scalars"
        value.metadata.summary_description = description
    return event


def media_event(tag: str, media: Media, wall_time: float, content: bytes) -> Event:
    """Media.

    Args:
        tag: where they go.
        media: the record.
        wall_time: its time, as TensorBoard can show it.
        content: its content.

    Raises:
        NotShown: TensorBoard cannot show the content.
    """
    event = Event(wall_time=wall_time, step=media.step)
    try:
        if media.kind == "graph":
            event.graph_def = _graph(content)
        else:
            event.summary.CopyFrom(_MAKERS[media.kind](tag, media, content))
    except NotShown:
        raise
    except Exception as error:  # what a library says of content that is not what it should be
        raise NotShown(f"{type(error).__name__}: {error}") from error
    return event


def _graph(content: bytes) -> bytes:
    graph = text_format.Parse(content.decode(), GraphDef())
    if not graph.node:
        raise NotShown("a graph without nodes")
    made: bytes = graph.SerializeToString(deterministic=True)
    return made


def _picture(tag: str, media: Media, content: bytes) -> Summary:
    if not content.startswith(_PICTURES) and not (content.startswith(b"RIFF") and content[8:12] == b"WEBP"):
        raise NotShown("no picture that a browser shows")
    width, height = _number(media, "width"), _number(media, "height")
    if not width and content.startswith(_PICTURES[0]) and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _histogram(tag: str, media: Media, content: bytes) -> Summary:
    said = json.loads(content)
    numbers = {name: float(said[name]) for name in ("min", "max", "num", "sum", "sum_squares")}
    limits, buckets = [[float(number) for number in said[name]] for name in ("bucket_limit", "bucket")]
    if len(limits) != len(buckets):
        raise NotShown("as many limits as buckets are needed")
    histogram = HistogramProto(**numbers, bucket_limit=limits, bucket=buckets)
    return Summary(value=[Summary.Value(tag=tag, histo=histogram)])


def _audio(tag: str, media: Media, content: bytes) -> Summary:
    with wave.open(io.BytesIO(content)) as file:
        audio = Summary.Audio(
            sample_rate=file.getframerate(),
            num_channels=file.getnchannels(),
            length_frames=file.getnframes(),
            encoded_audio_string=content,
            content_type="audio/wav",
        )
    return Summary(value=[Summary.Value(tag=tag, audio=audio)])


def _table(tag: str, media: Media, content: bytes) -> Summary:
    columns, rows = tables.read(content)
    if len(rows) > _MOST_ROWS:
        raise NotShown(f"a table of more than {_MOST_ROWS} rows")
    summary = _text(tag, media, tables.markdown(columns, rows).encode(errors="replace"))
    summary.value[0].tensor.tensor_shape.Clear()  # else TensorBoard draws a table with this one in it
    return summary


def _text(tag: str, media: Media, content: bytes) -> Summary:
    content.decode()
    plugin = TextPluginData(version=0).SerializeToString()
    value = Summary.Value(tag=f"{tag}/text_summary", metadata=_metadata("text", plugin), tensor=_strings(content))
    value.tensor.tensor_shape.dim.add(size=1)
    return Summary(value=[value])


def _pr_curve(tag: str, media: Media, content: bytes) -> Summary:
    said = json.loads(content)
    rows = [[float(number) for number in said[name]] for name in _CURVE]
    (count,) = {len(row) for row in rows}
    if not 0 < count <= _MOST_THRESHOLDS:
        raise NotShown(f"TensorBoard takes 1 to {_MOST_THRESHOLDS} thresholds")
    plugin = PrCurvePluginData(version=0, num_thresholds=count).SerializeToString()
    tensor = _floats([number for row in rows for number in row], (len(rows), count))
    return Summary(value=[Summary.Value(tag=tag, metadata=_metadata("pr_curves", plugin), tensor=tensor)])


def _mesh(tag: str, media: Media, content: bytes) -> Summary:
    import numpy

    with numpy.load(io.BytesIO(content), allow_pickle=False) as parts:
        found = [
            (kind, parts[name])
            for name, kind in (
                ("vertices", MeshPluginData.VERTEX),
                ("faces", MeshPluginData.FACE),
                ("colors", MeshPluginData.COLOR),
            )
            if name in parts
        ]
    if MeshPluginData.VERTEX not in [kind for kind, _ in found]:
        raise NotShown("a mesh without vertices")
    components = mesh_metadata.get_components_bitmask([kind for kind, _ in found])
    config = media.metadata.get("config", "{}")
    summary = Summary()
    for kind, part in found:
        summary.value.add(
            tag=mesh_metadata.get_instance_name(tag, kind),
            tensor=_floats(part.reshape(-1).tolist(), part.shape),
            metadata=mesh_metadata.create_summary_metadata(
                tag, None, kind, components, part.shape, json_config=config if isinstance(config, str) else "{}"
            ),
        )
    return summary


def _layout(tag: str, media: Media, content: bytes) -> Summary:
    layout = json_format.Parse(content, Layout())
    if not layout.category:
        raise NotShown("a layout without categories")
    tensor = _strings(layout.SerializeToString(deterministic=True))
    tensor.tensor_shape.SetInParent()  # one value
    return Summary(value=[Summary.Value(tag=_LAYOUT_TAG, metadata=_metadata("custom_scalars", b""), tensor=tensor)])


_MAKERS: Final[Mapping[str, Callable[[str, Media, bytes], Summary]]] = {
    "image": _picture,
    "figure": _picture,
    "video": _picture,
    "histogram": _histogram,
    "audio": _audio,
    "text": _text,
    "table": _table,
    "pr_curve": _pr_curve,
    "mesh": _mesh,
    "layout": _layout,
}
SHOWN: Final = frozenset({*_MAKERS, "graph"})  # kinds of media


def _metadata(plugin: str, content: bytes) -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))


def _strings(content: bytes) -> TensorProto:
    return TensorProto(dtype="DT_STRING", string_val=[content])


def _floats(numbers: list[float], shape: tuple[int, ...]) -> TensorProto:
    dims = [TensorShapeProto.Dim(size=size) for size in shape]
    return TensorProto(dtype="DT_FLOAT", float_val=numbers, tensor_shape=TensorShapeProto(dim=dims))


def _number(media: Media, name: str) -> int:
    said = media.metadata.get(name, 0)
    return int(said) if isinstance(said, (int, float)) and 0 <= said < 2**31 else 0
