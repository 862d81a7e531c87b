"""Jobs that are killed and started again: by their id, or as a scheduler's job of which that is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tracelet_collector.status import read_offline

from tests.support.clients import PRELUDE, Client, client
from tests.support.commands import TRACELET, run, tracelet
from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.core import jobs
from tracelet.core.metrics import RunEnd, RunStatus, Tags

# Resumes from its checkpoint, which is older than what it logged last; it knows no tracelet.
TRAIN = """
import os, sys, time
sys.modules["torch"] = None
from tensorboardX import SummaryWriter
first = int(open("checkpoint").read()) if os.path.exists("checkpoint") else 0
with SummaryWriter() as writer:
    for step in range(first, first + 5):
        writer.add_scalar("loss", first + step / 10, step)
open("checkpoint", "w").write("3")
while first == 0: time.sleep(0.01)
"""
LOSS = [(step, step / 10) for step in range(5)] + [(step, 3 + step / 10) for step in range(3, 8)]


def test_an_untouched_script_by_its_id(shared_spine: Spine) -> None:
    """Killed by SIGTERM, as schedulers do, and started again by the same words."""
    folder = shared_spine.folder
    (folder / "train.py").write_text(TRAIN)
    words = ["run", "--id", f"job {folder.name}", "--resume", "auto", "train.py"]
    environment = os.environ | shared_spine.environment
    with subprocess.Popen([TRACELET, *words], cwd=folder, env=environment) as first:
        until(lambda: any(run.durable == 5 for run in shared_spine.status().runs), 60, "the points")
        first.terminate()
    assert first.returncode == -signal.SIGTERM
    until(lambda: shared_spine.run().ended, 30, "the end")
    shared_spine.settle()
    assert shared_spine.tracked() == ["KILLED"]

    done = tracelet(*words, cwd=folder, environment=shared_spine.environment)
    assert done.returncode == 0, done.stderr
    shared_spine.settle()
    assert shared_spine.tracked() == ["FINISHED"]
    assert sorted(shared_spine.stored("loss").elements()) == sorted(LOSS)

    again = tracelet(*words[:3], *words[5:], cwd=folder, environment=shared_spine.environment)
    assert (again.returncode, again.stdout) == (2, "")
    assert "there is a run" in again.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--id", "nobody's", "--resume", "must"], 'no run "nobody\'s" is known in'),
        (["--resume", "auto"], "give --id too"),
        (["--id", "a/b"], "run_id='a/b'"),
        (["--id", "a", "--resume", "always"], "never, auto, must or checkpoint"),
    ],
)
def test_what_makes_no_sense_starts_nothing(tmp_path: Path, home: Path, options: list[str], says: str) -> None:
    done = tracelet("run", *options, "-c", "print('started')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.fixture(scope="module")
def shared() -> object:
    with client() as one:
        yield one


SLURM = {"SLURM_JOB_ID": "4711", "SLURM_CLUSTER_NAME": "big"}
SCRIPT = f"""{PRELUDE}
run = tracelet.start_logging(exp_name=sys.argv[1] if len(sys.argv) > 1 else None)
run.log_metric("loss", run.attempt)
print(run.id, run.attempt)
tracelet.stop_logging()
second = tracelet.start_logging()
assert second.id != run.id and second.attempt == 1, "another run of the same script"
if len(sys.argv) > 2: os.kill(os.getpid(), 9)
"""


def attempt(folder: Path, home: Path, *arguments: str, code: int = 0, **said: str) -> tuple[str, int]:
    """Run the script as a job.

    Returns:
        The first run's id, and which attempt of it that was.
    """
    (folder / "train.py").write_text(SCRIPT)
    environment = {"TRACELET_HOME": str(home), "TOLD": "told", **said}
    done = run(sys.executable, "train.py", *arguments, cwd=folder, environment=environment)
    assert (done.returncode, done.stderr) == (code, "")
    run_id, number = done.stdout.split()
    return run_id, int(number)


def test_a_job_that_slurm_requeues(shared: Client, tmp_path: Path) -> None:
    """The id is the job's. Another process of the same words in one attempt is a run of its own."""
    one = attempt(tmp_path, shared.home, "requeued", **SLURM)
    assert one[1] == 1
    beside = attempt(tmp_path, shared.home, "requeued", **SLURM)
    assert beside[1] == 1
    assert attempt(tmp_path, shared.home, "requeued", SLURM_RESTART_COUNT="1", **SLURM) == (one[0], 2)
    assert attempt(tmp_path, shared.home, "requeued", SLURM_RESTART_COUNT="4", **SLURM) == (one[0], 5)
    other = attempt(tmp_path, shared.home, "requeued", **{**SLURM, "SLURM_JOB_ID": "4712"})
    assert len({one[0], beside[0], other[0]}) == 3
    known = {run.run_id for run in read_offline(shared.home).runs}
    assert {one[0], beside[0], other[0]} < known
    said = [each.values for each in shared._records(one[0]) if isinstance(each, Tags)]
    assert said == [{"tracelet.attempt": "2"}, {"tracelet.attempt": "5"}]
    ends = [each.status for each in shared._records(one[0]) if isinstance(each, RunEnd)]
    assert ends == [RunStatus.FINISHED, *[RunStatus.RUNNING, RunStatus.FINISHED] * 2]


def test_on_another_host(shared: Client, tmp_path: Path, home: Path) -> None:
    """Its home knows nothing of the run, whose id and attempt the scheduler says."""
    batch = {"AWS_BATCH_JOB_ID": "f980f2cf-6309", "AWS_BATCH_JOB_ATTEMPT": "1"}
    first = attempt(tmp_path, shared.home, "elsewhere", **batch)
    assert first[1] == 1
    assert attempt(tmp_path, home, "elsewhere", **batch | {"AWS_BATCH_JOB_ATTEMPT": "2"}) == (first[0], 2)
    there = Client(home, tmp_path)
    assert next(each.status for each in there._records(first[0]) if isinstance(each, RunEnd)) is RunStatus.RUNNING


def test_an_id_in_the_environment(shared: Client, tmp_path: Path) -> None:
    """It is that of the first run of a script, and of no other one."""
    said = {"TRACELET_ID": "from-the-environment", "TRACELET_RESUME": "auto"}
    assert attempt(tmp_path, shared.home, "variable", **said) == ("from-the-environment", 1)
    assert attempt(tmp_path, shared.home, "variable", **said) == ("from-the-environment", 2)
    assert len(shared.points("variable", "loss")) == 2


def test_a_run_that_is_in_a_checkpoint(shared: Client) -> None:
    """As a script does by hand: the id is a text, which `torch.load` takes as it stands."""
    script = """
run_id = open("run id").read() if os.path.exists("run id") else None
run = tracelet.start_logging(exp_name="by its checkpoint", run_id=run_id, resume="auto" if run_id else "never")
run.log_metric("loss", run.attempt, run.attempt)
open("run id", "w").write(run.id)
"""
    assert [shared.run(script).code for _ in range(2)] == [0, 0]
    assert shared.status("by its checkpoint") == "finished"
    assert shared.points("by its checkpoint", "loss") == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda claim: claim.write_bytes(b"\xff")], ids=["a folder", "no text"])
def test_a_claim_that_cannot_be_read(
    home: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    """The run is a new one then, and `start_logging` raises nothing."""
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "spoiled")
    monkeypatch.setenv("AWS_BATCH_JOB_ATTEMPT", "1")
    run_id = jobs.run_id_of_job(home, ["train.py"])
    assert run_id == jobs.run_id_of_job(home, ["train.py"]) != ""
    (claim,) = (home / "jobs").iterdir()
    claim.unlink()
    spoil(claim)
    assert jobs.run_id_of_job(home, ["train.py"]) == ""
