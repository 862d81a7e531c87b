"""One run in MLflow, written to in batches: a batch that is refused is halved until what MLflow does not want stands alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tracelet.core.metrics import RunEnd, RunStatus
from tracelet_collector.exporters.base import Memory, Paused, Run
from tracelet_collector.exporters.metadata import fit
from tracelet_collector.exporters.mlflow_errors import hide_password, is_refusal
from tracelet_collector.exporters.mlflow_files import log_files
from tracelet_collector.exporters.mlflow_media import PlannedFile
from tracelet_collector.exporters.mlflow_plan import MAX_TAG, Beside, Plan, PlannedPoint

__all__ = ["MAX_METRICS", "TrackedRun", "deleted"]

MAX_METRICS: Final = 1000  # of one call
_MAX_OTHERS: Final = 100
_MAX_BYTES: Final = 900_000  # of one request: a server takes 1 MB
_STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.RUNNING: "RUNNING",
    RunStatus.FINISHED: "FINISHED",
    RunStatus.FAILED: "FAILED",
    RunStatus.KILLED: "KILLED",
}
_T = TypeVar("_T")


def deleted(run: Run, tracked: str) -> str:
    """What to do about a run that somebody deleted."""
    return (
        f"the MLflow run of {run.name!r} is deleted. Restore it:  MLFLOW_TRACKING_URI={hide_password(run.target)} "
        f"mlflow runs restore --run-id {tracked}"
    )


class TrackedRun:
    """A run in MLflow, for one call of `export`."""

    def __init__(self, client: MlflowClient, run: Run, tracked: str) -> None:
        self.id = tracked
        self._client = client
        self._run = run
        self._known_active = False

    def log_points(
        self, points: Iterable[PlannedPoint], beside: Iterable[Beside]
    ) -> dict[int, tuple[PlannedPoint, str]]:
        """Log points, the numeric metadata beside them, and the numbers of histograms.

        Returns:
            By `id` of the point: what MLflow refused, and its words.
        """
        refused = _send_all(
            list(_metrics(points, beside)),
            lambda some: self._log_batch(metrics=[metric for metric, _ in some]),
            MAX_METRICS,
            lambda entry: _json_size(entry[0].key) + 110,
        )
        dead: dict[int, tuple[PlannedPoint, str]] = {}
        for (metric, point), error in refused:
            if point is None:
                self._say(f"MLflow refused {metric.key!r} = {metric.value}: {error}")
            else:
                dead[id(point)] = point, error
        return dead

    def log_params(self, plan: Plan) -> None:
        """Log params that are new. One that has another value already cannot change: a tag gets the new value."""
        data = self._client.get_run(self.id).data
        known, tags = dict(data.params), {**data.tags, **plan.tags}
        fresh: dict[str, str] = {}
        for param in plan.params:
            tag = f"param.{param.key}"
            if param.key not in known:
                known[param.key] = fresh[param.key] = param.value
            elif known[param.key] != param.value or tag in tags:
                tags[tag] = plan.tags[tag] = fit(param.value, MAX_TAG)
        refused = _send_all(
            [Param(key, value) for key, value in fresh.items()],
            lambda some: self._log_batch(params=some),
            _MAX_OTHERS,
            lambda param: _json_size(param.key) + _json_size(param.value) + 40,
        )
        for late, _ in refused:  # somebody else logged another value meanwhile
            plan.tags[f"param.{late.key}"] = fit(late.value, MAX_TAG)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        refused = _send_all(
            [RunTag(key, value) for key, value in tags.items()],
            lambda some: self._log_batch(tags=some),
            _MAX_OTHERS,
            lambda tag: _json_size(tag.key) + _json_size(tag.value) + 40,
        )
        for tag, error in refused:
            self._say(f"MLflow refused the tag {tag.key!r}: {error}")

    def log_files(self, files: Sequence[PlannedFile], memory: Memory) -> dict[int, tuple[PlannedFile, str]]:
        """Log media and artifacts.

        Returns:
            By `id` of the file: what cannot be stored, and why.
        """
        refused = log_files(self._client, self._run, self.id, files, memory) if files else {}
        for file, error in refused.values():
            if file.item is None:
                self._say(f"MLflow refused {file.path}: {error}")
        return refused

    def end(self, end: RunEnd) -> None:
        """Set the status, and the time at which it came about."""
        status = _STATUS[end.status]
        if end.status is RunStatus.RUNNING:
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status, max(1, round(end.wall_time * 1000)))

    def _log_batch(
        self, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        try:
            self._client.log_batch(self.id, metrics=metrics, params=params, tags=tags, synchronous=True)
        except MlflowException as error:
            if is_refusal(error) and not self._known_active:  # MLflow says it of a deleted run, too
                if self._client.get_run(self.id).info.lifecycle_stage != "active":
                    raise Paused(deleted(self._run, self.id)) from error
                self._known_active = True
            raise

    def _say(self, what: str) -> None:
        print(f"run {self._run.run_id}: {what}", file=sys.stderr, flush=True)  # noqa: T201 -- the worker's log


def _metrics(points: Iterable[PlannedPoint], beside: Iterable[Beside]) -> Iterator[tuple[Metric, PlannedPoint | None]]:
    for point in points:
        yield Metric(point.key, point.value, point.timestamp, point.step), point
        for key, value in point.extras:
            yield Metric(key, value, point.timestamp, point.step), None
    for number in beside:
        yield Metric(number.key, number.value, number.timestamp, number.step), None


def _send_all(
    entries: Sequence[_T], send: Callable[[Sequence[_T]], None], most: int, size: Callable[[_T], int]
) -> list[tuple[_T, str]]:
    """Send entries in batches, and halve a batch that is refused until what MLflow does not want stands alone.

    A call stores all of its entries or none.

    Args:
        entries: in order.
        send: one call.
        most: entries of one call.
        size: bytes of an entry in a request.

    Returns:
        What was refused, and MLflow's words.
    """
    refused: list[tuple[_T, str]] = []
    waiting = list(_batches(entries, most, size))[::-1]
    while waiting:
        some = waiting.pop()
        try:
            send(some)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            if len(some) == 1:
                refused.append((some[0], fit(str(error).partition("\n")[0], 400)))
            else:
                half = len(some) // 2
                waiting += [some[half:], some[:half]]
    return refused


def _batches(entries: Sequence[_T], most: int, size: Callable[[_T], int]) -> Iterator[Sequence[_T]]:
    start = total = 0
    for at, entry in enumerate(entries):
        weight = size(entry)
        if at > start and (at - start >= most or total + weight > _MAX_BYTES):
            yield entries[start:at]
            start, total = at, 0
        total += weight
    if start < len(entries):
        yield entries[start:]


def _json_size(text: str) -> int:
    return len(text) if text.isascii() and text.isprintable() else len(json.dumps(text))
