"""What torch starts: spawned trainings, data loaders, ranks. Real processes, a word on stderr from none of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tracelet_collector.status import read_offline

from tests.support.clients import Client
from tests.support.commands import TRACELET, run, tracelet
from tests.support.processes import children_with, until, wait_gone
from tracelet.core.metrics import Metric
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

POINTS = [(step, float(step)) for step in range(5)]
ALONE = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
# No targets, so that no worker starts, which takes seconds.
QUIET = "from tracelet.core import targets\ntargets.resolve = lambda *a, **k: ()\n"

LOADERS = """
import torch, warnings
warnings.filterwarnings("ignore", "This DataLoader will create")  # torch counts the processors of small machines
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self): return 16
    def __getitem__(self, at): return torch.tensor(float(at))
if __name__ == "__main__":
    from torch.utils.tensorboard import SummaryWriter
    tracelet.start_logging(exp_name=NAME)
    writer = SummaryWriter(os.path.join(os.path.dirname(__file__), "runs"))
    loader = DataLoader(Numbers(), batch_size=4, shuffle=True, **OPTIONS)
    for epoch in range(EPOCHS):
        for at, batch in enumerate(loader):
            writer.add_scalar("sum", batch.sum().item(), epoch * 4 + at)
    writer.close()
"""


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"num_workers": 4}, 6),
        ({"num_workers": 4, "persistent_workers": True}, 20),
        # Each of these imports torch.
        ({"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True}, 1),
        ({"num_workers": 1, "multiprocessing_context": "forkserver"}, 1),
    ],
    ids=["new workers", "persistent workers", "spawned workers", "workers of a fork server"],
)
def test_data_loaders(shared: Client, options: dict[str, object], epochs: int) -> None:
    name = f"loader {options}"
    done = shared.run(f"NAME, OPTIONS, EPOCHS = {name!r}, {options!r}, {epochs}\n{LOADERS}", seconds=100, **ALONE)
    assert (done.code, done.err) == (0, "")
    state = shared.until_ended(name)
    assert state.status == pb.RUN_STATUS_FINISHED
    assert state.durable == 4 * epochs
    points = shared.points(name, "sum")
    assert [step for step, _ in points] == list(range(4 * epochs))
    assert sum(value for _, value in points) == epochs * sum(range(16))


def test_workers_that_log(shared: Client) -> None:
    """What a data set logs in a worker arrives too, though torch ends workers by `os._exit` or a signal."""
    done = shared.run(
        """
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
class Numbers(Dataset):
    def __len__(self): return 20
    def __getitem__(self, at):
        tracelet.get_active_experiment().log_metric(f"worker {get_worker_info().id}", at, at)
        return at
tracelet.start_logging(exp_name="workers that log")
for batch in DataLoader(Numbers(), batch_size=5, num_workers=2): pass
""",
        **ALONE,
    )
    assert (done.code, done.err) == (0, "")
    assert shared.status("workers that log") == "finished"
    for worker, first in ((0, 0), (1, 5)):
        expected = [(at, float(at)) for start in (first, first + 10) for at in range(start, start + 5)]
        assert shared.points("workers that log", f"worker {worker}") == expected


SPAWN = """
import torch, torch.distributed as dist, torch.multiprocessing as mp
def train(rank, world, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    run = tracelet.start_logging(exp_name=NAME)
    assert tracelet.get_active_experiment() is run
    for step in range(5):
        dist.all_reduce(torch.ones(1))
        run.log_metric("loss", step, step)
    tracelet.stop_logging()
    dist.destroy_process_group()
if __name__ == "__main__":
    if "below" in HOW: tracelet.start_logging(exp_name=NAME)
    file = os.path.join(os.path.dirname(__file__), "meet")
    mp.spawn(train, args=(2, file), nprocs=2)
    if "below" in HOW: tracelet.stop_logging()
"""


@pytest.mark.parametrize("how", ["every rank", "all, below a run"])
def test_spawned_ranks(shared: Client, how: str) -> None:
    """Ranks that `mp.spawn` starts, and that no launcher knows of: torch.distributed says which they are."""
    name = f"spawned, {how}"
    ranks = "all" if how.startswith("all") else "first"
    done = shared.run(f"HOW, NAME = {how!r}, {name!r}\n{SPAWN}", seconds=100, TRACELET_RANKS=ranks, **ALONE)
    assert (done.code, done.err) == (0, "")
    assert shared.status(name) == "finished"
    assert [run.name for run in read_offline(shared.home).runs].count(name) == 1
    assert shared.points(name, "loss") == POINTS
    assert shared.points(name, "rank1/loss") == (POINTS if ranks == "all" else [])


GLOO = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
for step in range(5):
    dist.all_reduce(torch.ones(1))
    log("loss", step, step)
dist.destroy_process_group()
"""
# As torchrun's users write it: the same on each rank.
WITH_TRACELET = f"""{QUIET}
import tracelet
tracelet.start_logging(exp_name="ranks")
log = tracelet.get_active_experiment().log_metric
for step in range(5): log("loss", step, step)
tracelet.stop_logging()
"""
WITH_GLOO = WITH_TRACELET.replace('for step in range(5): log("loss", step, step)\n', GLOO)
UNMODIFIED = """
from torch.utils.tensorboard import SummaryWriter
writer = SummaryWriter("runs")
for step in range(5): writer.add_scalar("loss", step, step)
writer.close()
"""
# The same of ranks that import no torch: torchrun is what starts them.
WITHOUT_TORCH = "import sys\nsys.modules['torch'] = None\n" + UNMODIFIED.replace(
    "torch.utils.tensorboard", "tensorboardX"
)


class Ranks:
    """Two of torchrun's ranks, and the run that they make."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.before = {run.run_id for run in read_offline(client.home).runs}

    def words(self, script: str, *options: str) -> list[str]:
        (self.folder / "train.py").write_text(script)
        nodes = ["--standalone", "--nproc-per-node", "2"]
        return ["torchrun", *nodes, *options, "train.py"]

    def environment(self, **variables: str) -> dict[str, str]:
        return {"TRACELET_HOME": str(self.client.home), **ALONE, **variables}

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """Of the only new run, by name, once it has ended."""
        run_id = self.run_id()
        until(lambda: self.state(run_id).ended and not self.client.spools(run_id), 30, "the run's end")
        assert self.state(run_id).status == pb.RUN_STATUS_FINISHED
        found: dict[str, list[tuple[int, float]]] = {}
        for record in self.client._records(run_id):
            if isinstance(record, Metric):
                found.setdefault(record.name, []).append((record.step, record.value))
        return found

    def run_id(self) -> str:
        """Of the only new run."""
        (run_id,) = until(lambda: {run.run_id for run in read_offline(self.client.home).runs} - self.before, 60)
        return run_id

    def state(self, run_id: str) -> wire.RunState:
        (state,) = [run for run in read_offline(self.client.home).runs if run.run_id == run_id]
        return state


@pytest.fixture
def ranks(shared: Client, tmp_path: Path) -> Ranks:
    return Ranks(shared, tmp_path)


@pytest.mark.parametrize(
    ("script", "setting", "names"),
    [(WITH_GLOO, "", ["loss"]), (WITH_TRACELET, "all", ["loss", "rank1/loss"])],
    ids=["first", "all"],
)
def test_torchrun(ranks: Ranks, script: str, setting: str, names: list[str]) -> None:
    done = run(
        *ranks.words(script), cwd=ranks.folder, environment=ranks.environment(TRACELET_RANKS=setting), seconds=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert ranks.points() == {name: POINTS for name in names}


@pytest.mark.parametrize(
    ("script", "setting", "names"),
    [
        (WITH_TRACELET, "", ["loss"]),
        (UNMODIFIED, "", ["loss", "rank1/loss"]),
        (WITHOUT_TORCH, "first", ["loss"]),
    ],
    ids=["start_logging", "unmodified", "unmodified, first"],
)
def test_torchrun_under_tracelet_run(ranks: Ranks, script: str, setting: str, names: list[str]) -> None:
    environment = ranks.environment(TRACELET_RANKS=setting, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    done = tracelet("run", *ranks.words(script), cwd=ranks.folder, environment=environment, seconds=100)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert all(line.startswith("tracelet: ") for line in done.stderr.splitlines()), done.stderr
    assert ranks.points() == {name: POINTS for name in names}


def test_a_launcher_that_is_killed(ranks: Ranks) -> None:
    """`tracelet run torchrun`, while nobody but the ranks has recorded: the run is killed when the last of them is gone."""
    script = WITHOUT_TORCH + "import time\ntime.sleep(100)\n"
    words = [TRACELET, "run", *ranks.words(script)]
    environment = os.environ | ranks.environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    environment["PATH"] = os.path.dirname(TRACELET) + os.pathsep + environment["PATH"]
    with subprocess.Popen(words, cwd=ranks.folder, env=environment, stderr=subprocess.DEVNULL) as launcher:
        run_id = ranks.run_id()
        until(lambda: ranks.state(run_id).durable == 10, 60)
        trainers = children_with(launcher.pid, "train.py")
        launcher.kill()
    assert len(trainers) == 2
    first, second = trainers
    first.kill()
    assert wait_gone(first.pid, 10)
    assert ranks.state(run_id).status == pb.RUN_STATUS_RUNNING
    second.kill()
    until(lambda: ranks.state(run_id).ended and not ranks.client.spools(run_id), 30, "the run's end")
    assert ranks.state(run_id).status == pb.RUN_STATUS_KILLED
