"""What TensorBoard's own readers find in a folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

__all__ = ["TensorBoardFolder"]

_EVERYTHING = {
    kind: 0 for kind in ("scalars", "images", "audio", "histograms", "compressedHistograms", "tensors", "graph")
}


@dataclass(frozen=True)
class Point:
    """A scalar. `run` is the folder that TensorBoard calls a run."""

    run: str
    tag: str
    value: float
    step: int
    wall_time: float


@dataclass(frozen=True)
class TensorBoardFolder:
    """A folder of runs."""

    path: Path

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    def cards(self) -> list[dict[str, Any]]:
        """Every `run.json`."""
        return [json.loads(path.read_bytes()) for path in sorted(self.path.glob("*/*/run.json"))]

    def runs(self) -> list[Path]:
        """The folders of tracelet's runs."""
        return sorted(path.parent for path in self.path.glob("*/*/run.json"))

    def event_folders(self) -> list[Path]:
        """Folders that TensorBoard takes for runs."""
        return sorted({path.parent for path in self.path.rglob("*tfevents*") if path.is_file()})

    def accumulators(self) -> Iterator[tuple[str, EventAccumulator]]:
        """TensorBoard's reader of each folder."""
        for folder in self.event_folders():
            accumulator = EventAccumulator(str(folder), _EVERYTHING)
            accumulator.Reload()
            yield str(folder.relative_to(self.path)), accumulator

    def points(self) -> list[Point]:
        """Every scalar."""
        return [
            Point(run, tag, event.value, event.step, event.wall_time)
            for run, accumulator in self.accumulators()
            for tag in accumulator.Tags()["scalars"]
            for event in accumulator.Scalars(tag)
        ]

    def events(self) -> list[Any]:
        """Every event of every file, as it is written."""
        return [
            event
            for path in sorted(self.path.rglob("*tfevents*"))
            if path.is_file()
            for event in LegacyEventFileLoader(str(path)).Load()
        ]

    def media(self) -> Counter[str]:
        """How many there are in events and in the projector's files, by what shows them."""
        found: Counter[str] = Counter()
        for event in self.events():
            if event.graph_def:
                found["graph"] += 1
            for value in event.summary.value:
                form, plugin = value.WhichOneof("value"), value.metadata.plugin_data.plugin_name
                if form in ("image", "histo", "audio"):
                    found[form] += 1
                elif plugin != "mesh" or value.tag.endswith("_VERTEX"):
                    found[plugin] += form == "tensor"
        for path in self.path.rglob("projector_config.pbtxt"):
            config = text_format.Parse(path.read_text(), ProjectorConfig())
            for embedding in config.embeddings:
                assert (path.parent / embedding.tensor_path).is_file()
                found["embedding"] += 1
        del found["hparams"], found["scalars"]
        return +found

    def hparams(self) -> dict[str, Any]:
        """The hyperparameters of all runs."""
        said: dict[str, Any] = {}
        for event in self.events():
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    start = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
                    for name, given in start.hparams.items():
                        said[name] = getattr(given, given.WhichOneof("kind"))
        return said

    def files(self, below: str) -> dict[str, bytes]:
        """Content of the files of all runs in one of their folders."""
        return {
            str(path.relative_to(run / below)): path.read_bytes()
            for run in self.runs()
            for path in (run / below).rglob("*")
            if path.is_file()
        }

    def rows(self) -> list[dict[str, Any]]:
        """The rows of every `metadata.jsonl`."""
        return [
            json.loads(line)
            for path in sorted(self.path.rglob("metadata.jsonl"))
            for line in path.open(encoding="utf-8")
        ]
