"""Who a run is: ids of the user's own, runs that go on, parents and groups, and runs that record nothing."""

from __future__ import annotations

import contextvars
import copy
import json
import pickle
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.home import log_path
from tracelet_collector.log.schema import open_reader

import tracelet
from tests.support.clients import Client, client
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.core import active, identity, targets
from tracelet.core.metrics import Metric, RunEnd, RunStatus, Tags
from tracelet.core.plan import BackendTarget, RunPlan
from tracelet.errors import ConfigurationError
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.spoolfile import SpoolDirectory


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


@pytest.fixture
def here(shared: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Runs of this process go to the shared home, and to no tracker."""
    monkeypatch.setenv("TRACELET_HOME", str(shared.home))
    monkeypatch.setattr(targets, "resolve", lambda *_, **__: ())
    monkeypatch.setattr(identity, "_PATIENCE", 20.0)  # the machine may be busy
    yield shared
    while active.running():
        active.begin(active.running()[0])
        tracelet.stop_logging()
    active._context.set(None)


@pytest.fixture
def run_id() -> str:
    return f"my run {uuid.uuid4().hex[:8]}"


def spec(here: Client, run_id: str) -> wire.RunSpec:
    """What the log has of a run."""
    db = open_reader(log_path(here.home))
    (raw,) = db.execute("SELECT spec FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    db.close()
    return wire.RunSpec.FromString(raw)


class TestResuming:
    def test_a_run_goes_on(self, here: Client, run_id: str) -> None:
        first = tracelet.start_logging(exp_name=f"{run_id} first", project="p", run_id=run_id)
        first.log_metric("loss", 0.5, 10)
        tracelet.stop_logging()
        second = tracelet.start_logging(run_id=run_id, resume="must")
        assert (second.id, second.name, second.project) == (run_id, first.name, "p")
        assert second.plan.created == first.plan.created
        second.log_metric("loss", 0.25, 3)  # whatever its steps are
        until(lambda: len(here.points(first.name, "loss")) == 2)
        state = here.state(first.name)
        assert state is not None
        assert (here.status_now(first.name), state.ended) == ("running", 0.0)
        tracelet.stop_logging()
        assert here.status(first.name) == "finished"
        assert here.points(first.name, "loss") == [(10, 0.5), (3, 0.25)]
        ends = [end.status for end in here.records(first.name, RunEnd)]
        assert ends == [RunStatus.FINISHED, RunStatus.RUNNING, RunStatus.FINISHED]

    def test_auto_begins_one_and_goes_on_with_it(self, here: Client, run_id: str) -> None:
        for step in range(3):
            with tracelet.start_logging(exp_name=run_id, run_id=run_id, resume="auto") as run:
                run.log_metric("a", step, step)
        assert here.points(run_id, "a") == [(0, 0.0), (1, 1.0), (2, 2.0)]

    def test_an_id_that_is_taken_is_refused_with_what_to_do(self, here: Client, run_id: str) -> None:
        with tracelet.start_logging(exp_name="taken", run_id=run_id):
            pass
        with pytest.raises(ConfigurationError, match=r"there is a run '.*' \(taken\) already: pass resume='auto'"):
            tracelet.start_logging(run_id=run_id)
        assert active.running() == []

    def test_a_run_that_must_be_there(self, here: Client, run_id: str) -> None:
        with pytest.raises(ConfigurationError, match=r"no run '.*' is known in .*: pass resume='auto'"):
            tracelet.start_logging(run_id=run_id, resume="must")
        assert not (here.home / "runs" / run_id).exists()

    @pytest.mark.parametrize("resume", ["never", "must"])
    def test_a_run_that_only_the_collector_knows(self, here: Client, run_id: str, resume: Any) -> None:
        with tracelet.start_logging(exp_name=f"{run_id} elsewhere", project="p", run_id=run_id):
            pass
        (here.home / "runs" / run_id / "run.json").unlink()
        if resume == "never":
            with pytest.raises(ConfigurationError, match="there is a run"):
                tracelet.start_logging(run_id=run_id)
        else:
            run = tracelet.start_logging(run_id=run_id, resume="must")
            assert (run.name, run.project) == (f"{run_id} elsewhere", "p")
            tracelet.stop_logging()

    def test_what_it_was_begun_with_stays(self, here: Client, run_id: str, capfd: pytest.CaptureFixture[str]) -> None:
        with tracelet.start_logging(exp_name=f"{run_id} as it was", project="p", group="g", run_id=run_id):
            pass
        arguments: dict[str, Any] = {"run_id": run_id, "resume": "auto"}
        with tracelet.start_logging(exp_name=f"{run_id} as it was", project="p", **arguments):
            assert capfd.readouterr().err == ""
        with tracelet.start_logging(exp_name="another", project="q", tags={"attempt": 3}, **arguments) as run:
            assert (run.name, run.project, run.plan.group) == (f"{run_id} as it was", "p", "g")
        (line,) = capfd.readouterr().err.splitlines()
        assert line.endswith("goes on as it was begun; not as said now: exp_name, project")
        said = [tags.values for tags in here.records(run.name, Tags)]
        assert said == [{"tracelet.attempt": "2"}, {"tracelet.attempt": "3"}, {"attempt": "3"}]

    def test_its_trackers_stay(self, home: Path, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        first = tracelet.start_logging(run_id=run_id, backend_url="http://127.0.0.1:1")
        contextvars.Context().run(active.end, first)
        active.end(first)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:2")
        first.stop(RunStatus.FINISHED, "", 0.0)
        again = tracelet.start_logging(run_id=run_id, resume="must")
        try:
            assert [backend.target for backend in again.plan.backends] == ["http://127.0.0.1:1"]
        finally:
            active.end(again)
            again.stop(RunStatus.FINISHED, "", 0.0)

    def test_again_in_one_process(self, here: Client, run_id: str) -> None:
        """As a cell of a notebook that is run again: one run, with one end."""
        for step in range(3):
            run = tracelet.start_logging(exp_name=run_id, run_id=run_id, resume="auto")
            run.log_metric("a", step, step)
        tracelet.stop_logging()
        assert here.status(run_id) == "finished"
        until(lambda: len(here.points(run_id, "a")) == 3)
        assert [end.status for end in here.records(run_id, RunEnd)].count(RunStatus.FINISHED) == 1

    def test_another_thread_has_it(self, here: Client, run_id: str) -> None:
        run = tracelet.start_logging(run_id=run_id)
        with pytest.raises(ConfigurationError, match="recorded in another thread"):
            contextvars.Context().run(tracelet.start_logging, run_id=run_id, resume="auto")
        assert run.active
        tracelet.stop_logging()

    def test_labels_of_writers_are_used_again(self, here: Client, run_id: str) -> None:
        for tag in ("a", "b"):
            with tracelet.start_logging(exp_name=run_id, run_id=run_id, resume="auto") as run:
                run.writer_seen("runs/train")
                if tag == "a":
                    run.record("x", 1.0, 0, 1.0, "runs/train")  # the only one: it carries no label, for good
                run.writer_seen("runs/test")
                run.record(tag, 1.0, 0, 1.0, "runs/test")
                run.record(tag, 1.0, 0, 1.0, "runs/train")
        names = [point.name for point in here.records(run_id, Metric)]
        assert names == ["x", "test/a", "a", "test/b", "b"]


TWO = """
run = tracelet.start_logging(exp_name="two", run_id=ID, resume="auto")
tell(run.name)
for step in range(500): run.log_metric(f"a{WHO}", step, step)
"""


def test_two_processes_resume_one_run_at_once(shared: Client, run_id: str) -> None:
    scripts = [shared.start(f"ID, WHO = {run_id!r}, {who}" + TWO) for who in range(3)]
    for script in scripts:
        done = script.finish()
        assert (done.code, done.err, done.told) == (0, "", "two")
    assert shared.status("two") == "finished"
    expected = [(step, float(step)) for step in range(500)]
    assert [shared.points("two", f"a{who}") for who in range(3)] == [expected] * 3


def test_one_of_two_that_begin_it_at_once_is_refused(home: Path, tmp_path: Path) -> None:
    plan = RunPlan("r", "n", "p", (), home)
    won: list[bool] = []

    def take() -> None:
        try:
            assert identity.take(plan, "never") is None
            won.append(True)
        except ConfigurationError:
            won.append(False)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert [path.name for path in (home / "runs" / "r").iterdir()] == ["run.json"]
    joined = identity.take(plan, "auto")
    assert joined is not None
    assert joined.name == "n"


KILLED = """
run = tracelet.start_logging(exp_name="killed", run_id=ID, resume="auto")
for step in range(100): run.log_metric("a", FIRST + step, FIRST + step)
if FIRST < 300: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_that_comes_back_goes_on(shared: Client, run_id: str) -> None:
    """What the killed ones left is adopted while the last one writes; none of them ends the run behind its back."""
    for first in (0, 100, 200, 300):
        shared.run(f"ID, FIRST = {run_id!r}, {first}" + KILLED)
    state = until(lambda: (s := shared.state("killed")) and not shared.spools(run_id) and s)
    assert state is not None
    assert shared.status("killed") == "finished"
    assert sorted(shared.points("killed", "a")) == [(step, float(step)) for step in range(400)]


def test_a_dead_writer_does_not_end_a_run_that_goes_on(home: Path) -> None:
    """Its spool is found when the run's next process has begun already."""
    dead = RunPlan("r", "run", "p", (), home)
    first = tracelet.Experiment(dead)
    first._forked = True  # without a sender
    first.begin()
    first.log_metric("a", 1, 1)
    assert first._recorder is not None
    second = tracelet.Experiment(RunPlan("r", "run", "p", (), home, resumed=True))
    with CollectorProcess(home):
        second.begin()
        second.log_metric("a", 2, 2)
        until(lambda: second.progress()[1] >= 3, what="the next process's records are durable")
        first._recorder.spool.close(remove=False)
        here = Client(home, home)
        until(lambda: len(here.points("run", "a")) == 2, what="the dead writer's spool is adopted")
        until(lambda: len(here.spools("r")) == 1)
        assert here.status_now("run") == "running"
        second.stop(RunStatus.FINISHED, "", 20.0)
        assert here.status("run") == "finished"


def test_a_run_that_goes_on_runs_again_in_mlflow(
    shared_spine: Spine, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    spine = shared_spine
    monkeypatch.setenv("MLFLOW_TRACKING_URI", spine.environment["MLFLOW_TRACKING_URI"])
    with tracelet.start_logging(run_id=run_id) as run:
        run.log_metric("a", 1, 1)
    spine.settle()
    assert spine.tracked() == ["FINISHED"]
    with tracelet.start_logging(run_id=run_id, resume="must") as run:
        run.log_metric("a", 2, 2)
        until(lambda: spine.stored("a").total() == 2, 60)
        until(lambda: spine.tracked() == ["RUNNING"], 60)
    spine.settle()
    assert spine.tracked() == ["FINISHED"]


class TestWhatItSays:
    def test_it_reaches_the_log(self, here: Client, run_id: str) -> None:
        with tracelet.start_logging(run_id=f"{run_id} parent") as above:
            pass
        with tracelet.start_logging(
            run_id=run_id, parent=above, group="sweep", tags=["quick"], notes="# Why\nmore layers"
        ):
            pass
        said = spec(here, run_id)
        assert (said.parent, said.group, said.notes) == (above.id, "sweep", "# Why\nmore layers")
        assert dict(said.tags) == {"quick": "true"}

    def test_by_variables(self, shared: Client, run_id: str) -> None:
        done = shared.run(
            f"run = tracelet.start_logging(run_id={run_id!r}, tags={{'b': 2}})",
            TRACELET_PARENT="above",
            TRACELET_GROUP="sweep",
            TRACELET_TAGS="a=1",
            TRACELET_NOTES="why",
        )
        assert (done.code, done.err) == (0, "")
        said = spec(shared, run_id)
        assert (said.parent, said.group, said.notes, dict(said.tags)) == ("above", "sweep", "why", {"a": "1", "b": "2"})

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"run_id": "a/b"}, "run_id='a/b' makes no sense"),
            ({"run_id": 7}, "run_id=7 makes no sense"),
            ({"resume": "auto"}, "pass run_id too"),
            ({"resume": "must"}, "pass run_id too"),
            ({"run_id": "r", "resume": "always"}, "give never, auto, must or checkpoint"),
            ({"run_id": "r", "resume": ["auto"]}, "give never, auto, must or checkpoint"),
            ({"run_id": "r", "parent": "r"}, "does not belong to itself"),
            ({"parent": "../x"}, "parent='../x'"),
            ({"group": ""}, "group=''"),
            ({"tags": 3}, "tags=3"),
            ({"notes": 3}, "notes=3"),
            ({"mode": "offline"}, "mode='offline' makes no sense; give 'disabled'"),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_leaves_nothing_behind(self, home: Path, arguments: Any, says: str) -> None:
        with pytest.raises(ConfigurationError, match=says):
            tracelet.start_logging(**arguments)
        assert active.running() == []
        assert list(home.iterdir()) == []


LAUNCHED = """
os.environ["TRACELET_RUN_OWNER"] = str(os.getpid())
from tracelet import interface
interface.begin_under_launcher()
run = tracelet.start_logging(CALL)
run.log_metric("a", 1, 1)
tell([run.id, run.is_owner, run.plan.parent, run.plan.group, dict(run.plan.tags), run.plan.notes])
"""


class TestUnderTheLauncher:
    def test_what_the_command_line_left_open_is_filled(self, shared: Client) -> None:
        launched = uuid.uuid4().hex
        call = "parent='above', group='said', tags=['said'], notes='said'"
        done = shared.run(LAUNCHED.replace("CALL", call), TRACELET_RUN_ID=launched, TRACELET_TAGS="given=1")
        assert (done.code, done.err) == (0, "")
        assert done.told == [launched, True, "above", "said", {"given": "1", "said": "true"}, "said"]
        given = {"TRACELET_PARENT": "given", "TRACELET_GROUP": "given", "TRACELET_NOTES": "given"}
        done = shared.run(LAUNCHED.replace("CALL", call), TRACELET_RUN_ID=uuid.uuid4().hex, **given)
        assert done.told[2:] == ["given", "given", {"said": "true"}, "given"]

    def test_an_id_of_the_scripts_own_takes_the_place_of_the_launchers(self, shared: Client, run_id: str) -> None:
        launched = uuid.uuid4().hex
        script = LAUNCHED.replace("CALL", f"run_id={run_id!r}, resume='auto'")
        done = shared.run(script, TRACELET_RUN_ID=launched, TRACELET_RUN_NAME=run_id)
        assert (done.code, done.err, done.told[:2]) == (0, "", [run_id, True])
        assert shared.status(run_id) == "finished"
        assert shared.points(run_id, "a") == [(1, 1.0)]
        assert not (shared.home / "runs" / launched).exists()
        again = shared.run(script, TRACELET_RUN_ID=uuid.uuid4().hex, TRACELET_RUN_NAME="another default")
        assert (again.err, again.told[0]) == ("", run_id)
        assert len(shared.points(run_id, "a")) == 2


DISABLED = """
before = set(threading.enumerate())
run = tracelet.start_logging(CALL)
import tensorboard_stub
run.log_metric("a", 1, 1); run.log_params({"a": 1}); run.set_tags(["x"]); run.add_processor(lambda m: m)
assert tracelet.get_active_experiment() is run  # what is called on it must work, and do nothing
with run: run.log_metric("a", 2, 2)
assert (run.url, run.links(wait=5), run.active) == (None, {}, False)
assert tracelet.get_active_experiment() is None
run._frameworks["pytorch"]
tracelet.stop_logging()
tell([sorted({"grpc", "google.protobuf", "torch"} & set(sys.modules)), len(set(threading.enumerate()) - before)])
"""


@pytest.mark.parametrize("how", ["mode", "variable"])
def test_disabled_is_nothing_at_all(home: Path, tmp_path: Path, how: str) -> None:
    call, variables = ("mode='disabled'", {}) if how == "mode" else ("run_id='x'", {"TRACELET_DISABLED": "1"})
    script = DISABLED.replace("CALL", call).replace("import tensorboard_stub\n", "")
    done = Client(home / "never made", tmp_path).run(script, **variables)
    assert (done.code, done.err, done.told) == (0, "", [[], 0])
    assert list(home.iterdir()) == []


def test_disabled_ends_the_run_before(here: Client) -> None:
    run = tracelet.start_logging(exp_name="before disabled")
    silent = tracelet.start_logging(mode="disabled")
    assert (run.active, silent.active, active.running()) == (False, False, [])
    assert here.status("before disabled") == "finished"


class TestTheFile:
    PLAN: RunPlan

    @pytest.fixture(autouse=True)
    def _plan(self, tmp_path: Path) -> None:
        backends = (BackendTarget("mlflow", "sqlite:////x.db", "/python", "abc"),)
        self.PLAN = RunPlan("r", "name", "project", backends, tmp_path, created=7.5, group="g", tags={"a": "b"})

    def test_it_says_what_a_run_needs_to_go_on(self) -> None:
        assert identity.recall(self.PLAN.home, "r") is None
        assert identity.claim(self.PLAN)
        assert not identity.claim(self.PLAN)
        known = identity.recall(self.PLAN.home, "r")
        assert known is not None
        assert (known.name, known.project, known.created) == ("name", "project", 7.5)
        assert (known.group, known.tags, known.backends) == ("g", (("a", "b"),), self.PLAN.backends)
        assert (self.PLAN.home / "runs" / "r").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "run": {}}', '{"format": 1, "run": []}']
    )
    def test_a_file_that_says_nothing(self, text: str) -> None:
        file = self.PLAN.home / "runs" / "r" / "run.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=r"run\.json (cannot be read|has format 2)"):
            identity.find(self.PLAN.home, "r", "auto")

    def test_a_run_is_recorded_where_no_file_can_be(
        self, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "runs").write_text("in the way")
        monkeypatch.setattr(targets, "resolve", lambda *_, **__: ())
        monkeypatch.setenv("TRACELET_STOP_TIMEOUT", "20")
        with tracelet.start_logging(run_id="r") as run:
            run.log_metric("a", 1, 1)
        assert Client(home, home).points(run.name, "a") == [(1, 1.0)]
        assert "cannot be found again by its id" in capfd.readouterr().err

    def test_every_run_has_one(self, here: Client) -> None:
        with tracelet.start_logging(exp_name="an ordinary run") as run:
            pass
        said = json.loads((here.home / "runs" / run.id / "run.json").read_text())
        assert (said["format"], said["run"]["name"]) == (1, "an ordinary run")


def test_a_collector_that_hangs_costs_a_moment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its answer, an id that this machine does not know is a new one."""
    import socket

    server = socket.socket(socket.AF_UNIX)
    server.bind(str(home / "hangs.sock"))
    server.listen(8)
    said = {"pid": 0, "version": "0", "address": f"unix:{home}/hangs.sock", "wire": [1, 0]}
    (home / "endpoint.json").write_text(json.dumps(said))
    assert identity.find(home, "r", "auto") is None
    with pytest.raises(ConfigurationError, match="the collector did not answer in time"):
        identity.find(home, "r", "must")
    server.close()
    (home / "endpoint.json").unlink()


def test_a_forked_process_asks_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "grpc_is_lost", lambda: True)
    (home / "endpoint.json").write_text("{}")
    before = set(threading.enumerate())  # with that of a test which got no answer
    assert identity.find(home, "r", "auto") is None
    assert "tracelet-asking" not in {thread.name for thread in set(threading.enumerate()) - before}
    assert sys.modules
    assert not list(SpoolDirectory.under(home))


def test_a_checkpoint_of_another_version_can_be_read(home: Path) -> None:
    """A run that is pickled in one says what it knows by name; the rest has its defaults."""
    plan = RunPlan("r", "n", "p", (BackendTarget("mlflow", "http://x", "/python"),), home, group="g", created=7.5)
    assert pickle.loads(pickle.dumps(plan)) == plan
    rebuild, (kind, said) = plan.__reduce__()
    older = {name: value for name, value in said.items() if name not in ("group", "resumed", "carried")}
    assert rebuild(kind, {**older, "of a later version": 1}) == RunPlan("r", "n", "p", plan.backends, home, created=7.5)


def test_a_run_that_goes_on_finds_itself_in_its_checkpoint(here: Client, run_id: str) -> None:
    """As a Lightning module that holds its run, saved by the process before and loaded by this one."""
    done = here.run(
        "import pickle\n"
        f"with tracelet.start_logging(run_id={run_id!r}) as run: tell(pickle.dumps({{'run': run}}).hex())"
    )
    assert (done.code, done.err) == (0, "")
    checkpoint = bytes.fromhex(done.told)
    assert not pickle.loads(checkpoint)["run"].active
    with tracelet.start_logging(run_id=run_id, resume="auto") as run:
        assert pickle.loads(checkpoint)["run"] is run
        assert copy.deepcopy({"run": run})["run"] is run
