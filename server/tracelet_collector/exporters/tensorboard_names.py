"""Where a record goes in TensorBoard: the folder of its writer, and a tag that no other kind of data has there.

TensorBoard tells runs apart by folders, and takes the first event of a tag for the kind of all of them: an image under a tag of
scalars would not be shown, or break the page of scalars. So a tag belongs to the plugin that had it first, and another one's
data get the plugin's name behind the tag. Tags are given in the log's order and remembered: given again, they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from tracelet.core.metrics import Media, Metric
from tracelet_collector.exporters.artifact_paths import clean_path, within
from tracelet_collector.exporters.base import Memory, Run
from tracelet_collector.exporters.names import memory_key

__all__ = ["PARTS", "PLUGIN_OF", "TagBook", "component", "folder_of_label", "folder_of_run", "mark", "split"]

_MAX_NAME: Final = 80  # bytes of a run's name; its id has up to 128, a folder's name up to 255
_MAX_PART: Final = 120
# What else is in a run's folder.
_OURS: Final = frozenset({"artifacts", "media", "embeddings", "run.json", "metadata.jsonl", "projector_config.pbtxt"})
# TensorBoard takes whatever has this in its name for an event file, folders too.
_EVENTS: Final = "tfevents"
# Tags that the plugins of hyperparameters, graphs and layouts look for, whatever is in them.
_RESERVED: Final = frozenset(
    {f"_hparams_/{name}" for name in ("experiment", "session_start_info", "session_end_info")}
    | {"__graph__", "__run_graph__", "custom_scalars__config__"}
)

# By kind ("" for a point), the plugin that a tag then belongs to. Graphs, layouts and embeddings have no tag.
PLUGIN_OF: Final[Mapping[str, str]] = {
    "": "scalars",
    "image": "images",
    "figure": "images",
    "video": "images",
    "histogram": "histograms",
    "audio": "audio",
    "text": "text",
    "table": "text",
    "pr_curve": "pr_curves",
    "mesh": "mesh",
}
# What the plugin puts behind a tag.
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("/text_summary",),
    "mesh": ("_VERTEX", "_FACE", "_COLOR"),
}
# What stands for a plugin in the memory: for ever.
_NUMBERS: Final[Mapping[str, int]] = {
    "scalars": 1,
    "images": 2,
    "histograms": 3,
    "audio": 4,
    "text": 5,
    "pr_curves": 6,
    "mesh": 7,
}


def folder_of_run(run: Run) -> str:
    """`<project>/<name>-<id>`, whatever these are made of."""
    name, own = within(_plain(run.name), _MAX_NAME), component(run.run_id)
    folder = own if name in ("", run.run_id) else f"{name}-{own}"
    return f"{component(run.project or 'default')}/{folder if folder.strip('.') else f'_{folder}'}"


def folder_of_label(label: str) -> str:
    """The folder of a writer below that of the run; the run's own for a writer without a label."""
    return "/".join(map(component, label.split("/"))) if label else ""


def component(text: str) -> str:
    """The text itself where it can be a folder's name; else the nearest one, with a hash that keeps it apart."""
    plain = within(_plain(text), _MAX_PART)
    if plain == text and text and plain not in _OURS and not plain.startswith("."):
        return plain
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{plain.lstrip('.')}-{digest}"


def _plain(text: str) -> str:
    return clean_path(text.replace("/", "_").replace(_EVENTS, "tf_events")).strip() if text else ""


def split(record: Metric | Media) -> tuple[str, str]:
    """The label of the record's writer, and its tag. A name that is no label and tag is a tag."""
    if record.log_dir and record.tag and record.name.endswith(f"/{record.tag}"):
        return record.name.removesuffix(f"/{record.tag}"), record.tag
    return "", record.name


def mark(*words: str) -> int:
    """What a run's memory keeps something under."""
    raw = "\0".join(words).encode("utf-8", "surrogatepass")
    return memory_key(raw)


class TagBook:
    """Which plugin a tag belongs to, in each folder of one run.

    Args:
        memory: the run's.

    Attributes:
        stamps: entries to be added to the memory.
    """

    def __init__(self, memory: Memory) -> None:
        self.stamps: dict[int, int] = {}
        self._memory = memory
        self._known: dict[int, int] = {}
        self._given: dict[tuple[str, str, str], str] = {}

    def look_up(self, keys: Iterable[int]) -> None:
        """Ask the memory for many entries at once."""
        asked = [key for key in keys if key not in self._known]
        if asked:
            self._known |= {**dict.fromkeys(asked, 0), **self._memory.recall(asked)}

    def tag(self, folder: str, wanted: str, plugin: str) -> str:
        """The tag under which data of a plugin go.

        Args:
            folder: of the writer.
            wanted: the tag that they should have.
            plugin: whose they are.
        """
        place = folder, wanted, plugin
        given = self._given.get(place)
        if given is None:
            given = self._given[place] = self._claimed(folder, wanted, plugin)
        return given

    def _claimed(self, folder: str, wanted: str, plugin: str) -> str:
        number, parts = _NUMBERS[plugin], PARTS.get(plugin, ("",))
        digest = hashlib.blake2b(f"{plugin}\0{wanted}".encode(), digest_size=16).hexdigest()
        tag = wanted
        for candidate in (wanted, f"{wanted} ({plugin})", *(f"{wanted} ({plugin} {digest[:n]})" for n in (4, 32))):
            tag = candidate
            keys = [mark("tag", folder, candidate + part) for part in parts]
            self.look_up(keys)
            owners = {self.recall(key) for key in keys} - {0, number}
            if not owners and candidate not in _RESERVED:
                break
        for part in parts:
            self.remember(mark("tag", folder, tag + part), number)
        return tag

    def recall(self, key: int) -> int:
        """What is remembered under a key; 0 for nothing."""
        return self.stamps.get(key) or self._known.get(key, 0)

    def remember(self, key: int, value: int) -> None:
        """Keep a number; what is kept already costs nothing."""
        if self.recall(key) != value:
            self.stamps[key] = value
