"""What users hand over as an image, a histogram, a sound, …, made into content: bytes and what they are.

In the forms that TensorBoard makes of the same things (see `Media`), without TensorBoard or torch. Text and histograms take
nothing but Python, the rest numpy, pictures Pillow too.
"""

from __future__ import annotations

import importlib
import io
import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet.core.metrics import MetaValue

__all__ = [
    "Content",
    "Missing",
    "array_of",
    "audio",
    "embedding",
    "figure",
    "histogram",
    "image",
    "mesh",
    "pr_curve",
    "text",
    "to_json",
    "video",
    "zipped",
]

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_THRESHOLDS: Final = 127
_LEAST: Final = 1e-7
_INT16: Final = 32767


class Missing(ImportError):
    """A package is needed that is not installed; the message has the line that installs it."""


class Content(NamedTuple):
    """Content as a record holds it.

    Attributes:
        data: the bytes.
        media_type: what they are.
        metadata: what belongs to them.
    """

    data: bytes
    media_type: str
    metadata: Mapping[str, MetaValue] = {}


def to_json(said: Mapping[str, Any]) -> Content:
    """Content that is JSON."""
    return Content(json.dumps(said, separators=(",", ":")).encode(), "application/json")


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of files; the same for the same files."""
    import zipfile  # takes longer than the rest of this file

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name], compresslevel=1)
    return buffer.getvalue()


def array_of(given: Any) -> Any:
    """A tensor, an array, or numbers as a numpy array."""
    numpy = _needs("numpy")
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        if str(given.dtype) == "torch.bfloat16":
            given = given.float()
        given = given.numpy()
    return numpy.asarray(given)


def text(given: Any) -> Content:
    """Text, in Markdown."""
    return Content(str(given).encode(errors="replace"), "text/plain")


def image(given: Any, dataformats: str) -> Content:
    """A picture as PNG.

    Args:
        given: a tensor or array with values from 0 to 1, or of uint8; a Pillow image; a path of a picture; bytes of one.
        dataformats: the order of a tensor's dimensions: "CHW", "HWC", "HW", "NCHW" for a grid of pictures, ….

    Raises:
        ValueError: dimensions and dataformats do not fit.
        Missing: Pillow or numpy is not there. PNG files and bytes need neither.
    """
    if isinstance(given, str | os.PathLike):
        given = Path(given).read_bytes()
    if isinstance(given, bytes | bytearray | memoryview):
        raw = bytes(given)
        if raw.startswith(_PNG):
            width, height = int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")
            return Content(raw, "image/png", {"width": width, "height": height})
        given = _needs("PIL.Image", "pillow").open(io.BytesIO(raw))
    if hasattr(given, "save") and hasattr(given, "convert"):
        known = given if given.mode in ("L", "LA", "RGB", "RGBA") else given.convert("RGBA")
        return _png(known)
    pixels = _pixels(_hwc(array_of(given), dataformats))
    return _png(_needs("PIL.Image", "pillow").fromarray(pixels))


def figure(given: Any) -> Content:
    """A matplotlib figure as PNG, as large as it is."""
    buffer = io.BytesIO()
    given.savefig(buffer, format="png", dpi="figure")
    return image(buffer.getvalue(), "")


def histogram(values: Any, bins: str | int | Sequence[float]) -> Content:
    """A histogram of values of any shape.

    Args:
        values: numbers; those that are not finite are left out, and counted in the metadata.
        bins: "tensorflow" for buckets that grow from 1e-12 by a tenth each; or how many; or their limits; or what numpy knows.

    Raises:
        ValueError: there is no finite value.
    """
    try:
        numpy = _needs("numpy")
    except Missing:
        counts, limits, numbers, left_out = _counted(values, bins)
        low, high, total, squares = min(numbers), max(numbers), sum(numbers), sum(n * n for n in numbers)
        size = len(numbers)
    else:
        flat = array_of(values).reshape(-1).astype(float)
        finite = flat[numpy.isfinite(flat)]
        left_out = int(flat.size - finite.size)
        if not finite.size:
            raise ValueError("a histogram of no finite value")
        found, edges = numpy.histogram(finite, bins=_tensorflow_limits() if _is_default(bins) else bins)
        counts, limits = found.tolist(), edges.tolist()
        with numpy.errstate(over="ignore"):  # of squares; no warning in the user's output
            totals = finite.min(), finite.max(), finite.sum(), finite.dot(finite)
        low, high, total, squares = (float(number) for number in totals)
        size = int(finite.size)
    counts, limits = _trimmed(counts, limits)
    said = {"min": low, "max": high, "num": float(size), "sum": total, "sum_squares": squares}
    made = to_json({**said, "bucket_limit": limits, "bucket": [float(count) for count in counts]})
    return made._replace(metadata={"not_finite": left_out}) if left_out else made


def audio(samples: Any, sample_rate: int) -> Content:
    """One channel of sound, of values from -1 to 1, as WAV.

    Raises:
        ValueError: it has more than one channel.
    """
    import wave

    wanted = array_of(samples).squeeze()
    if wanted.ndim != 1:
        raise ValueError(f"audio has one channel, not the shape {wanted.shape}")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((wanted.clip(-1, 1) * _INT16).astype("<i2").tobytes())
    return Content(buffer.getvalue(), "audio/wav", {"sample_rate": sample_rate, "frames": int(wanted.shape[0])})


def video(frames: Any, fps: float) -> Content:
    """Moving pictures of shape (N, T, C, H, W) as GIF; the N of them beside each other.

    Raises:
        ValueError: another shape.
    """
    numpy, pillow = _needs("numpy"), _needs("PIL.Image", "pillow")
    wanted = array_of(frames)
    if wanted.ndim != 5:
        raise ValueError(f"a video has the shape (N, T, C, H, W), not {wanted.shape}")
    number, times, channels, height, width = wanted.shape
    rows = 2 ** ((number.bit_length() - 1) // 2)
    columns = -(-number // rows)
    empty = numpy.zeros((rows * columns - number, *wanted.shape[1:]), wanted.dtype)
    grid = numpy.concatenate((wanted, empty)).reshape(rows, columns, times, channels, height, width)
    grid = grid.transpose(2, 0, 4, 1, 5, 3).reshape(times, rows * height, columns * width, channels)
    pictures = [pillow.fromarray(_pixels(_three_channels(frame))) for frame in grid]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=max(int(1000 / fps), 1),
        loop=0,
        optimize=False,
    )
    said: dict[str, MetaValue] = {"width": columns * width, "height": rows * height, "frames": times, "fps": fps}
    return Content(buffer.getvalue(), "image/gif", said)


def pr_curve(labels: Any, predictions: Any, num_thresholds: int, weights: Any) -> Content:
    """Precision and recall of predictions from 0 to 1, at equally spaced thresholds."""
    numpy = _needs("numpy")
    count = min(num_thresholds, _THRESHOLDS)
    truth, guess = array_of(labels).reshape(-1).astype(float), array_of(predictions).reshape(-1)
    weight = 1.0 if weights is None else array_of(weights).reshape(-1)
    at = numpy.floor(guess * (count - 1)).astype(numpy.int32)
    found = [
        numpy.histogram(at, bins=count, range=(0, count - 1), weights=part * weight)[0] for part in (truth, 1.0 - truth)
    ]
    tp, fp = (numpy.cumsum(buckets[::-1])[::-1] for buckets in found)
    tn, fn = fp[0] - fp, tp[0] - tp
    precision, recall = tp / numpy.maximum(_LEAST, tp + fp), tp / numpy.maximum(_LEAST, tp + fn)
    return curve([row.tolist() for row in (tp, fp, tn, fn, precision, recall)])


def curve(rows: Sequence[Sequence[float]]) -> Content:
    """A precision-recall curve.

    Args:
        rows: tp, fp, tn, fn, precision, recall; each for all thresholds.
    """
    last = max(len(rows[0]) - 1, 1)
    thresholds = [number / last for number in range(len(rows[0]))]
    return to_json(
        dict(zip(("thresholds", "tp", "fp", "tn", "fn", "precision", "recall"), [thresholds, *rows], strict=True))
    )


def mesh(vertices: Any, colors: Any, faces: Any, config: Mapping[str, Any] | None) -> Content:
    """Points or a mesh of shape (B, N, 3) as npz."""
    numpy = _needs("numpy")
    files = {}
    for name, given, kind in (("vertices", vertices, "f4"), ("colors", colors, None), ("faces", faces, "i4")):
        if given is None:
            continue
        buffer = io.BytesIO()
        numpy.save(buffer, array_of(given).astype(kind) if kind else array_of(given), allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    said: dict[str, MetaValue] = {"config": json.dumps(config, sort_keys=True)} if config else {}
    return Content(zipped(files), "application/x-npz", said)


def embedding(
    matrix: Any, metadata: Sequence[Any] | None, images: Any, metadata_header: Sequence[str] | None
) -> Content:
    """Vectors with what belongs to them, as a zip of the files that TensorBoard's projector reads.

    Raises:
        ValueError: the lengths do not fit.
    """
    rows = array_of(matrix)
    if rows.ndim != 2:
        raise ValueError(f"an embedding is a matrix (N, D), not of the shape {rows.shape}")
    for what, given in (("labels", metadata), ("images", images)):
        if given is not None and len(given) != len(rows):
            raise ValueError(f"{len(given)} {what} for {len(rows)} points")
    files = {"tensors.tsv": _lines("\t".join(str(value) for value in row) for row in rows.tolist())}
    if metadata is not None:
        table = [metadata_header, *metadata] if metadata_header else None
        files["metadata.tsv"] = _lines(
            (str(label) for label in metadata) if table is None else ("\t".join(map(str, line)) for line in table)
        )
    if images is not None:
        files["sprite.png"] = _sprite(array_of(images))
    return of_projector(files, *rows.shape)


def of_projector(files: Mapping[str, bytes], points: int, dimensions: int) -> Content:
    """The files of an embedding."""
    return Content(zipped(files), "application/zip", {"points": int(points), "dimensions": int(dimensions)})


def _needs(module: str, package: str = "") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module
        raise Missing(f"this needs {package}, which is not installed:  pip install {package}") from error


def _png(picture: Any) -> Content:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Content(buffer.getvalue(), "image/png", {"width": picture.width, "height": picture.height})


def _pixels(given: Any) -> Any:
    """Numbers from 0 to 1, or uint8, as uint8."""
    if given.dtype == "uint8":
        return given
    return (given.astype("f4") * 255).clip(0, 255).astype("u1")


def _hwc(given: Any, dataformats: str) -> Any:
    order = dataformats.upper()
    if len(set(order)) != len(order) or set(order) - set("NCHW") or not {"H", "W"} <= set(order):
        raise ValueError(f"{dataformats!r} is no order of dimensions: CHW, HWC, HW, NCHW or NHWC")
    if given.ndim != len(order):
        raise ValueError(f"an image of shape {given.shape} is not {order}")
    wanted = given.transpose([order.index(name) for name in "NHWC" if name in order])
    if "C" not in order:
        wanted = wanted[..., None]
    return _three_channels(_grid(wanted) if "N" in order else wanted)


def _three_channels(given: Any) -> Any:
    return given.repeat(3, axis=-1) if given.shape[-1] == 1 else given


def _grid(pictures: Any, columns: int = 8) -> Any:
    """Pictures (N, H, W, C) in rows of `columns`."""
    numpy = _needs("numpy")
    number, height, width, channels = pictures.shape
    columns = min(number, columns)
    rows = -(-number // columns)
    canvas = numpy.zeros((rows * columns, height, width, channels), pictures.dtype)
    canvas[:number] = pictures
    parted = canvas.reshape(rows, columns, height, width, channels)
    return parted.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def _sprite(images: Any) -> bytes:
    """Pictures (N, C, H, W) in a square of squares, as the projector cuts them out again."""
    numpy = _needs("numpy")
    grid = _three_channels(_grid(images.transpose(0, 2, 3, 1), columns=int(numpy.ceil(len(images) ** 0.5))))
    square = numpy.zeros((grid.shape[1], grid.shape[1], 3), grid.dtype)
    square[: grid.shape[0]] = grid
    return _png(_needs("PIL.Image", "pillow").fromarray(_pixels(square))).data


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _is_default(bins: Any) -> bool:
    return isinstance(bins, str) and bins == "tensorflow"


def _tensorflow_limits() -> list[float]:
    limits, value = [], 1e-12
    while value < 1e20:
        limits.append(value)
        value *= 1.1
    return [-limit for limit in reversed(limits)] + [0.0] + limits


def _counted(values: Any, bins: Any) -> tuple[list[int], list[float], list[float], int]:
    """As numpy counts, without it."""
    from math import isfinite

    given = [float(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]
    numbers = [value for value in given if isfinite(value)]
    if not numbers:
        raise ValueError("a histogram of no finite value")
    if _is_default(bins):
        limits = _tensorflow_limits()
    elif isinstance(bins, int):
        low, high = min(numbers), max(numbers)
        low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
        limits = [low + (high - low) * number / bins for number in range(bins + 1)]
    elif isinstance(bins, str):
        raise Missing(f"bins={bins!r} needs numpy, which is not installed:  pip install numpy")
    else:
        limits = [float(limit) for limit in bins]
    counts = [0] * (len(limits) - 1)
    for value in numbers:
        if limits[0] <= value <= limits[-1]:
            at = bisect_left(limits, value)
            counts[min(at if limits[at] == value else at - 1, len(counts) - 1)] += 1
    return counts, limits, numbers, len(given) - len(numbers)


def _trimmed(counts: list[int], limits: list[float]) -> tuple[list[int], list[float]]:
    """Without empty buckets at the ends; an empty one on the left tells where the first begins."""
    filled = [number for number, count in enumerate(counts) if count] or [0]
    start, end = filled[0], filled[-1] + 1
    return [0, *counts[start:end]], limits[start : end + 1]
