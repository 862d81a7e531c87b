"""Media and artifacts in ClearML: where users look for them, and what their files are called.

    image                          debug sample
    text, audio, video             debug sample: `.md`, `.wav`, `.gif`
    figure                         plot that shows the image
    histogram, pr_curve, table     plot
    mesh                           plot of its vertices, and an artifact: `tracelet/mesh/<name>/step_<n>.npz`
    embedding, graph, others       artifact: `tracelet/<kind>/<name>/step_<n>.<ending>`
    an artifact                    artifact; its key is its path (behind a `_` when that begins with `tracelet/`)

A second image of one name and step is in the series `<series> #2`; a second file of one is `step_<n>_2`. A record that is
not what its kind says becomes an artifact, and so does one whose step ClearML cannot hold: both are counted as rerouted.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tracelet.core.metrics import INT64_MAX, INT64_MIN, Artifact, BlobRef, Media
from tracelet_collector.exporters import clearml_plots as plots
from tracelet_collector.exporters.artifact_paths import file_ending
from tracelet_collector.exporters.base import Dead, Gone, Item, Memory, Run
from tracelet_collector.exporters.clearml_events import IMAGE, PLOT, Event, Job, PlannedFile
from tracelet_collector.exporters.clearml_names import OWN_PREFIX, SeriesBook, artifact_key, file_name, fit_name
from tracelet_collector.exporters.names import memory_key

__all__ = ["MediaDesk"]

_SAMPLES: Final = frozenset({"image", "text", "audio", "video"})
_DRAWN: Final[Mapping[str, Callable[[bytes, str, str], Mapping[str, Any]]]] = {
    "histogram": plots.histogram,
    "pr_curve": plots.pr_curve,
    "table": plots.table,
    "mesh": lambda content, title, series: plots.mesh(content, title),
}
_WHOLE: Final = frozenset({"histogram", "pr_curve", "table"})  # of which the plot keeps all
_LONGEST_PLOT: Final = 4 * 1024 * 1024  # bytes of what a plot keeps
_LONGEST_READ: Final = 64 * 1024 * 1024  # bytes of what a plot is made of


class MediaDesk:
    """Where the media and artifacts of one chunk are worked on, in the log's order.

    Args:
        run: the run.
        memory: its memory: how many there were of a name and step.
        book: knows the series of a name.
        items: the chunk.

    Attributes:
        jobs: what is to be done.
        dead: what cannot be done.
        stamps: entries to be added to the memory.
    """

    def __init__(self, run: Run, memory: Memory, book: SeriesBook, items: Iterable[Item]) -> None:
        self._run = run
        self._book = book
        self.jobs: list[Job] = []
        self.dead: list[Dead] = []
        self.stamps: dict[int, int] = {}
        asked = [_identity(item.record) for item in items if isinstance(item.record, Media)]
        self._counted = dict(memory.recall(list(dict.fromkeys(asked)))) if asked else {}

    def add(self, item: Item, media: Media, time: int, retimed: bool) -> None:
        """A media record.

        Args:
            item: for the account.
            media: its record.
            time: in milliseconds.
            retimed: that is not its own.
        """
        number = self._count(media)
        title, series = self._book.place(media.name)
        in_steps = INT64_MIN <= media.step <= INT64_MAX
        if in_steps and media.kind in (*_SAMPLES, "figure"):
            numbered = self._book.numbered(title, series, number)
            self._add_sample(item, media, title, numbered, time).rerouted = retimed or number > 1
            return
        plot: Mapping[str, Any] | None = None
        if in_steps and (draw := _DRAWN.get(media.kind)) is not None:
            numbered = self._book.numbered(title, series, number)
            try:
                plot = self._draw(draw, media, title, numbered)
            except OSError as error:
                self.dead.append(Dead(item, f"its content is not in the collector's store any more: {error.filename}"))
                return
        event = None
        if plot is not None:
            event = Event(
                None, PLOT, title, numbered, media.step, time, {"plot_str": json.dumps(plot, allow_nan=False)}
            )
            if media.kind in _WHOLE:
                self.jobs.append(Job(item, event=event, rerouted=retimed or number > 1))
                return
        job = self._artifact(item, _media_key(media, number), media.content, media.media_type, time)
        job.event = event
        job.rerouted = not in_steps or (media.kind in _DRAWN and plot is None)

    def add_artifact(self, item: Item, artifact: Artifact, time: int) -> None:
        """An artifact."""
        self._artifact(item, artifact_key(artifact.path), artifact.content, artifact.media_type, time)

    def add_rows(self, path: str, content: bytes) -> None:
        """A file that is no record."""
        self._artifact(None, f"{OWN_PREFIX}{path}", content, "application/jsonl", 0)

    def _add_sample(self, item: Item, media: Media, title: str, series: str, time: int) -> Job:
        name = f"{file_name(f'{title}_{series}')}_{media.step:08d}.{file_ending(media.media_type)}"
        folder = "plots" if media.kind == "figure" else "metrics"
        path = f"{folder}/{file_name(title)}/{file_name(series)}/{name}"
        event = Event(None, PLOT if media.kind == "figure" else IMAGE, title, series, media.step, time, {})
        job = Job(item, PlannedFile(media.content, path, media.media_type), event)
        if media.kind == "figure":
            sides = (_side(media, "width"), _side(media, "height"))
            job.drawn = functools.partial(plots.figure, title=title, series=series, width=sides[0], height=sides[1])
        self.jobs.append(job)
        return job

    def _artifact(self, item: Item | None, key: str, content: bytes | BlobRef, media_type: str, time: int) -> Job:
        job = Job(item, PlannedFile(content, _artifact_file(key), media_type), artifact=key, time=time // 1000)
        self.jobs.append(job)
        return job

    def _draw(
        self, draw: Callable[[bytes, str, str], Mapping[str, Any]], media: Media, title: str, series: str
    ) -> Mapping[str, Any] | None:
        """The plot of a record; None when it is not what its kind says, or too large."""
        size = len(media.content) if isinstance(media.content, bytes) else media.content.size
        if size > (_LONGEST_PLOT if media.kind in _WHOLE else _LONGEST_READ):
            return None
        try:
            return draw(self._run.read(media.content), title, series)
        except (ValueError, Gone):
            return None

    def _count(self, media: Media) -> int:
        identity = _identity(media)
        number = self._counted.get(identity, 0) + 1
        self._counted[identity] = self.stamps[identity] = number
        return number


def _identity(media: Media) -> int:
    """A hash of what ClearML tells media apart by: samples, plots and files are different places."""
    place = "sample" if media.kind in _SAMPLES else "plot" if media.kind in (*_DRAWN, "figure") else media.kind
    raw = f"{place}\0{media.name}\0{media.step}".encode("utf-8", "surrogatepass")
    return memory_key(raw, b"media")


def _media_key(media: Media, number: int) -> str:
    again = f"_{number}" if number > 1 else ""
    ending = file_ending(media.media_type)
    return f"{OWN_PREFIX}{file_name(media.kind)}/{fit_name(media.name)}/step_{media.step}{again}.{ending}"


def _artifact_file(key: str) -> str:
    """Where an artifact's file is: in a folder that no other key has."""
    mark = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return f"artifacts/{mark}/{file_name(key.rpartition('/')[2])}"


def _side(media: Media, name: str) -> float:
    value = media.metadata.get(name, 0)
    return float(value) if isinstance(value, (int, float)) and value > 0 else 0.0
