"""start_logging, stop_logging, get_active_experiment: what each argument does, and which run a point belongs to."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import json
import os
import pickle
import stat
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracelet_collector.status import read_offline

import tracelet
from tests.support.clients import Client, client
from tests.support.processes import collector_pid, stop_collector, until
from tests.support.spine import Spine
from tracelet.core import active, target_mlflow, targets
from tracelet.core.metrics import Params
from tracelet.core.plan import BackendTarget
from tracelet.errors import BackendNotInstalledError, ConfigurationError, HomeError, UnknownBackendError
from tracelet.settings import TraceletSettings
from tracelet.spoolfile import SpoolDirectory

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


@pytest.fixture
def here(shared: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Runs of this process go to the shared home, and to no tracker. None is left afterwards."""
    monkeypatch.setenv("TRACELET_HOME", str(shared.home))
    monkeypatch.setattr(targets, "resolve", lambda *_, **__: ())
    yield shared
    left = active.running()
    contextvars.Context().run(stop_all)
    active._context.set(None)
    assert not left


def stop_all() -> None:
    while active.running():
        active.begin(active.running()[0])
        tracelet.stop_logging()


def in_thread(work: Callable[[], Any]) -> Any:
    """What a function returns in a plain thread, which has a context of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(60)
    return found[0]


class TestArguments:
    """Resolved for real; a run that is not stopped in order has no worker."""

    @pytest.fixture(autouse=True)
    def _no_stray_run(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
        yield
        stop_all()
        stop_collector(tmp_path)  # where a test makes that its home

    def start(self, **arguments: Any) -> tracelet.Experiment:
        return tracelet.start_logging(**arguments)

    def test_names(self) -> None:
        run = self.start(exp_name="a name", project="a project")
        assert (run.name, run.project) == ("a name", "a project")
        again = self.start()
        script = getattr(sys.modules["__main__"], "__file__", None) or sys.argv[0]
        assert again.name.startswith(f"{Path(script).stem}-")
        assert again.project == "default"
        assert again.id != run.id

    @pytest.mark.parametrize("backend", [None, "mlflow", "mlflow, mlflow", ["mlflow"], ("MLflow",)])
    def test_backend(self, backend: Any) -> None:
        (target,) = self.start(backend=backend).plan.backends
        assert (target.kind, target.target, target.interpreter) == ("mlflow", NOWHERE, sys.executable)

    def test_backend_url_and_api_key(self, home: Path) -> None:
        run = self.start(backend_url="http://127.0.0.1:2", api_key="s3cret")
        (target,) = run.plan.backends
        assert target.target == "http://127.0.0.1:2"
        kept = json.loads((home / "credentials" / f"{target.credentials}.json").read_text())
        assert kept["env"]["MLFLOW_TRACKING_TOKEN"] == "s3cret"
        assert self.start(api_key={"mlflow": "s3cret", "wandb": "x"}).plan.backends[0].credentials == target.credentials

    def test_settings_and_arguments_before_them(self, tmp_path: Path) -> None:
        settings = TraceletSettings(
            home=tmp_path,
            project="set",
            run_name="set",
            stop_timeout=3,
            flush_interval=0.5,
            pytorch={"patch_tensorboard": False},
        )
        run = self.start(settings=settings, project="said")
        assert (run.name, run.project) == ("set", "said")
        assert (run.plan.home, run.plan.stop_timeout, run.plan.flush_interval) == (tmp_path, 3.0, 0.5)
        assert not run._frameworks["pytorch"].tracking
        assert list(SpoolDirectory.under(tmp_path))

    @pytest.mark.parametrize(
        ("arguments", "error", "says"),
        [
            ({"backend": "mlfow"}, UnknownBackendError, "mlfow"),
            ({"backend": "mlflow,clearml", "api_key": {"clearml": "x"}}, ConfigurationError, "access key"),
            ({"backend": 3}, ConfigurationError, "backend"),
            ({"backend": []}, ConfigurationError, "at least one"),
            ({"api_key": {"mlfow": "x"}}, UnknownBackendError, "mlfow"),
            ({"api_key": 3}, ConfigurationError, "api_key"),
            ({"api_key": {"mlflow": 3}}, ConfigurationError, "api_key"),
            ({"backend_url": 3}, ConfigurationError, "backend_url"),
            ({"backend_url": "sqlite://"}, ConfigurationError, "file"),
            ({"backend_url": "sqlite:///:memory:"}, ConfigurationError, "file"),
            ({"backend_url": "sqlite:///\udcff.db"}, ConfigurationError, "UTF-8"),
            ({"exp_name": ""}, ConfigurationError, "line of text"),
            ({"exp_name": "two\nlines"}, ConfigurationError, "line of text"),
            ({"exp_name": "n\0"}, ConfigurationError, "line of text"),
            ({"exp_name": "n" * 1001}, ConfigurationError, "exp_name has 1001 characters"),
            ({"project": "n" * 5000}, ConfigurationError, "project has 5000 characters"),
            ({"project": 7}, ConfigurationError, "project"),
            ({"config": [("lr", 1)]}, ConfigurationError, "mapping"),
            ({"settings": {"project": "x"}}, ConfigurationError, "TraceletSettings"),
        ],
        ids=str,
    )
    def test_what_makes_no_sense_leaves_nothing_behind(
        self, home: Path, arguments: dict[str, Any], error: type[Exception], says: str
    ) -> None:
        before = sys.exit
        with pytest.raises(error, match=says):
            self.start(**arguments)
        assert active.running() == []
        assert tracelet.get_active_experiment() is None
        assert sys.exit is before
        assert not {path.name for path in home.rglob("*")} - {"credentials"}

    def test_a_failed_start_leaves_the_run_before_alone(self) -> None:
        run = self.start()
        with pytest.raises(UnknownBackendError):
            self.start(backend="nothing")
        assert run.active
        assert tracelet.get_active_experiment() is run

    @pytest.mark.parametrize("how", ["not there", "blocked", "a folder of that name"])
    def test_a_missing_package(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        if how == "blocked":
            monkeypatch.setitem(sys.modules, "mlflow", None)
        else:
            monkeypatch.delitem(sys.modules, "mlflow", raising=False)
            if how != "not there":
                (tmp_path / "mlflow").mkdir()
            # Nothing but the standard library, and the working directory.
            monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "site-packages" not in p)])
            monkeypatch.setattr(sys, "path_importer_cache", {})
        with pytest.raises(BackendNotInstalledError, match=r"-m pip install 'tracelet\[mlflow\]'"):
            self.start()
        assert active.running() == []
        assert not list(home.iterdir())

    def test_a_home_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("TRACELET_HOME", str(tmp_path / "file" / "home"))
        with pytest.raises(HomeError, match="TRACELET_HOME"):
            self.start()
        assert active.running() == []

    def test_credentials_that_cannot_be_kept(self, home: Path) -> None:
        (home / "credentials").write_text("in the way")
        with pytest.raises(HomeError, match="cannot use"):
            self.start(api_key="s3cret")
        assert active.running() == []

    @pytest.mark.parametrize("wait", ["", "soon", "5", -1, float("nan"), float("inf"), True, [1]], ids=repr)
    def test_a_wait_that_makes_no_sense(self, wait: Any) -> None:
        run = self.start()
        with pytest.raises(ConfigurationError, match="wait="):
            tracelet.stop_logging(wait)
        assert run.active


def test_config_are_parameters(here: Client) -> None:
    with tracelet.start_logging(exp_name="config", config={"lr": 0.1, "layers": [1, 2], "amp": True}):
        pass
    (params,) = here.records("config", Params)
    assert params.values == {"lr": 0.1, "layers": "[1, 2]", "amp": True}


def test_starting_again_ends_the_run_before(here: Client) -> None:
    first = tracelet.start_logging(exp_name="first")
    first.log_metric("a", 1, 1)
    second = tracelet.start_logging(exp_name="second")
    assert not first.active
    assert tracelet.get_active_experiment() is second
    assert active.running() == [second]
    second.log_metric("a", 2, 2)
    tracelet.stop_logging()
    assert here.status("first") == here.status("second") == "finished"
    assert (here.points("first", "a"), here.points("second", "a")) == ([(1, 1.0)], [(2, 2.0)])


def test_starting_again_does_not_wait_for_a_collector(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "resolve", lambda *_, **__: ())
    (home / "log").write_text("in the way: no collector comes up")
    monkeypatch.setenv("TRACELET_STOP_TIMEOUT", "3600")
    first = tracelet.start_logging(exp_name="first")
    second = tracelet.start_logging(exp_name="second")
    assert (first.active, second.active) == (False, True)
    free = [spool.lock_if_dead() for spool in SpoolDirectory.under(home) if spool.path.parent.name == first.id]
    assert len(free) == 1  # to be adopted
    os.close(free[0] or -1)
    tracelet.start_logging(settings=TraceletSettings(stop_timeout=0.01))
    tracelet.stop_logging()


def test_runs_in_threads_are_kept_apart(here: Client) -> None:
    gate = threading.Barrier(3)

    def trial(name: str) -> None:
        run = tracelet.start_logging(exp_name=name)
        gate.wait(60)
        for step in range(100):
            active_run = tracelet.get_active_experiment()
            assert active_run is run
            active_run.log_metric("a", step, step)
        gate.wait(60)
        tracelet.stop_logging()
        assert tracelet.get_active_experiment() in (None, *active.running())

    threads = [threading.Thread(target=trial, args=(f"trial {n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for n in range(3):
        assert here.points(f"trial {n}", "a") == [(step, float(step)) for step in range(100)]


def test_a_plain_thread_uses_the_only_run(here: Client) -> None:
    assert in_thread(tracelet.get_active_experiment) is None
    run = tracelet.start_logging(exp_name="only")
    assert in_thread(tracelet.get_active_experiment) is run
    another = contextvars.Context().run(tracelet.start_logging, exp_name="another")
    assert in_thread(tracelet.get_active_experiment) is None  # which of the two?
    assert tracelet.get_active_experiment() is run
    tracelet.stop_logging()
    assert in_thread(tracelet.get_active_experiment) is another
    in_thread(tracelet.stop_logging)
    assert tracelet.get_active_experiment() is None


def test_a_run_that_ends_does_not_take_the_patches_from_one_that_begins(
    here: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last run's end takes them off; a run that another thread begins at that very moment has them all the same."""
    from tracelet.frameworks import table

    install, uninstall = table.install_all, table.uninstall_all
    taking_off, begun, on = threading.Event(), threading.Event(), []

    def slowly() -> None:
        taking_off.set()
        begun.wait(0.5)
        uninstall()
        on.append(False)

    monkeypatch.setattr("tracelet.frameworks.install_all", lambda *a: (install(*a), on.append(True)))
    monkeypatch.setattr("tracelet.frameworks.uninstall_all", slowly)
    tracelet.start_logging(exp_name="ends")

    def trial() -> None:
        taking_off.wait(60)
        tracelet.start_logging(exp_name="begins")
        begun.set()

    thread = threading.Thread(target=trial)
    thread.start()
    tracelet.stop_logging()
    thread.join(60)
    assert on == [True, False, True]
    tracelet.stop_logging()


class Alarm(Exception):
    """Out of a signal handler of the user's."""


def test_a_stop_that_was_interrupted_is_no_obstacle(here: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain threads find the run that follows, and the interrupted one ends as it was told to."""

    def interrupted(*_: object) -> bool:
        raise Alarm

    first = tracelet.start_logging(exp_name="interrupted stop")
    first.log_metric("a", 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr("tracelet.transport.sender.Sender.finish", interrupted)
        patch.setattr("tracelet.guard.is_users", lambda error: True)
        with pytest.raises(Alarm):
            tracelet.stop_logging()
    assert tracelet.get_active_experiment() is None
    second = tracelet.start_logging(exp_name="after it")
    assert in_thread(tracelet.get_active_experiment) is second
    assert active.running() == [second]
    tracelet.stop_logging()
    assert here.status("interrupted stop") == "finished"
    assert here.points("interrupted stop", "a") == [(1, 1.0)]


@pytest.mark.parametrize("where", ["tracelet.transport.sender.Sender.start", "tracelet.frameworks.install_all"])
def test_a_start_that_was_interrupted_leaves_no_run(here: Client, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with tracelet.start_logging(exp_name="before it") as before:
        before.log_metric("a", 1, 1)  # so that a collector runs: who interrupts a start waits for none

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = sys.exit
    with monkeypatch.context() as patch:
        patch.setattr(where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            tracelet.start_logging(exp_name=f"interrupted at {where}")
    assert active.running() == []
    assert sys.exit is before
    assert here.status(f"interrupted at {where}") == "killed"


def test_cells_of_a_notebook(here: Client) -> None:
    """Each runs in an asyncio task, so in a context of its own that never comes back."""

    async def cell(name: str) -> tracelet.Experiment:
        return tracelet.start_logging(exp_name=name)

    async def notebook() -> list[tracelet.Experiment]:
        return [await asyncio.create_task(cell(name)) for name in ("first cell", "again")]

    first, again = asyncio.run(notebook())
    assert not first.active
    assert tracelet.get_active_experiment() is again
    tracelet.stop_logging()
    assert not again.active


def test_trials_in_tasks_at_the_same_time(here: Client) -> None:
    async def trial(name: str, gate: asyncio.Barrier) -> None:
        run = tracelet.start_logging(exp_name=name)
        await gate.wait()
        assert tracelet.get_active_experiment() is run
        await gate.wait()
        tracelet.stop_logging()

    async def trials() -> None:
        gate = asyncio.Barrier(2)
        await asyncio.gather(trial("one", gate), trial("two", gate))

    asyncio.run(trials())


def test_a_block_ends_its_run_and_lets_the_exception_pass(here: Client) -> None:
    with tracelet.start_logging(exp_name="block") as run:
        assert tracelet.get_active_experiment() is run
    assert tracelet.get_active_experiment() is None
    with pytest.raises(ZeroDivisionError), tracelet.start_logging(exp_name="broken block"):
        _ = 1 / 0
    with tracelet.start_logging(exp_name="stopped inside"):
        tracelet.stop_logging()
    assert here.status("block") == here.status("stopped inside") == "finished"
    assert here.status("broken block") == "failed"


def test_stopping_twice_and_without_a_run(here: Client) -> None:
    tracelet.stop_logging()
    run = tracelet.start_logging(exp_name="twice")
    tracelet.stop_logging()
    tracelet.stop_logging(wait="delivered")
    assert not run.active
    assert here.status("twice") == "finished"


def test_two_threads_stop_one_run(here: Client) -> None:
    for n in range(5):
        run = tracelet.start_logging(exp_name=f"stopped twice {n}")
        run.log_metric("a", n, n)
        other = threading.Thread(target=tracelet.stop_logging)
        other.start()
        tracelet.stop_logging()
        other.join(60)
        assert here.status(f"stopped twice {n}") == "finished"
        assert here.points(f"stopped twice {n}", "a") == [(n, float(n))]


@pytest.mark.parametrize("wait", ["delivered", 60])
def test_waiting_for_the_tracker(shared_spine: Spine, monkeypatch: pytest.MonkeyPatch, wait: Any) -> None:
    spine = shared_spine
    monkeypatch.setenv("MLFLOW_TRACKING_URI", spine.environment["MLFLOW_TRACKING_URI"])
    with tracelet.start_logging(exp_name="delivered") as run:
        run.log_metric("a", 1.5, 3)
        tracelet.stop_logging(wait)
    assert spine.stored("a") == {(3, 1.5): 1}
    assert spine.tracked() == ["FINISHED"]


def test_the_time_is_over_before_the_tracker_answers(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    run = tracelet.start_logging(exp_name="slow")
    run.log_metric("a", 1, 1)
    tracelet.stop_logging(wait=0.3)
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "mlflow lacks 1 of 1 points" in said.err


class TestCopies:
    def test_in_the_same_process(self, here: Client) -> None:
        with tracelet.start_logging(exp_name="copied") as run:
            module = {"run": run}
            assert copy.deepcopy(module)["run"] is run
            assert copy.copy(run) is run
            assert pickle.loads(pickle.dumps(run)) is run
        assert pickle.loads(pickle.dumps(run)) is run  # stopped

    def test_in_a_process_of_its_own_it_records_nothing_and_says_so(self, here: Client) -> None:
        """As of a checkpoint that somebody loads a week later."""
        kept = here.run(
            "import pickle\n"
            "with tracelet.start_logging(exp_name='checkpoint') as run: tell(pickle.dumps({'run': run}).hex())"
        ).told
        done = here.run(
            f"import pickle\nrun = pickle.loads(bytes.fromhex('{kept}'))['run']\n"
            "run.log_metric('a', 1, 1); run.set_tags(['x']); tell([run.active, run.name])"
        )
        assert (done.code, done.told) == (0, [False, "checkpoint"])
        assert done.err.count("\n") == 1
        assert "is not recorded" in done.err
        assert here.points("checkpoint", "a") == []

    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_in_a_child_it_writes_to_the_run(self, here: Client, method: str) -> None:
        done = here.run(
            f"""
import multiprocessing
class Job:
    def __init__(self, run): self.run = run
    def __call__(self, number):
        for step in range(100):
            self.run.log_metric(f"child {{number}}", step, step)
        tracelet.stop_logging()
        assert tracelet.get_active_experiment() is None or {method == "fork"}
if __name__ == "__main__":
    run = tracelet.start_logging(exp_name="{method}ed")
    run.log_metric("parent", 1, 1)
    context = multiprocessing.get_context("{method}")
    children = [context.Process(target=Job(run), args=(number,)) for number in range(2)]
    for child in children: child.start()
    for child in children: child.join()
    tell([child.exitcode for child in children])
    run.log_metric("parent", 2, 2)
"""
        )
        assert (done.code, done.err, done.told) == (0, "", [0, 0])
        name = f"{method}ed"
        assert here.status(name) == "finished"
        assert here.points(name, "parent") == [(1, 1.0), (2, 2.0)]
        for number in range(2):
            assert here.points(name, f"child {number}") == [(step, float(step)) for step in range(100)]

    def test_no_secret_is_in_it(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:1")
        run = tracelet.start_logging(api_key="t0ken", exp_name="pickled")
        try:
            assert b"s3cret" not in pickle.dumps(run)
            assert b"t0ken" not in pickle.dumps(run)
        finally:
            stop_all()


class TestBelowTheLauncher:
    """In a process that `tracelet run` did not start itself, and that imports nothing which is intercepted."""

    def tell(self, shared: Client, call: str, **variables: str) -> Any:
        script = f"""
from tracelet.settings import TraceletSettings
run = {call}
run.log_metric("a", 1, 1)
again = tracelet.start_logging(exp_name="of its own")
tell([run.id, run.is_owner, run.name, run.project, run.plan.prefix, run.plan.stop_timeout, again.id == run.id, again.is_owner])
"""
        launched = {"TRACELET_RUN_ID": uuid.uuid4().hex, "TRACELET_RUN_OWNER": "1", "TRACELET_RUN_NAME": "script-1200"}
        done = shared.run(script, **launched, **variables)
        assert (done.code, done.err) == (0, "")
        run_id, is_owner, *rest, same, own = done.told
        assert (run_id, is_owner) == (launched["TRACELET_RUN_ID"], False)
        assert (same, own) == (False, True)
        until(lambda: not shared.spools(run_id))
        (state,) = [run for run in read_offline(shared.home).runs if run.run_id == run_id]
        assert (state.name, state.durable, state.ended) == (rest[0], 1, 0.0), "its owner ends it"
        return rest

    def test_it_writes_to_the_launchers_run(self, shared: Client) -> None:
        assert self.tell(shared, "tracelet.start_logging()")[:2] == ["script-1200", "default"]

    def test_arguments_fill_what_the_command_line_left_open(self, shared: Client) -> None:
        call = "tracelet.start_logging(exp_name='said', project='said')"
        assert self.tell(shared, call)[:2] == ["said", "said"]
        given = {"TRACELET_RUN_NAME_GIVEN": "1", "TRACELET_PROJECT": "given"}
        assert self.tell(shared, call, **given)[:2] == ["script-1200", "given"]

    def test_settings_do_too(self, shared: Client) -> None:
        call = (
            "tracelet.start_logging(settings=TraceletSettings(project='set', writer_prefix='always', stop_timeout=9))"
        )
        assert self.tell(shared, call) == ["script-1200", "set", "always", 9.0]
        assert self.tell(shared, call.replace("project='set'", "run_name='set'"))[0] == "set"

    def test_those_of_frameworks_too(self, shared: Client) -> None:
        script = """
from tracelet.settings import TraceletSettings
run = tracelet.start_logging(settings=TraceletSettings(optimizer_every=7, lightning={"capture": False}))
tell([run.id, run._frameworks["optimizers"].every, run._frameworks["lightning"].tracking])
"""
        done = shared.run(script, TRACELET_RUN_ID=uuid.uuid4().hex, TRACELET_RUN_OWNER="1")
        assert (done.code, done.err) == (0, "")
        run_id, every, tracking = done.told
        assert (every, tracking) == (7, False)
        until(lambda: not shared.spools(run_id))


class TestDisabled:
    @pytest.mark.parametrize("how", ["variable", "settings"])
    def test_nothing_happens(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str
    ) -> None:
        if how == "variable":
            monkeypatch.setenv("TRACELET_DISABLED", "1")
        before, threads = sys.exit, threading.active_count()
        settings = TraceletSettings(disabled=True) if how == "settings" else None
        with tracelet.start_logging(api_key="s3cret", config={"lr": 1}, settings=settings) as run:
            run.log_metric("a", 1)
            run.log_params({"a": 1})
            run.set_tags(["x"])
            run._frameworks["pytorch"].log_metric("a", 1, 1)
            run._frameworks["pytorch"].log_enhanced_metric("a", 1, "loss", 1)
            assert tracelet.get_active_experiment() is run
        assert tracelet.get_active_experiment() is None
        tracelet.stop_logging()
        assert pickle.loads(pickle.dumps(run)) is run
        assert not run.active
        assert list(home.iterdir()) == []
        assert sys.exit is before
        assert threading.active_count() == threads
        assert capfd.readouterr() == ("", "")


def test_secrets_are_in_their_store_and_nowhere_else(spine: Spine) -> None:
    go = spine.folder / "go"
    script = Client(spine.home, spine.folder).start(
        f"""
import importlib
importlib.reload(targets)
run = tracelet.start_logging(exp_name="secret", api_key=os.environ["KEY"], backend_url="sqlite:///mlflow.db")
run.log_metric("a", 1, 1)
tell(1)
while not os.path.exists({str(go)!r}): time.sleep(0.01)
""",
        KEY="s3cret-key",
        AWS_SECRET_ACCESS_KEY="s3cret-aws",
        MLFLOW_TRACKING_PASSWORD="s3cret-mlflow",
    )
    script.until_told()
    (entry,) = (spine.home / "credentials").glob("*.json")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    kept = json.loads(entry.read_text())["env"]
    assert kept["MLFLOW_TRACKING_TOKEN"] == "s3cret-key"
    assert kept["AWS_SECRET_ACCESS_KEY"] == "s3cret-aws"
    assert "MLFLOW_TRACKING_PASSWORD" not in kept, "it would go before the key"

    def with_secrets() -> list[Path]:
        files = [path for path in spine.home.rglob("*") if path.is_file() and path != entry]
        return [path for path in [*files, *Path("/proc").glob("[0-9]*/cmdline")] if b"s3cret" in content(path)]

    collector = until(lambda: collector_pid(spine.home))
    assert b"s3cret" not in content(Path(f"/proc/{collector}/environ"))
    assert any(path.suffix == ".seg" for path in spine.home.rglob("*"))
    assert with_secrets() == []
    go.touch()
    done = script.finish()
    assert (done.code, done.err) == (0, "")
    assert "s3cret" not in str(spine.settle())
    assert spine.stored("a") == {(1, 1.0): 1}
    assert with_secrets() == []


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile
        return b""


def test_a_password_in_an_address_is_taken_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_mlflow, "is_there", lambda module: True)
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "https://me:p%40ss@host:5000/x": (
            "https://host:5000/x",
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p@ss"},
        ),
        "postgresql+psycopg2://me:p%40ss@host/db": (
            "postgresql+psycopg2://me@host/db",
            {"MLFLOW_STORE_PASSWORD": "p@ss"},
        ),
        "https://host/x": ("https://host/x", {}),
    }
    for uri, (shown, secrets) in cases.items():
        (target,) = targets.resolve(["mlflow"], home, uri)
        assert isinstance(target, BackendTarget)
        assert target.target == shown
        kept = (
            json.loads((home / "credentials" / f"{target.credentials}.json").read_text()) if target.credentials else {}
        )
        assert secrets.items() <= kept.get("env", {}).items()
