"""A run for each step of a workflow that records something, within the run around the workflow."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from formed.workflow import (
    AsyncWorkflowExecutor,
    DefaultWorkflowExecutor,
    MemoryWorkflowOrganizer,
    WorkflowCallback,
    WorkflowGraph,
)
from formed.workflow.callback import EmptyWorkflowCallback

import tracelet
from tests.nested.formed.training import refer, run, steps
from tests.seeds.histories import arrived
from tracelet.core import active
from tracelet.core.metrics import RunStatus, Tags
from tracelet.nested import formed_origins
from tracelet.nested.formed_origins import Origin
from tracelet.testing import Captured


def begun(cap: Captured) -> dict[str, Any]:
    """The runs that there are in the end, by name, but for the first."""
    return {each.name: each for each in cap.runs[1:] if each.begun}


def params_of(cap: Captured, of: Any) -> dict[str, Any]:
    from tracelet.core.metrics import Params

    found: dict[str, Any] = {}
    for params in cap._all(Params, of):
        found |= params.values
    return found


def told(file: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in file.read_text().splitlines():
        name, step, value = line.split()
        found.setdefault(name, []).append((int(step), float(value)))
    return found


def test_steps_that_record_something_have_runs(alone: Captured, tmp_path: Path) -> None:
    with tracelet.start_logging("workflow") as around:
        config = steps()
        config["trained"]["trainer"]["callbacks"].append({"type": "tracelet_test_history", "file": "told"})
        context = run(config, tmp_path)
        assert active.here() is around
        assert around.active
    runs = begun(alone)
    assert list(runs) == ["trained", "evaluated"]  # and none for the rows
    trained, evaluated = runs.values()
    assert {each.plan.parent for each in runs.values()} == {around.id}
    assert {each.status for each in runs.values()} == {RunStatus.FINISHED}
    found, history = arrived(alone, run=trained), told(tmp_path / "told")
    assert [step for step, _ in history["train/loss"]] == [1, 3, 6]
    assert {name: found[name] for name in history} == history
    result = context.cache[WorkflowGraph.from_config({"steps": config})["evaluated"]]
    assert arrived(alone, run=evaluated) == {"test/loss": [(0, result["loss"])]}
    assert arrived(alone, run=around) == {}

    said = params_of(alone, trained)
    assert {name: said[name] for name in ("random_seed", "train_dataset", "model/width", "type")} == {
        "random_seed": 0,  # the step's default
        "train_dataset": "rows",
        "model/width": 2,
        "type": "torch::train",
    }
    assert (said["trainer/engine/optimizer/lr"], said["trainer/engine/max_grad_norm"]) == (0.1, 1.0)
    assert params_of(alone, evaluated)["random_seed"] == 7
    assert trained.plan.tags["formed.step"] == "torch::train"
    assert trained.plan.tags["formed.execution"] == context.info.id
    assert params_of(alone, around)["steps/rows/count"] == 12  # also of the step that has no run
    (tags,) = alone._all(Tags, around)
    assert tags.values == {"formed.execution": context.info.id}


def test_a_cached_result_is_linked_to_the_run_that_made_it(alone: Captured, tmp_path: Path) -> None:
    with tracelet.start_logging("first"):
        run(steps(), tmp_path)
    made = begun(alone)
    page = "http://127.0.0.1/#/experiments/1/runs/2"  # as a tracker with pages would have said
    origin = Origin(made["trained"].id, "trained", page)
    formed_origins.keep(made["trained"].plan.home, made["trained"].plan.tags["formed.fingerprint"], origin)
    with tracelet.start_logging("second") as second:
        run(steps(), tmp_path)
    cached = [each for each in alone.runs if each.begun and each.plan.parent == second.id]
    assert [each.name for each in cached] == ["trained", "evaluated"]
    assert [each.plan.tags.get("cached_url") for each in cached] == [page, None]
    for each in cached:
        assert each.plan.tags["cached"] == "true"
        assert each.plan.tags["cached_from"] == made[each.name].id
        assert each.status is RunStatus.FINISHED
        assert alone.points(run=each) == []
        assert params_of(alone, each)["type"].startswith("torch::")
    with tracelet.start_logging("third") as third:
        config = steps()
        config["evaluated"]["dataloader"]["batch_size"] = 3
        run(config, tmp_path)
    last = {each.name: each for each in alone.runs if each.begun and each.plan.parent == third.id}
    assert last["trained"].plan.tags["cached_from"] == made["trained"].id
    assert "cached" not in last["evaluated"].plan.tags
    assert list(arrived(alone, run=last["evaluated"])) == ["test/loss"]


def test_a_result_of_unknown_origin(alone: Captured, tmp_path: Path) -> None:
    """It was made without a run. What is numbers would have had one."""
    run(steps(), tmp_path)
    with tracelet.start_logging("later"):
        run(steps(), tmp_path)
    (cached,) = begun(alone).values()
    assert (cached.name, cached.plan.tags["cached"]) == ("evaluated", "true")
    assert "cached_from" not in cached.plan.tags


def test_within_one_process_without_files(alone: Captured) -> None:
    organizer = MemoryWorkflowOrganizer()
    with tracelet.start_logging("workflow"):
        for _ in range(2):
            organizer.run(DefaultWorkflowExecutor(), WorkflowGraph.from_config({"steps": steps()}))
    runs = [each for each in alone.runs[1:] if each.begun]
    assert [(each.name, "cached" in each.plan.tags) for each in runs] == [
        ("trained", False),
        ("evaluated", False),
        ("trained", True),
        ("evaluated", True),
    ]
    assert [each.plan.tags.get("cached_from") for each in runs[2:]] == [runs[0].id, runs[1].id]


def test_numbers_of_other_steps_keep_their_names(alone: Captured, tmp_path: Path) -> None:
    counts = {"type": "tracelet_test_counts", "dataset": refer("rows")}
    with tracelet.start_logging("workflow"):
        run({"rows": {"type": "tracelet_test_rows", "count": 5}, "counted": counts}, tmp_path)
    (counted,) = begun(alone).values()
    assert arrived(alone, run=counted) == {"rows": [(0, 5.0)]}


def test_a_step_that_fails(alone: Captured, tmp_path: Path) -> None:
    config = {"said": {"type": "tracelet_test_says"}, "failed": {"type": "tracelet_test_raises", "words": "too hot"}}
    with pytest.raises(ValueError, match="too hot"), tracelet.start_logging("workflow") as around:
        run(config, tmp_path)
    runs = begun(alone)
    assert {name: each.status for name, each in runs.items()} == {
        "said": RunStatus.FINISHED,
        "failed": RunStatus.FAILED,
    }
    assert around.status is RunStatus.FAILED
    assert params_of(alone, runs["failed"]) == {"type": "tracelet_test_raises", "words": "too hot"}
    assert arrived(alone, run=runs["said"]) == {"said": [(7, 1.0)]}
    from tracelet.core.metrics import RunEnd

    reasons = {each.reason for each in alone._all(RunEnd)}
    assert reasons == {"", "ValueError: too hot"}


def test_a_training_that_fails_in_a_step_may_be_tried_again(alone: Captured, tmp_path: Path) -> None:
    config = steps()
    callbacks = config["trained"]["trainer"]["callbacks"]
    callbacks.append({"type": "tracelet_test_fails", "step": 2})
    with tracelet.start_logging("workflow") as around:
        with pytest.raises(RuntimeError, match="no more"):
            run(config, tmp_path)
        callbacks.pop()
        run(config, tmp_path)
    assert [(each.name, each.status) for each in alone.runs if each.begun] == [
        ("workflow", RunStatus.FINISHED),
        ("trained", RunStatus.FAILED),
        ("trained", RunStatus.FINISHED),
        ("evaluated", RunStatus.FINISHED),
    ]
    assert around.status is RunStatus.FINISHED


@pytest.mark.parametrize("executor", [DefaultWorkflowExecutor, AsyncWorkflowExecutor])
def test_an_interrupt(executor: type, alone: Captured, tmp_path: Path) -> None:
    config = {"failed": {"type": "tracelet_test_raises", "words": "", "interrupt": True}}
    with pytest.raises(KeyboardInterrupt), tracelet.start_logging("workflow") as around:
        run(config, tmp_path, executor())
    assert (begun(alone)["failed"].status, around.status) == (RunStatus.KILLED, RunStatus.KILLED)


@pytest.mark.parametrize("executor", [DefaultWorkflowExecutor, AsyncWorkflowExecutor])
def test_steps_that_wait(executor: type, alone: Captured, tmp_path: Path) -> None:
    """Several at a time, with the executor that can."""
    config = {f"step{number}": {"type": "tracelet_test_says_later", "value": float(number)} for number in range(3)}
    with tracelet.start_logging("workflow") as around:
        run(config, tmp_path, executor())
        tracelet.log({"after": 1.0}, step=0)
    runs = begun(alone)
    assert list(runs) == list(config)
    for number, each in enumerate(runs.values()):
        assert arrived(alone, run=each) == {"first": [(1, float(number))], "second": [(2, float(number))]}
        assert (each.status, each.plan.parent) == (RunStatus.FINISHED, around.id)
    assert arrived(alone, run=around) == {"after": [(0, 1.0)]}


def test_workflows_in_threads_are_beside_one_another(alone: Captured) -> None:
    """What the second one is made of is a matter of the run around, not of the step that the first one is at."""

    class Begins(WorkflowCallback):
        def on_step_start(self, step_context: Any, execution_context: Any) -> None:
            tracelet.log({"begun": 1.0}, step=0)
            second.start()
            second.join()

    def work(name: str, callback: WorkflowCallback | None = None) -> None:
        graph = WorkflowGraph.from_config({"steps": {name: {"type": "tracelet_test_says"}}})
        DefaultWorkflowExecutor()(graph, callback=callback)

    first = threading.Thread(target=work, args=("first", Begins()))
    second = threading.Thread(target=work, args=("second",))
    with tracelet.start_logging("workflows") as around:
        first.start()
        first.join()
    runs = begun(alone)
    assert {name: run.plan.parent for name, run in runs.items()} == {"first": around.id, "second": around.id}
    assert params_of(alone, around).keys() == {"steps/first/type", "steps/second/type"}
    assert params_of(alone, runs["first"]) == {"type": "tracelet_test_says"}


def test_the_same_with_several_at_a_time(alone: Captured, tmp_path: Path) -> None:
    with tracelet.start_logging("workflow"):
        for _ in range(2):
            run(steps(), tmp_path, AsyncWorkflowExecutor())
    runs = [each for each in alone.runs[1:] if each.begun]
    assert [(each.name, "cached" in each.plan.tags) for each in runs] == [
        ("trained", False),
        ("evaluated", False),
        ("trained", True),
        ("evaluated", True),
    ]
    assert set(arrived(alone, run=runs[0])) >= {"train/loss", "val/loss"}


def test_an_executor_called_by_hand(alone: Captured) -> None:
    seen: list[str] = []

    class Sees(WorkflowCallback):
        def on_step_end(self, step_context: Any, execution_context: Any) -> None:
            seen.append(step_context.info.name)
            raise RuntimeError("mine")

    graph = WorkflowGraph.from_config({"steps": {"said": {"type": "tracelet_test_says"}}})
    with tracelet.start_logging("workflow"):
        DefaultWorkflowExecutor()(graph)
        with pytest.raises(RuntimeError, match="mine"):
            DefaultWorkflowExecutor()(graph, callback=Sees())
    assert seen == ["said"]
    assert [each.name for each in alone.runs if each.begun] == ["workflow", "said", "said"]
    assert {each.status for each in alone.runs} == {RunStatus.FINISHED}


def test_what_callers_and_callbacks_see_is_theirs(alone: Captured) -> None:
    seen: list[Any] = []

    class Sees(WorkflowCallback):
        def on_step_start(self, step_context: Any, execution_context: Any) -> None:
            seen.append(execution_context.callback)

    graph = WorkflowGraph.from_config({"steps": {"said": {"type": "tracelet_test_says"}}})
    mine = Sees()
    with tracelet.start_logging("workflow"):
        assert DefaultWorkflowExecutor()(graph, callback=mine).callback is mine
        assert type(DefaultWorkflowExecutor()(graph).callback) is EmptyWorkflowCallback
    assert seen == [mine]


def test_in_a_capture_the_run_of_the_block_is_around(cap: Captured, tmp_path: Path) -> None:
    run(steps(), tmp_path)
    around, *within = cap.runs
    assert within
    assert {each.plan.parent for each in within} == {around.id}
    assert {"train/loss", "val/loss", "test/loss"} <= set(arrived(cap))


def test_without_a_run_nothing_is_patched(tmp_path: Path, home: Path) -> None:
    run(steps(), tmp_path)
    with tracelet.start_logging(mode="disabled"):
        run(steps(), tmp_path)
    assert not list(home.iterdir())


def test_a_child_that_is_forked_before_the_first_record(alone: Captured, tmp_path: Path) -> None:
    """It belongs to the run around: nobody would end the step's run, which may never begin."""
    with tracelet.start_logging("workflow") as around:
        run({"forked": {"type": "tracelet_test_forks"}}, tmp_path)
    assert begun(alone) == {}
    assert arrived(alone, run=around) == {"forked": [(1, 2.0)]}
    assert os.environ.get("TRACELET_RUN_ID") is None


# -- where a step was executed


def test_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Origin("a-run", "trained", "http://127.0.0.1/#/1")
    assert formed_origins.find(tmp_path, "abc") is None
    formed_origins.keep(tmp_path, "abc", Origin("another", "trained"))
    formed_origins.keep(tmp_path, "abc", origin)
    assert formed_origins.find(tmp_path, "abc") == origin
    (file,) = (tmp_path / "formed").iterdir()
    for content in ("", "[]", '{"format": 2}', '{"format": 1}', json.dumps(None)):
        file.write_text(content)
        assert formed_origins.find(tmp_path, "abc") is None
    formed_origins.keep(tmp_path, "../outside", origin)
    assert formed_origins.find(tmp_path, "../outside") is None
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["abc.json", "formed"]
    monkeypatch.setattr(formed_origins, "_MOST", 4)
    for number in range(6):
        formed_origins.keep(tmp_path, f"f{number}", origin)
        os.utime(tmp_path / "formed" / f"f{number}.json", (10**9 + number, 10**9 + number))
    left = sorted(path.stem for path in (tmp_path / "formed").iterdir())
    assert formed_origins.find(tmp_path, "f5") == origin
    assert len(left) <= 4


def test_a_home_that_cannot_be_written(alone: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    monkeypatch.setattr(formed_origins, "keep", full)
    with tracelet.start_logging("workflow"):
        run({"said": {"type": "tracelet_test_says"}}, tmp_path)
    assert begun(alone)["said"].status is RunStatus.FINISHED
