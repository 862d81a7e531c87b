"""Content of every kind of media, as tracelet's own calls make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from tracelet.core import contents, tables
from tracelet.core.contents import Content

__all__ = ["KINDS", "sample"]


def _graph(noise: np.random.Generator, size: int) -> Content:
    nodes = [f'node {{\n  name: "n{number}"\n  op: "Const"\n}}\n' for number in noise.integers(10**9, size=size)]
    return Content("".join(nodes).encode(), "text/x-protobuf")


def _layout(noise: np.random.Generator, size: int) -> Content:
    charts = [
        {"title": f"chart {number}", "multiline": {"tag": ["loss", "train/loss"]}}
        for number in noise.integers(10**9, size=size)
    ]
    return contents.to_json({"category": [{"title": "losses", "chart": charts}]})


_MAKERS: Final[Mapping[str, Callable[[np.random.Generator, int], Content]]] = {
    "image": lambda noise, size: contents.image(noise.random((3, 4, size)), "CHW"),
    "figure": lambda noise, size: contents.image(noise.random((3, size, 4)), "CHW"),
    "histogram": lambda noise, size: contents.histogram(noise.normal(size=size), size),
    "text": lambda noise, size: contents.text(f"**bold** ü {noise.bytes(size).hex()}"),
    "audio": lambda noise, size: contents.audio(noise.uniform(-1, 1, size * 4), 8000),
    "video": lambda noise, size: contents.video(noise.random((1, 2, 3, 4, size)), 4),
    "mesh": lambda noise, size: contents.mesh(noise.random((1, size, 3)), None, [[[0, 1, 2]]], {"camera": 1}),
    "embedding": lambda noise, size: contents.embedding(noise.random((size, 3)), list(range(size)), None, None),
    "pr_curve": lambda noise, size: contents.pr_curve(noise.integers(0, 2, size), noise.random(size), 11, None),
    "table": lambda noise, size: tables.table(noise.random((size, 3)), ["x", "y", "z"], "t"),
    "graph": _graph,
    "layout": _layout,
    "of a later version": lambda noise, size: Content(noise.bytes(size), "application/of-later"),
}
KINDS: Final = tuple(_MAKERS)


def sample(kind: str, seed: int, large: bool = False) -> Content:
    """Content of a kind; another one for another seed.

    Args:
        kind: one of `KINDS`.
        seed: which one.
        large: too large for a record, where the kind can be.
    """
    noise = np.random.default_rng([seed, *kind.encode()])
    return _MAKERS[kind](noise, 2000 if large else 5)
