"""Can a collector outlive this process? It delivers after the script has ended, but not where the machine ends with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

__all__ = ["why_none"]

_NOT: Final = ("", "0", "false", "no", "off")
# What is set where everything that was started is killed at the end of the job.
_SIGNS: Final = (
    ("a SLURM job", ("SLURM_JOB_ID",)),
    ("a PBS job", ("PBS_JOBID",)),
    ("an LSF job", ("LSB_JOBID",)),
    ("an AWS Batch job", ("AWS_BATCH_JOB_ID",)),
    ("a Kubernetes pod", ("KUBERNETES_SERVICE_HOST",)),
    ("a Colab notebook", ("COLAB_RELEASE_TAG", "COLAB_GPU", "COLAB_BACKEND_VERSION")),
    ("a Kaggle notebook", ("KAGGLE_KERNEL_RUN_TYPE",)),
    ("a CI job", ("CI", "GITHUB_ACTIONS", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD")),
)
# An init that runs services goes on when one of them ends.
_GOES_ON: Final = ("systemd", "openrc-init", "runit", "s6-svscan")


def why_none(root: Path = Path("/")) -> str:
    """What this process runs in that no collector outlives, in words; empty where one does.

    Args:
        root: the file system's root; another one for tests.
    """
    for words, names in _SIGNS:
        if any(os.environ.get(name, "").strip().lower() not in _NOT for name in names):
            return words
    if "google.colab" in sys.modules:
        return "a Colab notebook"
    if _in_container(root) and _first_process_is_above(root):
        return "a container that ends with it"
    return ""


def _in_container(root: Path) -> bool:
    named = os.environ.get("container")  # noqa: SIM112 - as systemd and podman spell it
    if named or any((root / sign).exists() for sign in (".dockerenv", "run/.containerenv")):
        return True
    try:
        said = (root / "proc/1/cgroup").read_text()
    except OSError:
        return False
    return any(word in said for word in ("docker", "kubepods", "containerd", "lxc"))


def _first_process_is_above(root: Path) -> bool:
    """Whether the container's first process is this one or started it: what `docker exec` starts is not below it."""
    try:
        if (root / "proc/1/comm").read_text().strip() in _GOES_ON:
            return False
    except OSError:
        return False
    pid = os.getpid()
    while pid > 1:
        try:
            pid = int((root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return pid == 1
