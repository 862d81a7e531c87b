"""The records of a run: the one currency of the house.

A record is born on the sender thread (or when somebody reads a spool or the log), never in the user's call. Everything
behind the spool (processors, wire, log, exporters) speaks of these classes and of nothing else.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

__all__ = [
    "FACTS",
    "INLINE_BYTES",
    "POINTS",
    "Artifact",
    "BlobRef",
    "Gap",
    "Media",
    "MetaValue",
    "Metric",
    "MetricType",
    "Params",
    "Point",
    "Record",
    "RunEnd",
    "RunStatus",
    "Tags",
    "WriterSeen",
    "infer_type",
]

# Tags that say what a run was, and that tracelet finds out by itself. No words to sort runs by: where a tracker has only such
# words for tags, these are kept in another place.
FACTS: Final = frozenset(
    {"command", "cpu", "git.branch", "git.commit", "git.dirty", "git.repository", "gpu", "host.name", "os"}
    | {"python.version", "script", "user.name"}
)

MetaValue: TypeAlias = "str | float | int | bool"

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INLINE_BYTES = 16 * 1024  # content up to this size travels in its record; what is larger is a blob


class MetricType(str, enum.Enum):
    """What a metric is about. A word that is not in this list is kept as it is, as a custom type."""

    SCALAR = "scalar"
    LOSS = "loss"
    ACCURACY = "accuracy"
    LEARNING_RATE = "learning_rate"
    GRADIENT = "gradient"
    FITNESS = "fitness"
    DIVERSITY = "diversity"
    SYSTEM = "system"
    HISTOGRAM = "histogram"
    IMAGE = "image"
    FIGURE = "figure"
    TEXT = "text"
    AUDIO = "audio"
    VIDEO = "video"
    MESH = "mesh"
    EMBEDDING = "embedding"
    PR_CURVE = "pr_curve"
    GRAPH = "graph"
    LAYOUT = "layout"
    HPARAMS = "hparams"
    TABLE = "table"

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def word(given: MetricType | str) -> str:
        """The type as it is stored: a member's value, or the user's own word.

        Raises:
            TypeError: `given` is neither a `MetricType` nor a string.
            ValueError: `given` is empty.
        """
        if not isinstance(given, str):
            raise TypeError(f"metric_type must be a MetricType or a str, not {type(given).__name__}")
        word = given.value if isinstance(given, MetricType) else given.strip()
        if not word:
            raise ValueError("metric_type is empty; leave it out for a plain scalar")
        return word


# Ordered: the first that matches a whole word of the tag wins.
_INFERENCE: tuple[tuple[MetricType, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(rf"(?:^|[^a-z])(?:{words})(?:$|[^a-z])"))
    for kind, words in (
        (MetricType.LEARNING_RATE, "lr|learning[ _-]?rate"),
        (MetricType.GRADIENT, "grad|grads|gradient|gradients|grad[ _-]norm"),
        (MetricType.FITNESS, "fitness"),
        (MetricType.DIVERSITY, "diversity"),
        (MetricType.ACCURACY, "acc|accuracy|top[ _-]?[15]"),
        (MetricType.LOSS, "loss|losses"),
        (MetricType.SYSTEM, "cpu|gpu|memory"),
    )
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def infer_type(tag: str) -> MetricType:
    """The type that a tag suggests: `train/loss` is a loss, `lr-Adam` a learning rate, `foo` a scalar."""
    words = _CAMEL.sub("_", tag).lower()
    for kind, pattern in _INFERENCE:
        if pattern.search(words):
            return kind
    return MetricType.SCALAR


class RunStatus(str, enum.Enum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Metric:
    """One point.

    Attributes:
        name: The metric's name in the run: the user's tag, behind the writer's label where there is one.
        value: The float64 that the user passed.
        step: The user's step, never rewritten; any integer.
        wall_time: Seconds since the epoch, by the user's `walltime` argument or the clock.
        type: A `MetricType` value, or a word of the user's own.
        metadata: What came with the point.
        tag: The user's tag, verbatim.
        log_dir: The SummaryWriter's directory, or empty.
        step_implied: The call named no step; it was counted per name.
        type_inferred: The type was guessed from the tag.
    """

    name: str
    value: float
    step: int
    wall_time: float
    type: str = MetricType.SCALAR.value
    metadata: Mapping[str, MetaValue] = field(default_factory=dict)
    tag: str = ""
    log_dir: str = ""
    step_implied: bool = False
    type_inferred: bool = False


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Content that is kept outside the records, once, under its hash.

    Attributes:
        sha256: 64 hex digits.
        size: bytes.
        media_type: what it is: `image/png`, ….
    """

    sha256: str
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Media:
    """Something at a step that is not a number: an image, a histogram, a text, ….

    The content is in the form that TensorBoard made of it, by kind:

        image, figure   PNG                       histogram   JSON of min, max, num, sum, sum_squares, bucket_limit, bucket
        text            UTF-8, Markdown           pr_curve    JSON of thresholds, tp, fp, tn, fn, precision, recall
        audio           WAV                       mesh        npz of vertices (B, N, 3), colors, faces
        video           GIF                       embedding   zip of tensors.tsv, metadata.tsv, sprite.png
        graph           GraphDef as text          layout      JSON of TensorBoard's custom scalars layout
        table           JSON of columns, data

    Attributes:
        name: The metric's name in the run: the user's tag, behind the writer's label where there is one.
        kind: A `MetricType` value.
        content: The bytes (at most `INLINE_BYTES`), or where they are.
        media_type: What the content is: `image/png`, ….
        step: The user's step, never rewritten; any integer.
        wall_time: Seconds since the epoch.
        metadata: What belongs to it: `width`, `height`, `sample_rate`, ….
        tag: The user's tag, verbatim.
        log_dir: The SummaryWriter's directory, or empty.
        step_implied: The call named no step; it was counted per name.
    """

    name: str
    kind: str
    content: bytes | BlobRef
    media_type: str
    step: int
    wall_time: float
    metadata: Mapping[str, MetaValue] = field(default_factory=dict)
    tag: str = ""
    log_dir: str = ""
    step_implied: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the run.

    Attributes:
        path: Where it is in the run: relative, with `/`, without `..`. Another one with the same path takes its place.
        content: The bytes (at most `INLINE_BYTES`), or where they are.
        media_type: What the content is; empty when nobody knows.
        wall_time: Seconds since the epoch.
        metadata: What belongs to it.
    """

    path: str
    content: bytes | BlobRef
    media_type: str
    wall_time: float
    metadata: Mapping[str, MetaValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of the run: constants that were chosen before it."""

    values: Mapping[str, MetaValue]
    wall_time: float


@dataclass(frozen=True, slots=True)
class Tags:
    """Tags of the run: words that may change."""

    values: Mapping[str, str]
    wall_time: float


@dataclass(frozen=True, slots=True)
class WriterSeen:
    """A SummaryWriter was given its label (empty: its metrics carry none)."""

    log_dir: str
    label: str


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The run's end, as the process that began it said, or as the collector found."""

    status: RunStatus
    reason: str
    wall_time: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Points that are missing, counted: refused for want of room, or in a damaged part of a spool."""

    dropped: int
    reason: str
    since: float
    until: float


Record: TypeAlias = "Metric | Media | Artifact | Params | Tags | WriterSeen | RunEnd | Gap"
Point: TypeAlias = "Metric | Media | Artifact"
POINTS = (
    Metric,
    Media,
    Artifact,
)  # what the accounting counts: durable = delivered + collapsed + rerouted + dead + lag
