"""Delivers runs to ClearML: to a server, or into offline sessions.

What a call does it does again when it is repeated: the server keeps one event of a task, title, series and iteration; an
offline session is cut back to what was committed. So a chunk that is delivered twice leaves no duplicate.

What ClearML cannot hold as it is:

    a second value of one name     in a series of its own: `<series> #2`, …; counted as rerouted
      and step
    NaN, ±inf                      in the series `<series>.nonfinite`, as 0, 1 and -1; counted as rerouted
    beyond ±3.4028235e38           as that number: its index holds 32 bits; counted as rerouted
    a time before 1970 or after    the nearest millisecond of these years; counted as rerouted
      9999
    a step outside int64           a dead letter; media with such a step: an artifact
    names that it cannot tell      title and series of the later one with a hash: see `clearml_names`
      apart
    types, metadata, labels        the configuration objects `tracelet.metrics` and `tracelet.run`, and artifacts with rows

Numbers go first, files after them, the run's end last: a slow upload holds up no number that came with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from tracelet_collector.exporters.base import Dead, Gone, Item, Memory, Outcome, Paused, Run
from tracelet_collector.exporters.clearml_events import IMAGE, PLOT, Changes, Event, Job, Refused, Task, as_artifact
from tracelet_collector.exporters.clearml_http import Api, Denied
from tracelet_collector.exporters.clearml_offline import OFFLINE, SessionTask
from tracelet_collector.exporters.clearml_online import PARENT, find, open_task
from tracelet_collector.exporters.clearml_plan import Plan

__all__ = ["ClearmlExporter"]

_PARENT_EVERY: Final = 10.0  # seconds between two looks for a parent that is not there yet


class ClearmlExporter:
    """The exporter of kind `clearml`; see `exporters.base` for what that means."""

    kind: ClassVar[str] = "clearml"
    batch_points: ClassVar[int] = 2000

    def __init__(self) -> None:
        self._apis: dict[str, Api] = {}
        self._looked: dict[str, float] = {}
        self._looked_for_parent: dict[str, float] = {}

    def export(self, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory) -> Outcome:
        """Deliver records of one run; see `Exporter.export`."""
        if run.target.startswith(OFFLINE):
            return _deliver(SessionTask(run, state), Plan.make(items, state, run, memory), memory)
        api = self._apis.get(run.target)
        if api is None:
            api = self._apis[run.target] = Api(run.target)
        try:
            return self._deliver_to(api, run, items, state, memory)
        except Denied as error:
            raise Paused(f"ClearML at {run.target} refuses what tracelet asks of it: {error}") from error

    def _deliver_to(
        self, api: Api, run: Run, items: Sequence[Item], state: Mapping[str, Any], memory: Memory
    ) -> Outcome:
        task = open_task(api, run, state, self._looked)
        plan = Plan.make(items, state, run, memory)
        if not state.get("task"):
            self._adopt_children(api, run, task.id)
        self._look_for_parent(api, run, plan)
        return _deliver(task, plan, memory)

    @property
    def holds(self) -> bool:
        """Nothing: ClearML has what was sent."""
        return False

    def close(self) -> None:
        """Let go of the servers."""
        for api in self._apis.values():
            api.close()
        self._apis.clear()

    def _look_for_parent(self, api: Api, run: Run, plan: Plan) -> None:
        """Tell ClearML of the parent, once it is there; before that, look for it now and then, and when the run ends."""
        if run.parent in ("", run.run_id) or plan.state.get("parent"):
            return
        now = time.monotonic()
        if now < self._looked_for_parent.get(run.run_id, -_PARENT_EVERY) + _PARENT_EVERY and plan.end is None:
            return
        self._looked_for_parent[run.run_id] = now
        if found := find(api, run.parent):
            plan.state["parent"] = plan.changes.parent = str(found[0]["id"])
            del self._looked_for_parent[run.run_id]

    def _adopt_children(self, api: Api, run: Run, task: str) -> None:
        """Runs that came before this one, their parent, did not find it."""
        for child in find(api, run.run_id, PARENT):
            if child["id"] != task and child.get("parent") != task:
                api.call("tasks.edit", {"task": child["id"], "force": True, "parent": task})


def _deliver(task: Task, plan: Plan, memory: Memory) -> Outcome:
    if plan.changes != Changes():
        task.edit(plan.changes)
    refused = task.send(plan.scalars) if plan.scalars else {}
    lost = _do(task, plan.jobs, memory) if plan.jobs else {}
    if plan.end is not None:
        task.end(plan.end)
    plan.state |= {**task.finish(), "link": task.link}
    outcome = Outcome(dead=plan.dead, state=plan.state, stamps=plan.stamps)
    planned: list[Event | Job] = [*plan.scalars, *plan.jobs]
    for entry in planned:
        if entry.item is None:
            continue
        error = lost.get(id(entry), refused.get(id(entry)))
        if error is not None:
            outcome.dead.append(Dead(entry.item, error))
        elif entry.rerouted:
            outcome.rerouted += 1
        else:
            outcome.delivered += 1
    return outcome


def _do(task: Task, jobs: Sequence[Job], memory: Memory) -> dict[int, str]:
    """Store files, and tell of them.

    Returns:
        By `id` of the job: what cannot be stored, and why.
    """
    lost: dict[int, str] = {}
    events: dict[int, Job] = {}
    artifacts: list[dict[str, Any]] = []
    for job in jobs:
        try:
            if job.file is not None:
                key, url = task.store(job.file, memory)
                _address(job, key, url)
                if job.artifact:
                    artifacts.append(as_artifact(job.artifact, url, job.file, job.time))
        except (Refused, Gone) as error:
            lost[id(job)] = str(error)
            continue
        if job.event is not None:
            events[id(job.event)] = job
    if events:
        refused = task.send([job.event for job in events.values() if job.event is not None])
        lost |= {id(events[event]): error for event, error in refused.items()}
    if artifacts:
        task.register(list({artifact["key"]: artifact for artifact in artifacts}.values()))
    return lost


def _address(job: Job, key: str, url: str) -> None:
    """Tell the event where its file is. A browser shows no figure whose address is not of the web: that one is a sample."""
    event: Event | None = job.event
    if event is None:
        return
    if job.drawn is not None and (url.startswith(("http://", "https://", "/"))):
        event.type, event.body = PLOT, {"plot_str": json.dumps(job.drawn(url))}
    elif event.type == IMAGE or job.drawn is not None:
        event.type, event.body = IMAGE, {"key": key, "url": url}
