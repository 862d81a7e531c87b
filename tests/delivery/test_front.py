"""The collector's own process, while others deliver for it: no tracker in it, not a word on stdout, no memory that grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracelet_collector.exporters.table import EXPORTERS

from tests.support.ledger import Ledger
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import BUSY
from tracelet.core.targets import resolve

T0 = 1_700_000_000.0
WHOLE = """
import atexit, json, os, signal, sys, threading
from pathlib import Path

before = {number: signal.getsignal(number) for number in signal.valid_signals() if signal.getsignal(number) is not None}
from tests.support.delivering import HASTY, Desk, Writer, run_spec
from tests.support.processes import until
from tracelet.core.metrics import Metric, Params, RunEnd, RunStatus

kinds = json.loads(sys.argv[2])
hooks = atexit._ncallbacks()
with Desk(Path(sys.argv[1])) as desk:
    for kind, target, credentials in kinds:
        writer = Writer(desk.log, run_spec(kind, target, kind=kind, credentials=credentials))
        points = [Metric("loss", 0.5, step, 1.7e9) for step in range(10)]
        writer.write([Params({"lr": 0.1}, 1.7e9), *points, RunEnd(RunStatus.FINISHED, "", 1.7e9)])
        desk.delivery.wake(kind)
    for kind, _, _ in kinds:
        until(lambda: desk.cursor(kind, kind).settled, 120.0, f"{kind}: {desk.live(kind, kind)}")
    delivered = {kind: desk.cursor(kind, kind).delivered for kind, _, _ in kinds}
    after = {number: signal.getsignal(number) for number in before}
    tops = {name.partition(".")[0] for name in sys.modules}
    said = {
        "delivered": delivered,
        "loaded": sorted(tops & {"mlflow", "wandb", "clearml", "tensorboard", "torch", "sqlalchemy", "numpy", "pandas"}),
        "signals": [int(number) for number in before if before[number] is not after[number]],
        "hooks": atexit._ncallbacks() - hooks,
        "environment": sorted(name for name in os.environ if name.partition("_")[0] in ("MLFLOW", "WANDB", "CLEARML")),
    }
print(json.dumps(said), file=sys.stderr)
"""


@pytest.mark.timeout(600)
def test_no_tracker_is_in_it_and_none_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It delivers to each tracker there is, for real."""
    for name in [
        name for name in os.environ if name.partition("_")[0] in ("MLFLOW", "WANDB", "CLEARML", "TENSORBOARD")
    ]:
        monkeypatch.delenv(name)
    home, environment = tmp_path / "home", dict(os.environ)
    monkeypatch.chdir(tmp_path)
    MlflowStore.fresh(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "clearml"))
    backends = [(each.kind, each.target, each.credentials) for each in resolve(sorted(EXPORTERS), home)]
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, str(home), json.dumps(backends)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
        timeout=130 * BUSY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    said = json.loads(done.stderr.splitlines()[-1])
    assert said["delivered"] == dict.fromkeys(sorted(EXPORTERS), 10)
    assert said["loaded"] == []
    assert (said["signals"], said["hooks"], said["environment"]) == ([], 0, [])


FLAT = """
import json, sys
from pathlib import Path

import psutil
from tracelet.proto.v1 import collector_pb2 as wire
from tests.support import ledger_kind
from tests.support.delivering import HASTY, Desk, Writer
from tests.support.processes import until
from tracelet.core.metrics import Metric

home, python, dead, good, points = sys.argv[1:]
backends = [
    wire.BackendSpec(kind="ledger", target=target, interpreter=python, slot=slot)
    for slot, target in (("dead", dead), ("good", good))
]
grown = []
with Desk(Path(home)) as desk:
    writer = Writer(desk.log, wire.RunSpec(run_id="r1", name="n", project="p", created=1.7e9, backends=backends))
    chunk = [Metric(f"loss/{number % 10}", 0.5, number, 1.7e9) for number in range(10_000)]
    for _ in range(int(points) // len(chunk)):
        writer.write(chunk)
        desk.delivery.wake("r1")
        # It keeps up, more or less: so the collector's turns of both backends go on all the time.
        until(lambda: desk.cursor("r1", "good").lag_points < 200_000, 120.0)
        grown.append(psutil.Process().memory_info().rss)
    until(lambda: desk.cursor("r1", "good").settled, 120.0, str(desk.live("r1", "good")))
    until(lambda: desk.live("r1", "dead").state == "retrying", 60.0)
    cursor = desk.cursor("r1", "dead")
    grown.append(psutil.Process().memory_info().rss)
print(json.dumps({"grown": grown, "lag": cursor.lag_points, "delivered": cursor.delivered}))
"""


def check_flat(tmp_path: Path, python: str, points: int) -> None:
    dead, good = Ledger(tmp_path / "dead", server=True), Ledger(tmp_path / "good", server=True)
    dead.rule(down="nobody there")
    good.rule(blind=True)
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tmp_path / "home"), python, dead.target, good.target, str(points)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=900 * BUSY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["lag"], said["delivered"]) == (points, 0)
    grown = said["grown"]
    warm = max(grown[: len(grown) // 4])
    assert max(grown) - warm < 24 * 2**20, [size >> 20 for size in grown]


@pytest.mark.timeout(900)
def test_memory_stays_flat_while_a_backend_is_dead(tmp_path: Path, ledger_python: str) -> None:
    """What the dead one lacks, in memory, would be 60 bytes a point at least: twice as much as is allowed."""
    check_flat(tmp_path, ledger_python, 1_000_000)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_five_million_points_while_a_backend_is_dead(tmp_path: Path, ledger_python: str) -> None:
    check_flat(tmp_path, ledger_python, 5_000_000)
