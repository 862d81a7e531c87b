"""Where no collector can outlive a script, and what stopping waits for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import NO_WORKER
from tests.support.commands import run
from tests.support.spine import Spine
from tests.support.tensorboard_folder import TensorBoardFolder
from tracelet.core.outlive import why_none

HINTS = (
    "CI", "GITHUB_ACTIONS", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID",
    "AWS_BATCH_JOB_ID", "KUBERNETES_SERVICE_HOST", "COLAB_RELEASE_TAG", "COLAB_GPU", "COLAB_BACKEND_VERSION",
    "KAGGLE_KERNEL_RUN_TYPE", "container",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which collectors live on: this process was started by a shell, and that by an init."""
    for name in HINTS:
        monkeypatch.delenv(name, raising=False)
    for pid, parent, name in ((1, 0, "tini"), (50, 1, "sh"), (os.getpid(), 50, "python")):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/comm").write_text(f"{name}\n")
        (tmp_path / f"proc/{pid}/stat").write_text(f"{pid} (a name) with ) in it) S {parent} 1 1 0")
    return tmp_path


def test_an_ordinary_machine(root: Path) -> None:
    assert why_none(root) == ""


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("SLURM_JOB_ID", "4711", "a SLURM job"),
        ("PBS_JOBID", "1.server", "a PBS job"),
        ("LSB_JOBID", "1", "an LSF job"),
        ("AWS_BATCH_JOB_ID", "x", "an AWS Batch job"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1", "a Kubernetes pod"),
        ("COLAB_RELEASE_TAG", "release-colab", "a Colab notebook"),
        ("KAGGLE_KERNEL_RUN_TYPE", "Interactive", "a Kaggle notebook"),
        ("CI", "true", "a CI job"),
        ("CI", "1", "a CI job"),
        ("CI", "false", ""),
        ("CI", "", ""),
        ("TF_BUILD", "True", "a CI job"),
        ("JENKINS_URL", "https://ci", "a CI job"),
    ],
)
def test_what_jobs_leave_in_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, where: str
) -> None:
    monkeypatch.setenv(name, value)
    assert why_none(root) == where


def test_a_colab_kernel(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    assert why_none(root) == "a Colab notebook"


@pytest.mark.parametrize("sign", [".dockerenv", "run/.containerenv", "container", "cgroup"])
def test_a_container(root: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    if sign == "container":
        monkeypatch.setenv("container", "podman")
    elif sign == "cgroup":
        (root / "proc/1/cgroup").write_text("0::/system.slice/docker-abc.scope\n")
    else:
        (root / sign).parent.mkdir(exist_ok=True)
        (root / sign).touch()
    assert why_none(root) == "a container that ends with it"
    # `docker exec`: what it starts is not below the first process.
    (root / "proc/50/stat").write_text("50 (sh) S 0 1 1 0")
    assert why_none(root) == ""


def test_a_container_that_is_a_machine_of_its_own(root: Path) -> None:
    (root / ".dockerenv").touch()
    (root / "proc/1/comm").write_text("systemd\n")
    assert why_none(root) == ""


def test_a_container_without_proc(root: Path) -> None:
    (root / ".dockerenv").touch()
    (root / "proc/50/stat").unlink()
    assert why_none(root) == ""


SCRIPT = """
import os, sys, tracelet
if "ANOTHER" in os.environ: tracelet.start_logging(exp_name="first").log_metric("loss", 1, 1)
run = tracelet.start_logging(exp_name="waits")
for step in range(20): run.log_metric("loss", step / 3, step)
if sys.argv[1] == "stop": tracelet.stop_logging()
elif sys.argv[1] == "with":
    with run: pass
"""


@pytest.mark.parametrize("end", ["stop", "with", "exit"])
def test_a_job_ends_when_everything_is_delivered(home: Path, tmp_path: Path, end: str) -> None:
    """Also of the run that another one took the place of."""
    (tmp_path / "train.py").write_text(SCRIPT)
    arrived = TensorBoardFolder(tmp_path / "tb")
    environment = {"TRACELET_STOP_WAIT": "auto", "SLURM_JOB_ID": "4711", "ANOTHER": "1"}
    environment |= {"TRACELET_BACKEND": "tensorboard", "TRACELET_TENSORBOARD_DIR": str(arrived.path)}
    done = run(sys.executable, "train.py", end, cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    cards = {card["name"]: card["status"] for card in arrived.cards()}
    assert cards == {"first": "finished", "waits": "finished"}
    assert sorted(point.step for point in arrived.points()) == [0, 1, 1, *range(2, 20)]
    assert all("SLURM job" in line or "to go" in line for line in done.stderr.splitlines()), done.stderr


def test_a_tracker_that_is_down_does_not_hold_a_job_for_ever(spine: Spine) -> None:
    """What is missing, and where it is, is said, and the exit code is the script's."""
    (spine.folder / "train.py").write_text(
        NO_WORKER + "from tracelet.transport import wait\nwait.DEADLINE = 3.0\n" + SCRIPT + "\nsys.exit(3)"
    )
    environment = {**spine.environment, "TRACELET_STOP_WAIT": "delivered", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = run(sys.executable, "train.py", "stop", cwd=spine.folder, environment=environment)
    assert (done.returncode, done.stdout) == (3, "")
    first, last = done.stderr.splitlines()
    assert "waiting until everything is delivered, 3 s at most" in first
    assert "lacks 20 of 20 points" in last
    assert str(spine.home) in last


def test_elsewhere_nobody_waits(spine: Spine) -> None:
    (spine.folder / "train.py").write_text(NO_WORKER + SCRIPT)
    environment = {**spine.environment, "TRACELET_STOP_WAIT": "durable", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = run(sys.executable, "train.py", "stop", cwd=spine.folder, environment=environment | {"CI": "true"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
