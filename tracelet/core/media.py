"""What a script says of its run by itself, other than numbers: images, figures, histograms, texts, sounds, ….

The methods are called as those of TensorBoard's SummaryWriter, and need neither TensorBoard nor torch. Content is made in the
call: what is handed over may change afterwards.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, SupportsIndex

from tracelet.core import contents, tables
from tracelet.core.contents import Content, Missing
from tracelet.core.logbook import Recording
from tracelet.core.metrics import MetricType
from tracelet.core.values import as_step
from tracelet.guard import Guard, say

__all__ = ["MediaLog"]

_CLOSING: Final = Guard("closing a figure")


class MediaLog(Recording):
    """The part of an `Experiment`'s interface that is about media.

    In all methods, `iteration` is the step, and 0 is step 0. Without one, the calls of each name and kind are counted, and
    flagged.
    """

    def log_image(
        self, name: str, image: Any, iteration: SupportsIndex | None = None, *, dataformats: str = "CHW"
    ) -> None:
        """Record an image.

        Args:
            name: the metric's name.
            image: a tensor or numpy array with values from 0 to 1, or of uint8; a Pillow image; a file's path; or PNG bytes.
            iteration: the step.
            dataformats: the order of an array's dimensions: CHW, HWC, HW; NCHW or NHWC for several images in a grid.
        """
        self._log(MetricType.IMAGE, name, iteration, contents.image, image, dataformats)

    def log_figure(self, name: str, figure: Any, iteration: SupportsIndex | None = None, *, close: bool = True) -> None:
        """Record a matplotlib figure, as an image.

        Args:
            name: the metric's name.
            figure: the figure.
            iteration: the step.
            close: pyplot forgets it afterwards; else it keeps every figure.
        """
        self._log(MetricType.FIGURE, name, iteration, contents.figure, figure)
        if close:
            _close(figure)

    def log_histogram(
        self,
        name: str,
        values: Any,
        iteration: SupportsIndex | None = None,
        *,
        bins: str | int | Sequence[float] = "tensorflow",
    ) -> None:
        """Record how values are distributed.

        Args:
            name: the metric's name.
            values: a tensor, an array or numbers. Those that are not finite are left out, and counted.
            iteration: the step.
            bins: "tensorflow", whose buckets grow by a tenth each; or how many; or their limits; or what numpy knows.
        """
        self._log(MetricType.HISTOGRAM, name, iteration, contents.histogram, values, bins)

    def log_text(self, name: str, text: str, iteration: SupportsIndex | None = None) -> None:
        """Record a text, in Markdown.

        Args:
            name: the metric's name.
            text: the text.
            iteration: the step.
        """
        self._log(MetricType.TEXT, name, iteration, contents.text, text)

    def log_table(
        self,
        name: str,
        table: Any,
        iteration: SupportsIndex | None = None,
        *,
        columns: Iterable[Any] | None = None,
    ) -> None:
        """Record a table.

        Cells are numbers, strings, booleans or none; anything else becomes its `str`, NaN none, and an infinity a word. Of a
        table with more than 100,000 rows, or 16 MiB as JSON, the first rows are recorded, and one line says so.

        Args:
            name: the metric's name.
            table: a DataFrame of pandas or polars, without its index, or a Table of pyarrow; a mapping of columns; a list
                of mappings, or of rows; an array or tensor of two dimensions.
            iteration: the step.
            columns: names of the columns, for rows and arrays; of other tables, which ones to record, in this order.
        """
        self._log(MetricType.TABLE, name, iteration, tables.table, table, columns, str(name))

    def log_audio(
        self, name: str, samples: Any, iteration: SupportsIndex | None = None, *, sample_rate: int = 44100
    ) -> None:
        """Record sound.

        Args:
            name: the metric's name.
            samples: a tensor or array of one channel, from -1 to 1; what lies outside is clipped.
            iteration: the step.
            sample_rate: samples in a second.
        """
        self._log(MetricType.AUDIO, name, iteration, contents.audio, samples, sample_rate)

    def log_video(self, name: str, frames: Any, iteration: SupportsIndex | None = None, *, fps: float = 4) -> None:
        """Record moving pictures.

        Args:
            name: the metric's name.
            frames: a tensor or array (N, T, C, H, W) with values from 0 to 1, or of uint8.
            iteration: the step.
            fps: frames in a second.
        """
        self._log(MetricType.VIDEO, name, iteration, contents.video, frames, fps)

    def log_pr_curve(
        self,
        name: str,
        labels: Any,
        predictions: Any,
        iteration: SupportsIndex | None = None,
        *,
        num_thresholds: int = 127,
        weights: Any = None,
    ) -> None:
        """Record precision and recall.

        Args:
            name: the metric's name.
            labels: what is true: 0 or 1 for each element.
            predictions: the probability that an element is 1.
            iteration: the step.
            num_thresholds: points of the curve; at most 127.
            weights: of the elements.
        """
        self._log(MetricType.PR_CURVE, name, iteration, contents.pr_curve, labels, predictions, num_thresholds, weights)

    def log_mesh(
        self,
        name: str,
        vertices: Any,
        colors: Any = None,
        faces: Any = None,
        iteration: SupportsIndex | None = None,
        *,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a mesh, or points in space.

        Args:
            name: the metric's name.
            vertices: (B, N, 3).
            colors: of the vertices, (B, N, 3): uint8, or from 0 to 1.
            faces: (B, M, 3), numbers of vertices.
            iteration: the step.
            config: what TensorBoard's `config_dict` is.
        """
        self._log(MetricType.MESH, name, iteration, contents.mesh, vertices, colors, faces, config)

    def log_embedding(
        self,
        name: str,
        matrix: Any,
        metadata: Sequence[Any] | None = None,
        images: Any = None,
        iteration: SupportsIndex | None = None,
        *,
        metadata_header: Sequence[str] | None = None,
    ) -> None:
        """Record vectors, for TensorBoard's projector.

        Args:
            name: the metric's name.
            matrix: (N, D).
            metadata: a label for each vector; or a row of a table, whose head is `metadata_header`.
            images: a picture for each vector, (N, C, H, W).
            iteration: the step.
            metadata_header: names of the columns.
        """
        self._log(MetricType.EMBEDDING, name, iteration, contents.embedding, matrix, metadata, images, metadata_header)

    def log_graph(
        self, model: Any, example: Any = None, name: str = "graph", iteration: SupportsIndex | None = None
    ) -> None:
        """Record a model's graph. This needs torch and TensorBoard.

        Args:
            model: a torch module.
            example: what it is called with, for tracing: a tensor, or a tuple of tensors.
            name: the metric's name.
            iteration: the step.
        """
        self._log(MetricType.GRAPH, name, iteration, _graph, model, example)

    def record_media(
        self, tag: str, kind: MetricType, content: Content, step: int | None, wall_time: float | None, log_dir: str = ""
    ) -> None:
        """Record intercepted media; see `Experiment.record`.

        Args:
            tag: the user's tag.
            kind: what it is.
            content: what was logged.
            step: the user's step; None when the call named none.
            wall_time: the user's, in seconds; None for now.
            log_dir: directory of the SummaryWriter; empty when there is none.
        """
        if self.active:
            (self._recorder or self._begin()).media(
                log_dir, tag, kind.value, content.data, content.media_type, step, wall_time, content.metadata
            )

    def _log(
        self,
        kind: MetricType,
        name: str,
        iteration: SupportsIndex | None,
        make: Callable[..., Content],
        *given: Any,
    ) -> None:
        if not self.active:
            self._tell_not_recorded()
            return
        with Guard(f"recording {kind.value} {name}"):
            try:
                content = make(*given)
            except Missing as missing:
                say(f"{kind.value} {name} is not recorded: {missing}", key=f"{kind.value}: {missing}")
                return
            self.record_media(str(name), kind, content, None if iteration is None else as_step(iteration), None)


def _graph(model: Any, example: Any) -> Content:
    try:
        tracing: Any = importlib.import_module("torch.utils.tensorboard._pytorch_graph")
    except ImportError as error:
        raise Missing(f"a graph needs torch and tensorboard ({error}):  pip install 'tracelet[torch]'") from error
    from google.protobuf.text_format import MessageToString

    made, _ = tracing.graph(model, example)
    return Content(MessageToString(made).encode(), "text/x-protobuf")


def _close(figure: Any) -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        with _CLOSING:
            pyplot.close(figure)
