"""Plots as ClearML's `report_histogram`, `report_scatter2d`, `report_scatter3d`, `report_table` and figures: plotly's JSON.

What a plot was made from is kept in it, word for word, as the layout's `meta`, which plotly carries and does not draw.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tracelet_collector.exporters import tables

__all__ = ["figure", "histogram", "mesh", "pr_curve", "table"]

_MOST_POINTS: Final = 20_000  # of a mesh; a browser draws no more
_WIDTH: Final = 640
_SPIKES: Final[Mapping[str, Any]] = {
    "showspikes": True,
    "spikethickness": 1,
    "spikesnap": "cursor",
    "spikemode": "toaxis+across",
}


def histogram(content: bytes, title: str, series: str) -> dict[str, Any]:
    """A histogram of TensorBoard's as bars: one for each bucket, over its upper limit.

    Raises:
        ValueError: it is no histogram.
    """
    said = _read(content)
    try:
        limits, counts = [float(n) for n in said["bucket_limit"]], [float(n) for n in said["bucket"]]
        most = float(said["max"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no histogram: {error}") from error
    if len(limits) != len(counts):
        raise ValueError("no histogram: as many buckets as limits are needed")
    # The last limit is the largest double: what is in its bucket is at most the largest value.
    labels = [f"{min(limit, most) if math.isfinite(most) else limit:.6g}" for limit in limits]
    return {
        "data": [{"name": series, "y": _finite(counts), "x": labels, "type": "bar"}],
        "layout": {
            "title": title,
            "xaxis": {"title": None},
            "yaxis": {"title": None},
            "barmode": "group",
            "bargap": 0.08,
            "bargroupgap": 0,
            "meta": content.decode(),
        },
    }


def pr_curve(content: bytes, title: str, series: str) -> dict[str, Any]:
    """Precision over recall.

    Raises:
        ValueError: it is no such curve.
    """
    said = _read(content)
    try:
        recall, precision = [float(n) for n in said["recall"]], [float(n) for n in said["precision"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no precision-recall curve: {error}") from error
    if len(recall) != len(precision):
        raise ValueError("no precision-recall curve: as many precisions as recalls are needed")
    line = {"name": series, "x": _finite(recall), "y": _finite(precision), "mode": "lines", "text": None}
    return {
        "data": [{**line, "type": "scatter"}],
        "layout": {
            "title": title,
            "xaxis": {"title": "recall", **_SPIKES},
            "yaxis": {"title": "precision", **_SPIKES},
            "name": None,
            "meta": content.decode(),
        },
    }


def table(content: bytes, title: str, series: str) -> dict[str, Any]:
    """A table.

    Raises:
        ValueError: it is none.
    """
    columns, rows = tables.read(content)
    font = {"family": "Heebo, verdana, arial, sans-serif"}
    header = {
        "values": columns,
        "align": "left",
        "line": {"width": 0.5, "color": "#d4d6e0"},
        "fill": {"color": "#fff"},
        "font": {**font, "size": 12, "color": "#333"},
    }
    cells = {
        "height": 30,
        "values": [list(column) for column in zip(*rows, strict=True)],
        "align": "left",
        "line": {"color": "white", "width": 1},
        "font": {**font, "size": 14, "color": "#384161"},
    }
    return {
        "data": [{"type": "table", "header": header, "cells": cells}],
        "layout": {"title.text": title, "title": series, "meta": content.decode()},
    }


def mesh(content: bytes, title: str) -> dict[str, Any]:
    """The vertices of the first mesh, as points.

    Raises:
        ValueError: it is no mesh.
    """
    import numpy

    try:
        with numpy.load(io.BytesIO(content), allow_pickle=False) as arrays:
            points = numpy.asarray(arrays["vertices"], dtype=float)
    except Exception as error:  # whatever numpy finds wrong with it
        raise ValueError(f"no mesh: {error}") from error
    if points.ndim == 3 and len(points):
        points = points[0]
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError("no mesh: the vertices are no triples")
    points = points[:: max(1, math.ceil(len(points) / _MOST_POINTS))]
    x, y, z = (_finite(column.tolist()) for column in points.T)
    marker = {"size": 5, "line": {"color": "rgba(217, 217, 217, 0.14)", "width": 0.8}, "opacity": 0.8}
    cloud = {"name": None, "x": x, "y": y, "z": z, "text": None, "type": "scatter3d", "mode": "markers"}
    axes = {axis: {"title": None} for axis in ("xaxis", "yaxis", "zaxis")}
    return {
        "data": [{**cloud, "marker": marker}],
        "layout": {"showlegend": True, "title": title, "scene": axes, "name": None},
    }


def figure(source: str, title: str, series: str, width: float, height: float) -> dict[str, Any]:
    """An image as a plot: so ClearML shows figures that it cannot draw itself.

    Args:
        source: address of the image.
        title: of the plot.
        series: of the plot.
        width: of the image; 0 when it is not known.
        height: likewise.
    """
    tall = int(_WIDTH * (height or 480) / (width or 640))
    image = {
        "sizex": _WIDTH,
        "sizey": tall,
        "xref": "x",
        "yref": "y",
        "opacity": 1.0,
        "x": 0,
        "y": tall,
        "sizing": "contain",
        "layer": "below",
        "source": source,
    }
    return {
        "data": [],
        "layout": {
            "xaxis": {"visible": False, "range": [0, _WIDTH]},
            "yaxis": {"visible": False, "range": [0, tall], "scaleanchor": "x"},
            "margin": {"l": 0, "r": 0, "t": 64, "b": 0},
            "images": [image],
            "showlegend": False,
            "title": f"{title}/{series}",
            "name": None,
        },
    }


def _read(content: bytes) -> Any:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(said, dict):
        raise ValueError("no JSON object")
    return said


def _finite(numbers: Sequence[float]) -> list[float | None]:
    """JSON has no NaN and no infinity."""
    return [number if math.isfinite(number) else None for number in numbers]
