"""Which rank of a distributed training this process is, and what tells its launch from others.

Read from what launchers leave in the environment, and from `torch.distributed` where the script has initialised it: torch is
never imported here.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tracelet.core.processes import launcher_of, was_given

__all__ = ["Rank", "rank", "shared_run_id"]

# A launcher's variables: rank, world size, rank on the node, ranks on the node. torchrun's are those of DeepSpeed and of
# Kubernetes' PyTorchJob too.
_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OPEN_MPI: Final = (
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
)  # fmt: skip
_PMI: Final = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_SLURM_STEP: Final = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "")
_SLURM_JOB: Final = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "")
_ALL: Final[tuple[tuple[str, ...], ...]] = (_TORCHRUN, _OPEN_MPI, _PMI, _SLURM_STEP, _SLURM_JOB)
# torch.distributed.launch gives each rank its number as an argument.
_LOCAL_RANK_ARGUMENT: Final = re.compile(r"--local[-_]rank(=.*)?")


@dataclass(frozen=True, slots=True)
class Rank:
    """A process's place in a distributed training.

    Attributes:
        rank: its number among all.
        world_size: how many there are.
        local_rank: its number on its node; None where nobody says.
        job: what all ranks of this launch have in common and no other launch has; empty where nothing is.
    """

    rank: int
    world_size: int
    local_rank: int | None = None
    job: str = ""


def rank() -> Rank | None:
    """This process's rank; None when it is not one of several that a launcher or `torch.distributed` knows of."""
    given = _of_launcher()
    initialised = _of_torch()
    if initialised is None:
        return given
    if given is not None and (given.rank, given.world_size) == (initialised.rank, initialised.world_size):
        return given
    return initialised


def shared_run_id(me: Rank, number: int, arguments: Sequence[str] | None = None, *, attempt: int = 1) -> str:
    """The run id that all ranks of a launch come to by themselves; empty when they have nothing in common.

    A rank that its launcher starts again comes to the same.

    Args:
        me: this process.
        number: how many runs it started before: the ranks of one script start the same ones.
        arguments: the script's, by default; two scripts that a rank runs one after the other are two runs.
        attempt: of a run that is another one in each attempt.
    """
    if not me.job:
        return ""
    words = list(sys.argv if arguments is None else arguments)
    for at in reversed(range(len(words))):
        if found := _LOCAL_RANK_ARGUMENT.fullmatch(words[at]):
            del words[at : at + (1 if found[1] else 2)]
    said = "\0".join([me.job, str(number) if attempt == 1 else f"{number} of attempt {attempt}", *words])
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _of_launcher() -> Rank | None:
    for variables in _ALL:
        number, size, local, local_size = map(_number, variables)
        if number is None or size is None or not number < size:
            continue
        slurm = variables[0] == "SLURM_PROCID"
        if slurm and size < 2:
            return None
        me = Rank(number, size, local)
        if not was_given(os.getpid(), variables[0]):
            return me  # by the script itself, to a process of its own: no launch of somebody's
        if slurm:
            return replace(me, job=_slurm_step())
        return replace(me, job=_job(variables[0], size, local_size))
    return _of_lightning()


def _of_lightning() -> Rank | None:
    """Lightning starts the other ranks of a node by itself, and names no rank but these."""
    local, node, size = _number("LOCAL_RANK"), _number("NODE_RANK"), _number("WORLD_SIZE")
    if local is None or node is None or size is None:
        return None
    # On further nodes at least that: how many ranks a node has is not said.
    return Rank(node + local, size, local) if node + local < size else None


def _of_torch() -> Rank | None:
    distributed: Any = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_initialized():
            return None
        return Rank(int(distributed.get_rank()), int(distributed.get_world_size()), _number("LOCAL_RANK"))
    except (AttributeError, RuntimeError, ValueError):  # just being imported; built without it; just being destroyed
        return None


def _number(name: str) -> int | None:
    word = os.environ.get(name, "") if name else ""
    return int(word) if word.isdecimal() and len(word) < 10 else None


def _slurm_step() -> str:
    """Unique, but for the cluster: a job's id is not given twice, nor is a step's in it."""
    said = os.environ.get
    step = said("SLURM_STEP_ID") or said("SLURM_STEPID") or ""
    return f"slurm {said('SLURM_CLUSTER_NAME', '')} {said('SLURM_JOB_ID', '')}.{step}" if said("SLURM_JOB_ID") else ""


def _job(variable: str, size: int, local_size: int | None) -> str:
    named = os.environ.get("TORCHELASTIC_RUN_ID" if variable == "RANK" else "PMIX_NAMESPACE", "")
    if named == "none":  # torchrun's, for everybody who did not choose one
        named = ""
    if local_size is not None and local_size < size:
        return named  # nodes have nothing else in common that later launches do not have too
    launcher = launcher_of(variable)
    return f"{named} {launcher.boot} {launcher.pid} {launcher.started}".strip() if launcher else ""
