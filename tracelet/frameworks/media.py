"""The methods of a SummaryWriter that log no numbers: images, histograms, texts, …, as TensorBoard encodes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tracelet.core import contents
from tracelet.core.contents import Content
from tracelet.core.metrics import MetricType
from tracelet.frameworks import summaries
from tracelet.frameworks.capturing import Taken, watching
from tracelet.frameworks.summarywriter import Writers, text_of
from tracelet.guard import say
from tracelet.patching import Switch, Wrapper, after

__all__ = ["media_methods"]

_KINDS: Final[Mapping[str, MetricType]] = {
    "add_image": MetricType.IMAGE,
    "add_images": MetricType.IMAGE,
    "add_image_with_boxes": MetricType.IMAGE,
    "add_figure": MetricType.FIGURE,
    "add_histogram": MetricType.HISTOGRAM,
    "add_histogram_raw": MetricType.HISTOGRAM,
    "add_text": MetricType.TEXT,
    "add_audio": MetricType.AUDIO,
    "add_video": MetricType.VIDEO,
    "add_pr_curve": MetricType.PR_CURVE,
    "add_pr_curve_raw": MetricType.PR_CURVE,
    "add_mesh": MetricType.MESH,
    "add_graph": MetricType.GRAPH,
    "add_onnx_graph": MetricType.GRAPH,
    "add_custom_scalars": MetricType.LAYOUT,
    "add_custom_scalars_multilinechart": MetricType.LAYOUT,
    "add_custom_scalars_marginchart": MetricType.LAYOUT,
}
_NAMES: Final = {MetricType.GRAPH: "graph", MetricType.LAYOUT: "custom_scalars"}  # of what has no tag


def media_methods(writers: Writers) -> Mapping[str, Callable[[Switch], Wrapper]]:
    """The wrappers."""
    methods = {name: _watched(writers, name, kind) for name, kind in _KINDS.items()}
    # Nothing of an embedding but its place is in a summary: it is in files.
    methods["add_embedding"] = after("recording SummaryWriter.add_embedding", _Embeddings(writers).record)
    methods["add_tensor"] = after("seeing SummaryWriter.add_tensor", _not_recorded(writers))
    return methods


def _not_recorded(writers: Writers) -> Callable[..., None]:
    """What is not recorded is said once: a tensor is no number, and no tracker shows it, nor does TensorBoard."""

    def tell(writer: Any, *_: Any, **__: Any) -> None:
        if writers.run_of(writers.known(writer)) is not None:
            say(
                "what SummaryWriter.add_tensor writes is in its event file only: no tracker shows tensors", "add_tensor"
            )

    return tell


def _watched(writers: Writers, method: str, kind: MetricType) -> Callable[[Switch], Wrapper]:
    def wanted(writer: Any) -> bool:
        return writers.run_of(writers.known(writer)) is not None

    def record(writer: Any, taken: list[Taken], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        known = writers.known(writer)
        run = writers.run_of(known)
        if run is None:
            return
        tag = _NAMES.get(kind) or text_of(args[0] if args else kwargs.get("tag"))
        found = 0
        for each in taken:
            step = None if each.step is None else int(each.step)
            walltime = None if each.walltime is None else float(each.walltime)
            for content in _contents(writers, kind, each, args, kwargs):
                run.record_media(tag, kind, content, step, walltime, known.log_dir)
                found += 1
        if not found:
            say(f"SummaryWriter.{method} wrote nothing that can be recorded", key=f"nothing by {method}")

    return watching(f"recording SummaryWriter.{method}", wanted, record)


def _contents(
    writers: Writers, kind: MetricType, taken: Taken, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Content]:
    if kind is MetricType.GRAPH:
        return [summaries.graph_content(taken.content)]
    found = list(summaries.content_of(kind, taken.content, writers.library.layout))
    if kind is MetricType.MESH:
        config = kwargs.get("config_dict", args[4] if len(args) > 4 else None)
        return [each._replace(metadata=summaries.config_of(config)) for each in found]
    if kind is MetricType.VIDEO and not found:
        # TensorBoard encodes videos by moviepy 1 and by nothing else. What was handed over is here.
        frames = args[1] if len(args) > 1 else kwargs["vid_tensor"]
        return [contents.video(frames, kwargs.get("fps", args[3] if len(args) > 3 else 4))]
    return found


class _Embeddings:
    """`add_embedding`."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers

    def record(
        self,
        writer: Any,
        mat: Any,
        metadata: Any = None,
        label_img: Any = None,
        global_step: Any = None,
        tag: Any = "default",
        metadata_header: Any = None,
        *_: Any,
        **__: Any,
    ) -> None:
        known = self._writers.known(writer)
        run = self._writers.run_of(known)
        if run is None:
            return
        folder = os.path.join(
            writer._get_file_writer().get_logdir(),
            str(0 if global_step is None else global_step).zfill(5),
            writer._encode(tag),
        )
        try:
            points, dimensions = mat.shape
            content = summaries.projector_content(
                Path(folder), points, dimensions, metadata is not None, label_img is not None
            )
        except (OSError, AttributeError):  # in a bucket, say
            content = contents.embedding(mat, metadata, label_img, metadata_header)
        step = None if global_step is None else int(global_step)
        run.record_media(text_of(tag), MetricType.EMBEDDING, content, step, None, known.log_dir)
