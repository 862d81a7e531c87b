"""Two processes with formed's own distributor: the first rank's values arrive, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, os
import torch._dynamo  # before the process group: imported after it, torch 2.13 may abort at the very end
from formed.integrations.torch import DistributedDataParallelDistributor
from tests.nested.formed.training import train
from tests.seeds.histories import arrived
from tracelet import testing

with testing.capture() as cap:
    # They meet at a file: a port that is free now may be another's by then.
    distributor = DistributedDataParallelDistributor(backend="gloo", init_method=f"file://{os.getcwd()}/meeting")
    told = train(distributor=distributor, max_epochs=1)
names = ("trainer/max_epochs", "model/class")
print(json.dumps([told, arrived(cap), [cap.params.get(name) for name in names]]))
"""


def test_ranks(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")]),
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": "2",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [rank.communicate(timeout=100) for rank in ranks]
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.kill()  # one waits for another that has failed
        said = [("", rank.communicate()[1]) for rank in ranks]
    assert all(output for output, _ in said), said
    (told, first, params), (_, second, none) = (json.loads(output) for output, _ in said)
    assert {name: first[name] for name in told} == told
    assert len(told["train/loss"]) == 3
    assert params == [1, "tests.nested.formed.training.Line"]
    assert (second, none) == ({}, [None, None])  # its callbacks are told, and it records nothing
