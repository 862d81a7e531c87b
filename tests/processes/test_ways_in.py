"""Other ways into Python than a script: a prompt, IPython, `-m`, `-c`, standard input, and options that shut us out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tracelet_collector.status import read_offline

from tests.support.clients import Client
from tests.support.commands import run, tracelet
from tests.support.processes import until
from tracelet.proto.v1 import records_pb2 as pb

POINTS = [(step, float(step)) for step in range(5)]
# Without targets no worker starts, which takes seconds.
LINES = """
from tracelet.core import targets
targets.resolve = lambda *a, **k: ()
import tracelet
run = tracelet.start_logging(exp_name={name!r})
for step in range(5): run.log_metric("loss", step, step)

"""


def words(way: str, text: str, folder: Path) -> tuple[list[str], str]:
    """A command line, and what is typed into it."""
    (folder / "train.py").write_text(text)
    (folder / "package").mkdir()
    (folder / "package/__init__.py").touch()
    (folder / "package/__main__.py").write_text(text)
    return {
        "-m module": ([sys.executable, "-m", "train"], ""),
        "-m package": ([sys.executable, "-m", "package"], ""),
        "-c code": ([sys.executable, "-c", text], ""),
        "standard input": ([sys.executable, "-"], text),
        "a prompt": ([sys.executable, "-q", "-i"], text + "1 / 0\n"),
        "a prompt after the script": ([sys.executable, "-q", "-i", "train.py"], "tracelet.stop_logging()\n1 / 0\n"),
        "a console of one's own": (
            [sys.executable, "-c", "import code; code.interact('', local={})"],
            text + "1 / 0\n",
        ),
        "-E": ([sys.executable, "-E", "train.py"], ""),
        "-I": ([sys.executable, "-I", "train.py"], ""),
    }[way]


@pytest.mark.parametrize(
    "way",
    ["-m module", "-m package", "-c code", "standard input", "a prompt", "a prompt after the script",
     "a console of one's own", "-E", "-I"],
)  # fmt: skip
def test_a_way_into_python(shared: Client, tmp_path: Path, way: str) -> None:
    command, typed = words(way, LINES.format(name=way), tmp_path)
    done = run(*command, cwd=tmp_path, given=typed, environment={"TRACELET_HOME": str(shared.home)})
    assert done.returncode == 0
    assert "tracelet" not in done.stdout + done.stderr.replace("tracelet.stop_logging", ""), done.stderr
    # At a prompt an exception ends nothing.
    assert shared.status(way) == "finished"
    assert shared.points(way, "loss") == POINTS


def test_ipython(shared: Client, tmp_path: Path) -> None:
    """As typed: a cell that logs, one that fails, one that runs a command below, one that logs again."""
    pytest.importorskip("IPython", reason="ipython is not installed")
    cells = LINES.format(name="ipython") + (
        "1 / 0\n"
        "run.log_metric('after', 1, 1)\n"
        "import subprocess, sys\n"
        "told = !echo $TRACELET_RUN_ID\n"
        "assert told == [run.id], told\n"
        "tracelet.stop_logging()\n"
        "exit\n"
    )
    environment = {"TRACELET_HOME": str(shared.home), "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor", "--quick"]
    done = run(*command, cwd=tmp_path, given=cells, environment=environment)
    assert done.returncode == 0
    assert done.stdout.count("Traceback") == 1, done.stdout
    assert done.stderr == ""
    assert shared.status("ipython") == "finished"
    assert shared.points("ipython", "loss") == POINTS
    assert shared.points("ipython", "after") == [(1, 1.0)]


CHILD = """
import subprocess, sys, tracelet
run = tracelet.start_logging()
run.log_metric("loss", 1, 1)
child = "import tracelet; tracelet.start_logging().log_metric('child', 1, 1)"
subprocess.run([sys.executable, *sys.argv[1:], "-c", child], check=True)
"""


@pytest.mark.parametrize("option", ["-E", "-I"])
def test_options_that_shut_us_out_are_said(shared: Client, tmp_path: Path, option: str) -> None:
    """Under `tracelet run`: the script is recorded nevertheless; one line says what is not."""
    (tmp_path / "train.py").write_text(CHILD)
    before = {one.run_id for one in read_offline(shared.home).runs}
    environment = {"TRACELET_HOME": str(shared.home), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command = [sys.executable, option, "train.py"]
    done = tracelet("run", *command, cwd=tmp_path, environment=environment)
    assert (done.returncode, done.stdout) == (0, "")
    said = [line for line in done.stderr.splitlines() if "PYTHONPATH" in line]
    assert len(said) == 1
    assert option in said[0]
    (run_id,) = {one.run_id for one in read_offline(shared.home).runs} - before
    until(lambda: not shared.spools(run_id), 30)
    (state,) = [one for one in read_offline(shared.home).runs if one.run_id == run_id]
    assert state.status == pb.RUN_STATUS_FINISHED
    assert state.durable == 2, "the child calls start_logging, and the variables name its run"


def test_python_without_a_home(tmp_path: Path) -> None:
    """HOME is gone, as in some containers: one line, and the script goes on."""
    text = LINES.format(name="homeless") + "tracelet.stop_logging()\nprint('done')"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "TRACELET_HOME")}
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "TRACELET_COLLECTOR_IDLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
