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
    a histogram               its JSON as an artifact, and metrics: `<key>/mean`, `/std`, `/min`, `/max`, `/p5`, `/p50`, `/p95`
    other media, artifacts    files: see `mlflow_media`

Numbers go first, files after them, the run's end last: a slow upload holds up no number that came with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from mlflow import MlflowClient
from mlflow.entities import Experiment, ViewType
from mlflow.exceptions import MlflowException

from tracelet_collector.exporters.base import Dead, Item, Memory, Outcome, Paused, Run
from tracelet_collector.exporters.metadata import fit
from tracelet_collector.exporters.mlflow_errors import hide_password, is_gone, translated
from tracelet_collector.exporters.mlflow_media import listed, place, renamed
from tracelet_collector.exporters.mlflow_plan import MAX_KEY, MAX_TAG, Plan
from tracelet_collector.exporters.mlflow_run import MAX_METRICS, TrackedRun, deleted
from tracelet_collector.exporters.mlflow_target import Targets
from tracelet_collector.exporters.names import sanitise

__all__ = ["MlflowExporter"]

_RUN_TAG: Final = "tracelet.run_id"
_PARENT_TAG: Final = "tracelet.parent"
_MLFLOW_PARENT_TAG: Final = "mlflow.parentRunId"
# Of the state: what MLflow has no part in.
_OWN_WORDS: Final = ("labels", "dropped", "rows", "rows_since", "row_files")
_PARENT_EVERY: Final = 10.0  # seconds between two looks for a parent that is not there yet


class MlflowExporter:
    """The exporter of kind `mlflow`; see `exporters.base` for what that means."""

    kind: ClassVar[str] = "mlflow"
    batch_points: ClassVar[int] = MAX_METRICS

    def __init__(self) -> None:
        self._targets = Targets()
        self._looked_for_parent: dict[str, float] = {}

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Deliver records of one run; see `Exporter.export`."""
        with translated(run.target):
            client = self._targets.client(run.target)
            try:
                outcome = self._deliver(client, run, items, state, memory)
            except MlflowException as error:
                self._targets.check(run.target)
                if not (state.get("run") and is_gone(error)):
                    raise
                # Somebody removed the run, or began a new store: what the state says of MLflow is void.
                kept = {name: state[name] for name in _OWN_WORDS if name in state}
                outcome = self._deliver(client, run, items, kept, memory)
            self._targets.check(run.target)
            return outcome

    @property
    def holds(self) -> bool:
        """Nothing: MLflow has what was written."""
        return False

    def close(self) -> None:
        """Let go of the targets."""
        self._targets.close()

    def _deliver(
        self, client: MlflowClient, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory
    ) -> Outcome:
        known = state.get("run")
        tracked = TrackedRun(client, run, known or _find_or_create(client, run))
        if not known:
            _adopt_children(client, run, tracked.id)
        link = state.get("link") or _link(run.target, client.get_run(tracked.id).info)
        plan = Plan.make(items, {**state, "run": tracked.id, "link": link}, run)
        self._look_for_parent(client, run, plan)
        stamps = plan.stamp(memory) | place(plan.files, tracked.id, memory)
        plan.tags |= renamed(plan.files) | listed(plan.files, plan.state, MAX_TAG)
        if plan.params:
            tracked.log_params(plan)
        tracked.set_tags(plan.tags)
        refused = tracked.log_points(plan.points, plan.beside)
        lost = tracked.log_files(plan.files, memory)
        if plan.end is not None:
            tracked.end(plan.end)
        stored = [point for point in plan.points if id(point) not in refused]
        files = [file.item for file in plan.files if file.item is not None and id(file) not in lost]
        rerouted = sum(point.rerouted for point in stored)
        dead = [Dead(point.item, error) for point, error in refused.values()]
        dead += [Dead(file.item, error) for file, error in lost.values() if file.item is not None]
        return Outcome(
            delivered=len(stored) - rerouted + len(files),
            rerouted=rerouted,
            dead=plan.dead + dead,
            state=plan.state,
            stamps=stamps,
        )

    def _look_for_parent(self, client: MlflowClient, run: Run, plan: Plan) -> None:
        """Tell MLflow of the parent, once it is there; before that, look for it now and then, and when the run ends."""
        if run.parent in ("", run.run_id) or plan.state.get("parent"):
            return
        now = time.monotonic()
        if now < self._looked_for_parent.get(run.run_id, 0.0) + _PARENT_EVERY and plan.end is None:
            return
        self._looked_for_parent[run.run_id] = now
        if found := _search(client, _RUN_TAG, run.parent):
            plan.state["parent"] = plan.tags[_MLFLOW_PARENT_TAG] = str(found[0].info.run_id)
            del self._looked_for_parent[run.run_id]


def _adopt_children(client: MlflowClient, run: Run, tracked: str) -> None:
    """Runs that came before this one, their parent, did not find it."""
    for child in _search(client, _PARENT_TAG, run.run_id):
        if child.info.run_id != tracked and child.data.tags.get(_MLFLOW_PARENT_TAG) != tracked:
            client.set_tag(child.info.run_id, _MLFLOW_PARENT_TAG, tracked)


def _search(client: MlflowClient, tag: str, run_id: str) -> Sequence[Any]:
    """Runs of any experiment that have a run's id in a tag."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: Sequence[Any] = client.search_runs(experiments, _tagged(tag, run_id), order_by=["attributes.start_time ASC"])
    return found


def _tagged(tag: str, run_id: str) -> str:
    """A filter for runs with a run's id in a tag."""
    return f"tags.\"{tag}\" = '{_mark(run_id)}'"


def _mark(run_id: str) -> str:
    """A run's id as a tag's value. A filter has no escapes: one that is not plain is sanitised."""
    return sanitise(run_id, MAX_KEY)


def _find_or_create(client: MlflowClient, run: Run) -> str:
    """MLflow's id of the run: found by our tag, else made. The id is MLflow's to choose, and names are not unique."""
    experiment = _experiment(client, run)
    found = client.search_runs(
        [experiment.experiment_id],
        _tagged(_RUN_TAG, run.run_id),
        run_view_type=ViewType.ALL,
        order_by=["attributes.start_time ASC"],
    )
    active = [candidate for candidate in found if candidate.info.lifecycle_stage == "active"]
    if active:
        return str(active[0].info.run_id)
    if found:
        raise Paused(deleted(run, found[0].info.run_id))
    made = client.create_run(
        experiment.experiment_id,
        start_time=max(1, round(run.created * 1000)),
        tags={_RUN_TAG: _mark(run.run_id)},
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


def _link(target: str, info: Any) -> str:
    """Where a run is: its page on a tracking server; for a store, where it would be on one that serves it."""
    slash = "/" if target.startswith(("http://", "https://")) else ""
    return f"{target.rstrip('/')}{slash}#/experiments/{info.experiment_id}/runs/{info.run_id}"
