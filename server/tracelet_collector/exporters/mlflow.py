"""Delivers runs to MLflow: a SQLite store, another database, or a tracking server.

Only `MlflowClient` is used, never the fluent API, whose active run and tracking URI belong to a whole process. What a call
writes it writes again when it is repeated, and MLflow keeps one of two equal points (same key, step, value, millisecond) and
the last of a tag: so a chunk that is delivered twice leaves no duplicate.

What MLflow cannot hold as it is:

    ±inf                      ±1.797e308, with the tag `tracelet.metric.<key>.infinite`; counted as rerouted
    a time before 1970 or     the nearest millisecond of these years (0 when it is no number), with the tag
      after 9999              `tracelet.metric.<key>.retimed`; counted as rerouted
    -0.0                      0.0 in SQLite, which is equal
    a step outside int64      a dead letter
    a name it refuses         a key that it takes; the name in the tag `tracelet.metric.<key>.name`
    a param that changes      the first value as param, the last one as the tag `param.<key>`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunInfo, RunTag, ViewType
from mlflow.exceptions import MlflowException

from tracelet.core.metrics import RunEnd, RunStatus
from tracelet_collector.exporters.base import Dead, Item, Memory, Outcome, Paused, Run
from tracelet_collector.exporters.mlflow_errors import hide_password, is_gone, is_refusal, translated
from tracelet_collector.exporters.mlflow_plan import MAX_KEY, MAX_TAG, Plan, PlannedPoint, fit
from tracelet_collector.exporters.mlflow_target import Targets
from tracelet_collector.exporters.names import sanitise

__all__ = ["MlflowExporter"]

_MAX_METRICS: Final = 1000
_MAX_OTHERS: Final = 100
_MAX_BYTES: Final = 900_000  # of one request: a server takes 1 MB
_RUN_TAG: Final = "tracelet.run_id"
_STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.RUNNING: "RUNNING",
    RunStatus.FINISHED: "FINISHED",
    RunStatus.FAILED: "FAILED",
    RunStatus.KILLED: "KILLED",
}
_T = TypeVar("_T")


class MlflowExporter:
    """The exporter of kind `mlflow`; see `exporters.base` for what that means."""

    kind: ClassVar[str] = "mlflow"
    batch_points: ClassVar[int] = _MAX_METRICS

    def __init__(self) -> None:
        self._targets = Targets()

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Deliver records of one run; see `Exporter.export`."""
        with translated(run.target):
            client = self._targets.client(run.target)
            try:
                outcome = _deliver(client, run, items, state, memory)
            except MlflowException as error:
                self._targets.check(run.target)
                if not (state.get("run") and is_gone(error)):
                    raise
                # Somebody removed the run, or began a new store: what the state says of MLflow is void.
                kept = {name: state[name] for name in ("labels", "dropped") if name in state}
                outcome = _deliver(client, run, items, kept, memory)
            self._targets.check(run.target)
            return outcome

    def close(self) -> None:
        """Let go of the targets."""
        self._targets.close()


def _deliver(
    client: MlflowClient, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory
) -> Outcome:
    tracked = _TrackedRun(client, run, state.get("run") or _find_or_create(client, run))
    link = state.get("link") or _link(run.target, client.get_run(tracked.id).info)
    plan = Plan.make(items, {**state, "run": tracked.id, "link": link})
    stamps = plan.stamp(memory)
    if plan.params:
        tracked.log_params(plan)
    tracked.set_tags(plan.tags)
    refused = tracked.log_points(plan.points)
    if plan.end is not None:
        tracked.end(plan.end)
    stored = [point for point in plan.points if id(point) not in refused]
    rerouted = sum(point.rerouted for point in stored)
    return Outcome(
        delivered=len(stored) - rerouted,
        rerouted=rerouted,
        dead=plan.dead + [Dead(point.item, error) for point, error in refused.values()],
        state=plan.state,
        stamps=stamps,
    )


def _find_or_create(client: MlflowClient, run: Run) -> str:
    """MLflow's id of the run: found by our tag, else made. The id is MLflow's to choose, and names are not unique."""
    experiment = _experiment(client, run)
    # A filter has no escapes: an id that is not plain has its sanitised form as the tag's value.
    mark = sanitise(run.run_id, MAX_KEY)
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.\"{_RUN_TAG}\" = '{mark}'",
        run_view_type=ViewType.ALL,
        order_by=["attributes.start_time ASC"],
    )
    active = [candidate for candidate in found if candidate.info.lifecycle_stage == "active"]
    if active:
        return str(active[0].info.run_id)
    if found:
        raise Paused(_deleted(run, found[0].info.run_id))
    made = client.create_run(
        experiment.experiment_id,
        start_time=max(1, round(run.created * 1000)),
        tags={_RUN_TAG: mark},
        run_name=fit(run.name, MAX_KEY) or run.run_id,
    )
    return str(made.info.run_id)


def _experiment(client: MlflowClient, run: Run) -> Experiment:
    name = run.project if len(run.project) <= MAX_KEY else sanitise(run.project, MAX_KEY)
    name = name or "Default"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        number = "" if experiment is None else experiment.experiment_id
        raise Paused(
            f"the MLflow experiment {name!r} is deleted. Restore it:  MLFLOW_TRACKING_URI={hide_password(run.target)} "
            f"mlflow experiments restore --experiment-id {number}"
        )
    return experiment


def _link(target: str, info: RunInfo) -> str:
    """Where a run is: its page on a tracking server; for a store, where it would be on one that serves it."""
    slash = "/" if target.startswith(("http://", "https://")) else ""
    return f"{target.rstrip('/')}{slash}#/experiments/{info.experiment_id}/runs/{info.run_id}"


def _deleted(run: Run, tracked: str) -> str:
    return (
        f"the MLflow run of {run.name!r} is deleted. Restore it:  MLFLOW_TRACKING_URI={hide_password(run.target)} "
        f"mlflow runs restore --run-id {tracked}"
    )


class _TrackedRun:
    """A run in MLflow, for one call of `export`."""

    def __init__(self, client: MlflowClient, run: Run, tracked: str) -> None:
        self.id = tracked
        self._client = client
        self._run = run
        self._known_active = False

    def log_points(self, points: Iterable[PlannedPoint]) -> dict[int, tuple[PlannedPoint, str]]:
        """Log points, and the numeric metadata beside them.

        Returns:
            By `id` of the point: what MLflow refused, and its words.
        """
        refused = _send_all(
            list(_metrics(points)),
            lambda some: self._log_batch(metrics=[metric for metric, _ in some]),
            _MAX_METRICS,
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
            self._client.log_batch(self.id, metrics=metrics, params=params, tags=tags)
        except MlflowException as error:
            if is_refusal(error) and not self._known_active:  # MLflow says it of a deleted run, too
                if self._client.get_run(self.id).info.lifecycle_stage != "active":
                    raise Paused(_deleted(self._run, self.id)) from error
                self._known_active = True
            raise

    def _say(self, what: str) -> None:
        print(f"run {self._run.run_id}: {what}", file=sys.stderr, flush=True)  # noqa: T201 -- the worker's log


def _metrics(points: Iterable[PlannedPoint]) -> Iterator[tuple[Metric, PlannedPoint | None]]:
    for point in points:
        yield Metric(point.key, point.value, point.timestamp, point.step), point
        for key, value in point.extras:
            yield Metric(key, value, point.timestamp, point.step), None


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
