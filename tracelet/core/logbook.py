"""What a script says of its run by itself: metrics, parameters, tags."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, SupportsFloat, SupportsIndex, TypeVar

from tracelet.core.metrics import MetaValue, MetricType
from tracelet.core.plan import RunPlan
from tracelet.core.recorder import Recorder
from tracelet.core.values import as_float, as_meta, as_step
from tracelet.guard import Guard

__all__ = ["Logbook", "Recording"]

_V = TypeVar("_V")

_RECORDING = Guard("recording a metric")
_PARAMETERS = Guard("recording parameters")
_TAGS = Guard("recording tags")


class Recording(ABC):
    """A run that records, as those see it who put records into it."""

    _recorder: Recorder | None

    @property
    @abstractmethod
    def active(self) -> bool:
        """It records: it is neither stopped nor disabled."""

    @abstractmethod
    def _begin(self) -> Recorder:
        """The recorder; where there is none yet, it is made."""

    @abstractmethod
    def _tell_not_recorded(self) -> None:
        """Say why a record is not taken."""


class Logbook(Recording):
    """The scalar part of an `Experiment`'s interface."""

    plan: RunPlan

    def log_metric(self, name: str, value: SupportsFloat, iteration: SupportsIndex | None = None) -> None:
        """Record a point.

        Args:
            name: the metric's name.
            value: a number: int, float, numpy scalar, or a tensor or array of one element.
            iteration: the step; 0 is step 0. Without one, points are counted per name, and flagged.
        """
        if not self.active:
            self._tell_not_recorded()
            return
        with _RECORDING:
            step = None if iteration is None else as_step(iteration)
            (self._recorder or self._begin()).scalar("", str(name), as_float(value), step, None)

    def log_enhanced(
        self,
        name: str,
        value: SupportsFloat,
        metric_type: MetricType | str,
        iteration: SupportsIndex | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a point with its type and metadata.

        Args:
            name: the metric's name.
            value: a number.
            metric_type: a `MetricType`, its string, or a word of your own.
            iteration: the step.
            metadata: what belongs to the point: numbers, strings, booleans; anything else as its `str`.
        """
        if not self.active:
            self._tell_not_recorded()
            return
        with _RECORDING:
            step = None if iteration is None else as_step(iteration)
            kind, meta = MetricType.word(metric_type), as_meta(metadata or {})
            (self._recorder or self._begin()).enhanced(str(name), as_float(value), kind, step, time.time(), meta)

    def record_point(
        self,
        name: str,
        value: float,
        kind: MetricType,
        step: int | None,
        wall_time: float,
        metadata: Mapping[str, MetaValue],
        log_dir: str = "",
    ) -> None:
        """Record a point as of some moment: for what was read from a device after that.

        Args:
            name: the metric's name.
            value: float64.
            kind: its type.
            step: None counts per name.
            wall_time: the moment, in seconds.
            metadata: what belongs to it.
            log_dir: whose name it is: empty for the script's own.
        """
        if self.active:
            recorder = self._recorder or self._begin()
            recorder.enhanced(name, value, kind.value, step, wall_time, metadata, log_dir)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters: constants of the run. One that changes later is kept as a tag where a tracker refuses it."""
        if not self.active:
            self._tell_not_recorded()
            return
        with _PARAMETERS:
            said = as_meta(params)
            self._told("params").update(dict.fromkeys(said))
            (self._recorder or self._begin()).params(said)

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str]) -> None:
        """Set tags: a mapping, or words (which get the value "true")."""
        if not self.active:
            self._tell_not_recorded()
            return
        with _TAGS:
            pairs = tags.items() if isinstance(tags, Mapping) else ((tag, "true") for tag in tags)
            said = {str(key): str(value) for key, value in pairs}
            self._told("tags").update(dict.fromkeys(said))
            (self._recorder or self._begin()).tags(said)

    # -- what tracelet found out by itself

    def found_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters that nobody logged. What the script has said itself, by whatever value, is left out."""
        if self.active and (said := _but_for(as_meta(params), self._told("params"))):
            (self._recorder or self._begin()).params(said)

    def found_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags that nobody set, likewise; nor those that the run was started with."""
        if self.active and (said := _but_for(tags, {**self.plan.tags, **self._told("tags")})):
            (self._recorder or self._begin()).tags(said)

    def _told(self, what: str) -> dict[str, Any]:
        """Names of parameters, or of tags, that the script has told."""
        told: dict[str, Any] = self.__dict__.setdefault(f"_told_{what}", {})
        return told


def _but_for(values: Mapping[str, _V], names: Mapping[str, Any]) -> dict[str, _V]:
    return {name: value for name, value in values.items() if name not in names}
