"""Processes that a script starts in Python's ways: they write to its run, or begin one of their own."""

from __future__ import annotations

from contextlib import closing

import pytest
from tracelet_collector.home import log_path
from tracelet_collector.log.schema import open_reader
from tracelet_collector.status import read_offline

from tests.support.clients import Client, Done
from tests.support.commands import TRACELET
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

METHODS = ["fork", "spawn", "forkserver"]
POINTS = [(step, float(step)) for step in range(50)]

# A module of its own: children import it, whoever starts them, and find no run in it.
WORK = """
import os
import tracelet

def joined(name):
    run = tracelet.start_logging(exp_name="of the child")
    for step in range(50): run.log_metric(name, step, step)
    tracelet.stop_logging()
    return run.id, run.is_owner, os.getpid()

def given(run, name):
    for step in range(50): run.log_metric(name, step, step)
    return run.id, run.is_owner, os.getpid()
"""
# What children import is found in the folder that they work in; and without targets no worker starts, in them too.
AS_IN_PARENT = """
import sys, pathlib
folder = pathlib.Path(__file__).parent
if __name__ == "__main__":
    (folder / "work.py").write_text("from tracelet.core import targets\\ntargets.resolve = lambda *a, **k: ()\\n" + WORK)
sys.path.insert(0, str(folder))
import multiprocessing, concurrent.futures, work
"""


def run(shared: Client, text: str, **environment: str | None) -> Done:
    return shared.run(f"WORK = {WORK!r}\n{AS_IN_PARENT}\n{text}", **environment)


def parent_of(shared: Client, run_id: str) -> str:
    with closing(open_reader(log_path(shared.home))) as db:
        (spec,) = db.execute("SELECT spec FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return wire.RunSpec.FromString(spec).parent


@pytest.mark.parametrize("method", METHODS)
def test_a_pool(shared: Client, method: str) -> None:
    name = f"pool {method}"
    done = run(
        shared,
        f"""
if __name__ == "__main__":
    run = tracelet.start_logging(exp_name="{name}")
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        told = pool.map(work.joined, ["a", "b", "c", "d"], chunksize=1)
        pool.close(); pool.join()
    run.log_metric("parent", 1, 1)
    tell([run.id, told])
""",
    )
    assert (done.code, done.err) == (0, "")
    run_id, told = done.told
    assert all(each[:2] == [run_id, False] for each in told)
    assert shared.status(name) == "finished"
    assert shared.points(name, "parent") == [(1, 1.0)]
    for metric in "abcd":
        assert shared.points(name, metric) == POINTS


@pytest.mark.parametrize("method", METHODS)
def test_an_executor(shared: Client, method: str) -> None:
    """What it is handed writes to the run that it came from."""
    name = f"executor {method}"
    done = run(
        shared,
        f"""
if __name__ == "__main__":
    run = tracelet.start_logging(exp_name="{name}")
    context = multiprocessing.get_context("{method}")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        told = list(pool.map(work.given, [run] * 4, "abcd"))
    tell([run.id, told])
""",
    )
    assert (done.code, done.err) == (0, "")
    run_id, told = done.told
    assert all(each[:2] == [run_id, False] for each in told)
    assert shared.status(name) == "finished"
    for metric in "abcd":
        assert shared.points(name, metric) == POINTS


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_terminated(shared: Client, method: str) -> None:
    """As at the end of `with Pool()`: its processes die by a signal, and no point does."""
    name = f"terminated {method}"
    done = run(
        shared,
        f"""
if __name__ == "__main__":
    run = tracelet.start_logging(exp_name="{name}")
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        pool.starmap(work.given, [(run, "a"), (run, "b")], chunksize=1)
""",
    )
    assert (done.code, done.err) == (0, "")
    assert shared.status(name) == "finished"
    assert shared.points(name, "a") == shared.points(name, "b") == POINTS


def test_a_script_that_starts_logging_when_it_is_imported(shared: Client) -> None:
    """Spawned children import it again: they join the run, and make none."""
    done = shared.run(
        """
import multiprocessing
run = tracelet.start_logging(exp_name="unguarded")
def train(name):
    for step in range(50): run.log_metric(name, step, step)
if __name__ == "__main__":
    children = [multiprocessing.get_context("spawn").Process(target=train, args=(name,)) for name in "ab"]
    for child in children: child.start()
    for child in children: child.join()
    tell([child.exitcode for child in children])
"""
    )
    assert (done.code, done.err, done.told) == (0, "", [0, 0])
    assert shared.status("unguarded") == "finished"
    assert shared.points("unguarded", "a") == shared.points("unguarded", "b") == POINTS


def test_a_command(shared: Client) -> None:
    """A subprocess that starts logging joins the run, whatever it calls it, under the names that the run has."""
    done = run(
        shared,
        """
import subprocess
before = dict(os.environ)
run = tracelet.start_logging(exp_name="with a command", project="parent's")
during = dict(os.environ)
subprocess.run([sys.executable, folder / "work.py"], check=True)
code = "import work; import json, sys; json.dump(work.joined('child'), sys.stderr)"
told = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stderr
tracelet.stop_logging()
alone = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stderr
tell([run.id, json.loads(told), json.loads(alone), during.get("TRACELET_RUN_ID"), sorted(before.items() ^ os.environ.items())])
""",
    )
    assert (done.code, done.err) == (0, "")
    run_id, child, alone, left, changed = done.told
    assert child[:2] == [run_id, False]
    assert left == run_id
    assert changed == []
    assert alone[0] != run_id
    assert alone[1]
    state = shared.until_ended("with a command")
    assert (state.project, state.durable) == ("parent's", 50)
    assert shared.points("with a command", "child") == POINTS
    assert shared.status("of the child") == "finished"


def test_with_several_runs_children_begin_their_own(shared: Client) -> None:
    """Nobody could say which of them is meant."""
    done = shared.run(
        """
import contextvars
seen = []
first = tracelet.start_logging(exp_name="first of two")
seen.append(os.environ.get("TRACELET_RUN_ID") == first.id)
second = contextvars.Context().run(tracelet.start_logging, exp_name="second of two")
seen.append("TRACELET_RUN_ID" in os.environ)
tracelet.stop_logging()
seen.append(os.environ.get("TRACELET_RUN_ID") == second.id)
tell(seen)
"""
    )
    assert (done.code, done.err, done.told) == (0, "", [True, False, True])


@pytest.mark.parametrize("method", METHODS)
def test_runs_of_their_own(shared: Client, method: str) -> None:
    """TRACELET_CHILD_RUNS=new: each start is a run, below the one that its process was started in."""
    name = f"study {method}"
    done = run(
        shared,
        f"""
if __name__ == "__main__":
    run = tracelet.start_logging(exp_name="{name}")
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        told = pool.map(work.joined, ["a", "b", "c", "d"], chunksize=1)
        pool.close(); pool.join()
    tell([run.id, told])
""",
        TRACELET_CHILD_RUNS="new",
    )
    assert (done.code, done.err) == (0, "")
    run_id, told = done.told
    assert len({each[0] for each in told} | {run_id}) == 5
    assert all(is_owner for _, is_owner, _ in told)
    assert shared.status(name) == "finished"
    states = {state.run_id: state for state in read_offline(shared.home).runs}
    for child, _, _ in told:
        assert (states[child].name, states[child].durable, states[child].status) == (
            "of the child",
            50,
            pb.RUN_STATUS_FINISHED,
        )
        assert parent_of(shared, child) == run_id


def test_a_job_that_the_script_submits_is_no_child(shared: Client) -> None:
    """sbatch hands the environment on."""
    done = run(
        shared,
        """
import subprocess
run = tracelet.start_logging(exp_name="submits")
code = "import work; import json, sys; json.dump(work.joined('a'), sys.stderr)"
def submit(**variables):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | variables, check=True, capture_output=True, text=True
    )
    return json.loads(done.stderr)
tell([run.id, submit(SLURM_JOB_ID="4711"), submit()])
""",
    )
    assert (done.code, done.err) == (0, "")
    run_id, job, child = done.told
    assert job[0] != run_id
    assert job[1]
    assert child[:2] == [run_id, False]


def test_tracelet_run_below_a_run_is_a_run_of_its_own(shared: Client) -> None:
    """It finds nothing that the script left for its children."""
    done = shared.run(
        f"""
import subprocess
run = tracelet.start_logging(exp_name="starts a launcher")
show = "import json, os, sys; json.dump({{k: v for k, v in os.environ.items() if k.startswith('TRACELET_RUN_')}}, sys.stderr)"
words = [{TRACELET!r}, "run", "-c", show]
told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True, timeout=180).stderr)
tell([run.id, os.getpid(), told])
"""
    )
    assert (done.code, done.err) == (0, "")
    run_id, pid, told = done.told
    assert told["TRACELET_RUN_ID"] not in ("", run_id)
    assert told["TRACELET_RUN_OWNER"] not in ("", str(pid))
    assert not {"TRACELET_RUN_HOME", "TRACELET_RUN_JOB"} & told.keys()
