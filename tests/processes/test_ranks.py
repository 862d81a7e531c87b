"""Which rank a process is, and which run ids ranks come to by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracelet.core.ranks import Rank, rank, shared_run_id

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "2"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
SAY = """
import json, sys
from dataclasses import asdict
from tracelet.core.ranks import rank, shared_run_id
me = rank()
print(json.dumps([me and asdict(me), me and shared_run_id(me, 0, sys.argv)]))
"""


def told(
    variables: dict[str, str], folder: Path, *arguments: str, shell: bool = False, launcher: bool = False
) -> tuple[dict[str, object], str]:
    """What a process that was started with these variables says of itself.

    Args:
        variables: its environment.
        folder: its working directory.
        arguments: of its script.
        shell: there is a shell with these variables between the launcher and it.
        launcher: not the tests are the launcher, but a process of its own.
    """
    command = [sys.executable, "-c", SAY, *arguments]
    if launcher:
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
    if shell or launcher:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    environment = {} if launcher else variables
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    me, run_id = json.loads(done.stdout)
    return me, run_id


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "1"}, None),
        ({"RANK": "x", "WORLD_SIZE": "2"}, None),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, None),
        (TORCHRUN, (5, 8, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, None)),
        (OPEN_MPI, (2, 4, 0)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2, None)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, (3, 4, 1)),
        ({**SLURM, "SLURM_NTASKS": "4"}, (3, 4, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, None),
        ({**SLURM, "SLURM_NTASKS": "4", **TORCHRUN}, (5, 8, 1)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, (1, 2, 1)),
    ],
)
def test_launchers(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, int, int | None] | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    me = rank()
    assert (me and (me.rank, me.world_size, me.local_rank)) == expected


def test_torch_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that `mp.spawn` started, say, inside a rank's."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    distributed = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    assert rank() == Rank(5, 8, 1)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    distributed.get_rank, distributed.get_world_size = lambda: 1, lambda: 2
    assert rank() == Rank(1, 2, 1)
    monkeypatch.setitem(sys.modules, "torch.distributed", SimpleNamespace())  # just being imported, or built without
    assert rank() == Rank(5, 8, 1)


def test_ranks_of_one_launcher_on_one_node_share_an_id(tmp_path: Path) -> None:
    one = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"}
    ids = [told({**one, "RANK": str(number)}, tmp_path)[1] for number in range(2)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 32
    assert told({**one, "RANK": "1", "TORCHELASTIC_RESTART_COUNT": "1"}, tmp_path)[1] == ids[0]
    assert told({**one, "RANK": "1"}, tmp_path, "--local-rank=1")[1] == ids[0]
    assert told({**one, "RANK": "1"}, tmp_path, "--local_rank", "1")[1] == ids[0]
    assert told({**one, "RANK": "1"}, tmp_path, launcher=True)[1] != ids[0], "a launch of another time"
    assert told({**one, "RANK": "1"}, tmp_path, "--lr", "1")[1] != ids[0], "another script"


def test_a_shell_may_stand_between_but_no_python(tmp_path: Path) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "1"}
    direct, between = told(variables, tmp_path), told(variables, tmp_path, shell=True)
    assert direct[1]
    assert direct == between
    child = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {SAY!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", child],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    me, run_id = json.loads(done.stdout)
    assert (me["rank"], run_id) == (0, "")


def test_a_rank_that_the_script_made_shares_no_id(tmp_path: Path) -> None:
    """It sets the variables in its own processes, perhaps for one training after the other."""
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.environ.update(RANK='0', WORLD_SIZE='2')" + SAY],
        env={}, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    me, run_id = json.loads(done.stdout)
    assert (me["rank"], run_id) == (0, "")


def test_several_nodes_share_what_the_launcher_says(tmp_path: Path) -> None:
    torchrun = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "chosen"}
    assert told(torchrun, tmp_path)[0]["job"] == "chosen"
    assert told({**torchrun, "TORCHELASTIC_RUN_ID": "none"}, tmp_path)[1] == ""
    step = {**SLURM, "SLURM_STEP_NUM_TASKS": "4"}
    mine, others = told(step, tmp_path)[1], told({**step, "SLURM_PROCID": "0"}, tmp_path, launcher=True)[1]
    assert mine == others
    assert mine not in ("", told({**step, "SLURM_STEP_ID": "3"}, tmp_path)[1])


def test_each_run_of_a_script_has_its_id() -> None:
    me = Rank(0, 2, 0, "job")
    assert len({shared_run_id(me, number, ["train.py"]) for number in range(3)}) == 3
    assert shared_run_id(me, 0, ["train.py"]) == shared_run_id(Rank(1, 2, 1, "job"), 0, ["train.py"])
    assert shared_run_id(Rank(0, 2), 0, []) == ""
    assert shared_run_id(me, 1, [], attempt=2) != shared_run_id(me, 1, []) == shared_run_id(me, 1, [], attempt=1)
