"""How a run ended is told right, in the collector and in MLflow, and the script's own end is untouched."""

from __future__ import annotations

import signal

import pytest

from tests.support.processes import until
from tests.support.spine import Spine
from tracelet.proto.v1 import records_pb2 as pb

START = """
import os, signal, sys, time
import tracelet
run = tracelet.start_logging(exp_name="end", project="faults")
run.log_metric("train/loss", 1.5, 0)
open(sys.argv[1], "r+b").write(b"\\1")
"""

ENDS = {
    "falls off the end": ("", 0, "FINISHED"),
    "stops": ("tracelet.stop_logging(); tracelet.stop_logging()", 0, "FINISHED"),
    "with block": ("with run: pass", 0, "FINISHED"),
    "with block, exception": ("with run: raise ValueError('x')", 1, "FAILED"),
    "exception": ("raise RuntimeError('boom')", 1, "FAILED"),
    "sys.exit(3)": ("sys.exit(3)", 3, "FAILED"),
    "sys.exit()": ("sys.exit()", 0, "FINISHED"),
    "os._exit": ("os._exit(0)", 0, "KILLED"),
    "SIGTERM": ("time.sleep(60)", -signal.SIGTERM, "KILLED"),
    "SIGINT": ("time.sleep(60)", -signal.SIGINT, "KILLED"),
}


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """What is told here is told of runs, wherever they are."""
    return shared_spine


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_run(spine: Spine, end: str) -> None:
    code, exit_code, word = ENDS[end]
    trainer = spine.trainer(1, script=START + code)
    until(lambda: trainer.returned, 30)
    if exit_code < 0:
        trainer.process.send_signal(-exit_code)
    assert trainer.finish(30) == exit_code, trainer.errors.read_text()
    (run,) = spine.settle().runs
    assert pb.RunStatus.Name(run.status) == f"RUN_STATUS_{word}"
    assert spine.tracked() == [word]
    assert spine.stored() == {(0, 1.5): 1}
