"""Optuna's trials as runs: what arrives is what Optuna's storage has of them."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from torch.utils.tensorboard import SummaryWriter

import tracelet
from tracelet import guard
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import RunStatus
from tracelet.nested.optuna_studies import StudyRun
from tracelet.settings import TraceletSettings
from tracelet.testing import Captured

PLACES = (optuna.Study, Trial, import_module("optuna.study._optimize"))


@pytest.fixture(autouse=True)
def _as_optuna_made_it() -> Iterator[None]:
    """Every method is in the end what it was; Optuna says nothing of its trials."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    before = [dict(vars(place)) for place in PLACES]
    yield
    assert [dict(vars(place)) for place in PLACES] == before


def new_study(**more: Any) -> optuna.Study:
    return optuna.create_study(**{"sampler": RandomSampler(seed=0), **more})


def points(cap: Captured, run: Experiment) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in cap.points(run=run):
        assert point.step is not None
        found.setdefault(point.name, []).append((point.step, point.value))
    return found


def of(run: Experiment, cap: Captured, kind: str) -> dict[str, Any]:
    """Parameters, or tags, of one run."""
    found = dict(run.plan.tags) if kind == "Tags" else {}
    for of, record in cap._records():
        if of == run.id and type(record).__name__ == kind:
            found |= record.values  # type: ignore[union-attr]
    return found


def stored(trial: FrozenTrial) -> dict[str, list[tuple[int, float]]]:
    """What Optuna has of a trial of one objective, as points."""
    found = {}
    if trial.intermediate_values:
        found["intermediate_value"] = sorted(trial.intermediate_values.items())
    if trial.value is not None:
        found["value"] = [(trial.number, trial.value)]
    return found


def objective(trial: Trial) -> float:
    """Is pruned as the second trial, fails as the third."""
    x = trial.suggest_float("x", -1, 1)
    for step in range(3):
        trial.report(x * step, step)
        if trial.number == 1 and step == 1:
            raise optuna.TrialPruned("no use")
    if trial.number == 2:
        raise ValueError("no such luck")
    return x * trial.suggest_int("late", 1, 5)


def test_each_trial_is_a_run_within_the_study_s(cap: Captured) -> None:
    with tracelet.start_logging("search", project="tuning") as outer:
        study = new_study(study_name="digits", direction="maximize")
        study.optimize(objective, n_trials=5, catch=ValueError)
        assert active.current() is outer

    first, *runs = cap.runs
    assert first is outer
    assert [run.name for run in runs] == [f"trial-{number}" for number in range(5)]
    assert {(run.plan.parent, run.project) for run in runs} == {(outer.id, "tuning")}
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for trial, run in zip(study.trials, runs, strict=True):
        assert points(cap, run) == stored(trial)
        assert of(run, cap, "Params") == trial.params
        tags = of(run, cap, "Tags")
        assert tags["optuna.state"] == trial.state.name.lower()
        assert tags["optuna.trial"] == str(trial.number)
        assert tags["optuna.study"] == "digits"
        assert ("pruned" in tags) == (trial.state is TrialState.PRUNED)
        assert run.status is (RunStatus.FAILED if trial.state is TrialState.FAIL else RunStatus.FINISHED)

    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    best = [max(other.value for other in complete[: n + 1]) for n in range(len(complete))]  # type: ignore[type-var]
    assert points(cap, outer) == {"best_value": [(trial.number, b) for trial, b in zip(complete, best, strict=True)]}
    assert of(outer, cap, "Params") == {
        "optuna/direction": "maximize",
        "optuna/sampler": "RandomSampler",
        "optuna/pruner": "MedianPruner",
        "optuna/study_name": "digits",
        "optuna/n_trials": 5,
    }
    tags = of(outer, cap, "Tags")
    assert tags["optuna.best_trial"] == str(study.best_trial.number)
    assert float(tags["optuna.best_value"]) == study.best_value
    assert json.loads(tags["optuna.best_params"]) == study.best_params
    marked = [run for run in runs if "optuna.best_so_far" in of(run, cap, "Tags")]
    assert marked[-1] is runs[study.best_trial.number]
    assert [b for n, b in enumerate(best) if b > max([-math.inf, *best[:n]])] == [
        points(cap, run)["value"][0][1] for run in marked
    ]


def test_what_is_known_of_a_trial_is_there_before_its_end(cap: Captured) -> None:
    """Of one that is killed there is nothing more."""
    seen: list[dict[str, Any]] = []

    def killed(trial: Trial) -> float:
        trial.suggest_categorical("kind", ["a", "b"])
        trial.set_user_attr("rows", 120)
        trial.report(0.5, 7)
        run = cap.runs[-1]
        seen.append({"points": points(cap, run), "params": of(run, cap, "Params"), "tags": of(run, cap, "Tags")})
        return 0.0

    study = new_study()
    study.optimize(killed, n_trials=1)
    assert seen[0]["points"] == {"intermediate_value": [(7, 0.5)]}
    assert seen[0]["params"] == study.trials[0].params
    assert seen[0]["tags"]["optuna.user_attrs.rows"] == "120"
    assert "optuna.state" not in seen[0]["tags"]


def test_a_step_that_is_reported_twice_counts_once(cap: Captured) -> None:
    def twice(trial: Trial) -> float:
        trial.report(1.0, 0)
        trial.report(2.0, 0)
        trial.report(math.nan, 1)
        return 3.0

    study = new_study()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna says that it ignores it
        study.optimize(twice, n_trials=1)
    (_, run) = cap.runs
    (first, second) = points(cap, run)["intermediate_value"]
    assert first == (0, 1.0)
    assert second[0] == 1
    assert math.isnan(second[1])
    assert study.trials[0].intermediate_values[0] == 1.0


def test_what_the_training_logs_is_the_trial_s_and_what_callbacks_log_the_study_s(cap: Captured) -> None:
    def training(trial: Trial) -> float:
        writer = SummaryWriter(f"logs/{trial.number}")
        for step in range(4):
            writer.add_scalar("loss", trial.number + step, step)
        tracelet.log({"by_hand": 1.0}, step=trial.number)
        return trial.suggest_float("x", 0, 1)

    def callback(study: optuna.Study, trial: FrozenTrial) -> None:
        tracelet.log({"seen": float(trial.number)}, step=trial.number)

    new_study().optimize(training, n_trials=3, callbacks=[callback])
    outer, *runs = cap.runs
    assert points(cap, outer)["seen"] == [(number, number) for number in range(3)]
    assert points(cap, outer).keys() == {"seen", "best_value"}
    for number, run in enumerate(runs):
        found = points(cap, run)
        assert found["loss"] == [(step, number + step) for step in range(4)]
        assert found["by_hand"] == [(number, 1.0)]
        assert found.keys() == {"loss", "by_hand", "value"}


@pytest.mark.parametrize(
    ("raised", "status"), [(RuntimeError("broken"), RunStatus.FAILED), (KeyboardInterrupt(), RunStatus.KILLED)]
)
def test_an_exception_passes_untouched_and_ends_the_trial_s_run(
    cap: Captured, raised: BaseException, status: RunStatus
) -> None:
    def broken(trial: Trial) -> float:
        trial.suggest_float("x", 0, 1)
        raise raised

    study = new_study()
    with pytest.raises(type(raised)) as caught:
        study.optimize(broken, n_trials=3)
    assert caught.value is raised
    outer, run = cap.runs
    assert run.status is status
    assert outer.active
    assert active.current() is outer
    assert of(run, cap, "Params") == study.trials[0].params
    assert of(run, cap, "Tags")["optuna.state"] == "fail"


def test_a_script_that_leaves_in_the_middle(cap: Captured) -> None:
    """Optuna does not see a SystemExit: the trial is running for ever, but not its run."""

    def leaves(trial: Trial) -> float:
        raise SystemExit(3)

    study = new_study()
    with pytest.raises(SystemExit):
        study.optimize(leaves, n_trials=1)
    assert study.trials[0].state is TrialState.RUNNING
    assert cap.runs[1].status is RunStatus.FAILED


def test_a_value_that_optuna_does_not_take(cap: Captured) -> None:
    study = new_study()
    study.optimize(lambda trial: math.nan, n_trials=1)
    assert study.trials[0].state is TrialState.FAIL
    assert cap.runs[1].status is RunStatus.FAILED
    assert points(cap, cap.runs[1]) == {}


def test_trials_in_threads_do_not_disturb_each_other(cap: Captured) -> None:
    """Four at a time, each with a plain thread of its own, which has no context."""
    together = threading.Barrier(4, timeout=60)

    def training(trial: Trial) -> float:
        together.wait()
        writer = SummaryWriter(f"logs/{trial.number}")

        def on_a_thread() -> None:
            for step in range(50):
                writer.add_scalar("threaded", trial.number, step)
            trial.report(trial.number, 0)

        thread = threading.Thread(target=on_a_thread)
        thread.start()
        for step in range(50):
            tracelet.log({"loss": trial.number + step}, step=step)
        thread.join()
        return trial.suggest_float("x", 0, 1)

    with tracelet.start_logging("search") as outer:
        study = new_study()
        study.optimize(training, n_trials=12, n_jobs=4)
        assert active.current() is outer
    _, *runs = cap.runs
    assert {run.plan.parent for run in runs} == {outer.id}
    assert sorted(run.name for run in runs) == sorted(f"trial-{number}" for number in range(12))
    for run in runs:
        trial = study.trials[int(run.name.removeprefix("trial-"))]
        found = points(cap, run)
        assert found.pop("threaded") == [(step, trial.number) for step in range(50)]
        assert found.pop("loss") == [(step, trial.number + step) for step in range(50)]
        assert found == stored(trial)
        assert of(run, cap, "Params") == trial.params
    assert len(points(cap, outer)["best_value"]) == 12


@pytest.mark.parametrize("one", [True, False])
def test_searches_in_plain_threads_are_beside_one_another(one: bool, cap: Captured) -> None:
    """Of one study, which the main thread searches too, or of one each. The first to begin is the first to end."""
    names = ["study"] * 3 if one else ["first", "second", "third"]
    studies = {name: new_study(study_name=name) for name in names}
    begun = [threading.Event() for _ in range(4)]
    begun[0].set()

    def search(place: int) -> None:
        def training(trial: Trial) -> float:
            begun[place + 1].set()
            assert begun[3].wait(60)
            tracelet.log({"loss": float(trial.number)}, step=1)
            trial.report(1.0, 2)
            return trial.suggest_float("x", 0, 1)

        assert begun[place].wait(60)
        studies[names[place]].optimize(training, n_trials=3 - place)

    with tracelet.start_logging("search") as outer:
        threads = [threading.Thread(target=search, args=(place,)) for place in range(one, 3)]
        for thread in threads:
            thread.start()
        if one:
            search(0)
        for thread in threads:
            thread.join()
    runs = cap.runs[1:]
    assert {run.plan.parent for run in runs} == {outer.id}
    assert len(runs) == 6
    for run in runs:
        trial = studies[run.plan.tags["optuna.study"]].trials[int(run.plan.tags["optuna.trial"])]
        assert points(cap, run) == {"loss": [(1, float(trial.number))], **stored(trial)}
    assert "loss" not in points(cap, outer)


def test_studies_in_threads_are_in_the_run_that_they_are_optimized_in(cap: Captured) -> None:
    """Each in a run of its own, and with threads of its own."""

    def search(name: str) -> tuple[str, optuna.Study]:
        with tracelet.start_logging(name, nested=True):
            study = new_study()
            study.optimize(lambda trial: trial.suggest_float(name, 0, 1), n_trials=6, n_jobs=2)
        return name, study

    with tracelet.start_logging("both"):
        with ThreadPoolExecutor(2) as pool:
            studies = dict(pool.map(search, ["one", "two"]))
    outers = {run.name: run for run in cap.runs if run.name in studies}
    for name, study in studies.items():
        trials = [run for run in cap.runs if run.plan.parent == outers[name].id]
        assert len(trials) == 6
        assert sorted(points(cap, run)["value"][0] for run in trials) == [(t.number, t.value) for t in study.trials]
        assert all(of(run, cap, "Params").keys() == {name} for run in trials)


def test_a_thread_that_asks_while_the_main_thread_is_at_a_trial(cap: Captured) -> None:
    asked: list[Trial] = []

    def training(trial: Trial) -> float:
        thread = threading.Thread(target=lambda: asked.append(study.ask()))
        thread.start()
        thread.join()
        return trial.suggest_float("x", 0, 1)

    with tracelet.start_logging("search") as outer:
        study = new_study()
        study.optimize(training, n_trials=1)
        study.tell(asked[0], 0.5)
    assert {run.name: run.plan.parent for run in cap.runs[1:]} == {"trial-0": outer.id, "trial-1": outer.id}
    assert points(cap, cap.runs[2]) == {"value": [(1, 0.5)]}


def test_two_studies_of_one_name_in_memory(cap: Captured) -> None:
    """As where samplers are compared; asked trials are known by their study too."""
    with tracelet.start_logging("compared") as outer:
        studies = [new_study(study_name="same", sampler=RandomSampler(seed=seed)) for seed in (0, 1, 2)]
        for study in studies:
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        asked = [study.ask() for study in studies]
        for number, study in enumerate(studies):
            study.tell(asked[number].number, float(number))
    names = ["", "same-2/", "same-3/"]
    best = {name: found for name, found in points(cap, outer).items() if name.endswith("best_value")}
    assert best == {
        f"{name}best_value": [(0, study.trials[0].value), (1, study.best_value)]
        for name, study in zip(names, studies, strict=True)
    }
    runs = {run.name: points(cap, run)["value"] for run in cap.runs[1:]}
    assert runs == {
        f"{name}trial-{trial.number}": [(trial.number, trial.value)]
        for name, study in zip(names, studies, strict=True)
        for trial in study.trials
    }


def test_the_best_trial_is_told_by_whoever_is_last(cap: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread tells of a trial, another finds a better one, and tells of it first."""
    study = new_study()
    tell = StudyRun._tell

    def interrupted(of_study: StudyRun, **found: str) -> None:
        if len(study.trials) == 1:
            study.add_trial(optuna.trial.create_trial(value=-1.0))
        tell(of_study, **found)

    monkeypatch.setattr(StudyRun, "_tell", interrupted)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert of(cap.runs[0], cap, "Tags")["optuna.best_trial"] == "1"
    assert of(cap.runs[0], cap, "Tags")["optuna.best_value"] == "-1.0"


def test_a_study_in_a_trial(cap: Captured) -> None:
    def inner(trial: Trial) -> float:
        return trial.suggest_float("y", 0, 1)

    def outer(trial: Trial) -> float:
        study = new_study()
        study.optimize(inner, n_trials=2)
        return study.best_value

    new_study().optimize(outer, n_trials=2)
    parents = {run.id: run for run in cap.runs}
    chains = [[run.name, parents[run.plan.parent].name] for run in cap.runs[1:]]
    assert chains == [
        ["trial-0", "captured"],
        ["trial-0", "trial-0"],
        ["trial-1", "trial-0"],
        ["trial-1", "captured"],
        ["trial-0", "trial-1"],
        ["trial-1", "trial-1"],
    ]
    assert [run.status for run in cap.runs[1:]] == [RunStatus.FINISHED] * 6


def test_optimize_twice_and_two_studies_in_one_run(cap: Captured) -> None:
    """The second study's names are kept apart from the first one's."""

    def constant(trial: Trial) -> float:
        return float(trial.number)

    first, second = new_study(), new_study(study_name="other")
    first.optimize(constant, n_trials=2)
    first.optimize(constant, n_trials=2)
    second.optimize(constant, n_trials=2)
    outer, *runs = cap.runs
    assert [run.name for run in runs] == [*(f"trial-{n}" for n in range(4)), "other/trial-0", "other/trial-1"]
    assert points(cap, outer) == {
        "best_value": [(number, 0.0) for number in range(4)],
        "other/best_value": [(number, 0.0) for number in range(2)],
    }
    assert of(outer, cap, "Tags")["other/optuna.best_trial"] == "0"
    assert of(outer, cap, "Params")["other/optuna/sampler"] == "RandomSampler"


def test_several_objectives(cap: Captured) -> None:
    def two(trial: Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", -1, 1)
        return x, -x

    study = new_study(directions=["minimize", "maximize"])
    study.optimize(two, n_trials=3)
    named = new_study(directions=["minimize", "maximize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an experimental feature
        named.set_metric_names(["loss", "accuracy"])
    named.optimize(two, n_trials=1)
    outer, *runs = cap.runs
    for trial, run in zip(study.trials, runs, strict=False):
        assert points(cap, run) == {f"value/{n}": [(trial.number, trial.values[n])] for n in range(2)}
    assert points(cap, runs[3]) == {
        name: [(0, value)] for name, value in zip(["loss", "accuracy"], named.trials[0].values, strict=True)
    }
    assert of(outer, cap, "Tags")["optuna.best_trials"] == ", ".join(str(t.number) for t in study.best_trials)
    assert points(cap, outer) == {}


def test_ask_and_tell_in_turn(cap: Captured) -> None:
    """Of several that are open, each gets what names it; what the script logs meanwhile is the study's."""
    with tracelet.start_logging("search") as outer:
        study = new_study()
        trials = [study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}) for _ in range(3)]
        tracelet.log({"batch": 1.0}, step=0)
        for trial in reversed(trials):
            trial.suggest_int("n", 1, 3)
            trial.report(trial.number, 5)
        assert active.current() is outer
        study.tell(trials[1], 1.0)
        study.tell(0, state=TrialState.PRUNED)
        study.tell(trials[2], state=TrialState.FAIL)
        study.tell(trials[1], 1.0, skip_if_finished=True)
        never = study.ask()
        assert [run.active for run in cap.runs] == [True, False, False, False, True]
    _, *runs, left = cap.runs
    for trial, run in zip(study.trials, runs, strict=False):
        assert points(cap, run) == stored(trial)
        assert of(run, cap, "Params") == trial.params
        assert run.plan.parent == outer.id
    assert [run.status for run in runs] == [RunStatus.FINISHED, RunStatus.FINISHED, RunStatus.FAILED]
    assert (left.name, left.active) == (f"trial-{never.number}", False)
    assert points(cap, outer) == {"batch": [(0, 1.0)], "best_value": [(1, 1.0)]}


def test_a_trial_that_was_asked_for_before_the_run(cap: Captured, tmp_path: Path) -> None:
    """Or by another process: what the storage has of it is recorded when it is told."""
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    tracelet.stop_logging()
    elsewhere = new_study(study_name="shared", storage=storage)
    asked = elsewhere.ask()
    asked.suggest_float("x", 0, 1)
    asked.report(0.25, 3)
    with tracelet.start_logging("search"):
        study = optuna.load_study(study_name="shared", storage=storage)
        study.tell(asked.number, 0.5)
    _, run = cap.runs
    assert points(cap, run) == {"intermediate_value": [(3, 0.25)], "value": [(0, 0.5)]}
    assert of(run, cap, "Params") == study.trials[0].params
    assert run.status is RunStatus.FINISHED


@pytest.mark.parametrize("how", ["none", "disabled", "stopped"])
def test_without_a_run_that_records_there_is_nothing(cap: Captured, how: str) -> None:
    """Neither runs nor lines."""
    tracelet.stop_logging()
    if how == "disabled":
        tracelet.start_logging("search", mode="disabled")
    if how == "stopped":
        tracelet.start_logging("search")
        tracelet.stop_logging()
    study = new_study()
    study.optimize(objective, n_trials=4, catch=ValueError)
    study.tell(study.ask(), 1.0)
    assert len(study.trials) == 5
    assert [run.name for run in cap.runs] == (["search"] if how == "stopped" else [])
    assert cap.points() == []
    assert guard._said == {}
    tracelet.stop_logging()


def test_switched_off_all_is_in_one_run(cap: Captured) -> None:
    def training(trial: Trial) -> float:
        tracelet.log({"loss": 1.0}, step=trial.number)
        return trial.suggest_float("x", 0, 1)

    with tracelet.start_logging(settings=TraceletSettings(trials=False)) as run:
        study = new_study()
        study.optimize(training, n_trials=2)
        study.tell(study.ask(), 1.0)
    assert cap.runs == [run]
    assert points(cap, run) == {"loss": [(0, 1.0), (1, 1.0)]}
    assert cap.params == {}


def test_in_a_muted_context_there_is_nothing(cap: Captured) -> None:
    with active.muted():
        new_study().optimize(objective, n_trials=2)
    assert (cap.runs, cap.points()) == ([], [])


def test_a_script_that_stops_or_begins_runs_in_a_trial(cap: Captured) -> None:
    """Its stop ends the trial's run; its plain start takes the place of all that is around it, as everywhere."""

    def training(trial: Trial) -> float:
        if trial.number == 0:
            tracelet.stop_logging()
        if trial.number == 1:
            tracelet.start_logging("mine")
        trial.report(1.0, trial.number)
        return 2.0

    with tracelet.start_logging("search"):
        study = new_study()
        study.optimize(training, n_trials=3)
        assert active.current() is cap.runs[-1]
    assert [run.name for run in cap.runs] == ["search", "trial-0", "trial-1", "mine"]
    assert [trial.value for trial in study.trials] == [2.0] * 3
    assert points(cap, cap.runs[0]) == {}
    tracelet.stop_logging()


def test_the_library_s_own_arguments_arrive(cap: Captured) -> None:
    """By name and by position, and a wrong call fails as it would."""
    study = new_study()
    study.optimize(func=lambda trial: 0.0, n_trials=1)
    study.optimize(lambda trial: 0.0, 2, None, 1)
    assert len(study.trials) == 3
    with pytest.raises(TypeError):
        study.optimize(n_trials=1)  # type: ignore[call-arg]
    assert of(cap.runs[0], cap, "Params")["optuna/n_jobs"] == 1
