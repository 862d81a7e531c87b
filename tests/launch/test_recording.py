"""What is recorded under `tracelet run`: one run for all of a command's processes, and its end told right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import BIN, TRACELET, tracelet
from tests.support.processes import collector_pid, until, wait_gone
from tests.support.spine import Spine
from tracelet.core.metrics import RunStatus
from tracelet.proto.codec import status_from_wire
from tracelet.proto.v1 import collector_pb2 as wire

LOG = """
import os, sys, tracelet
run = tracelet.start_logging()
for step in range(5):
    run.log_metric("loss", step / 3, step)
"""
SPAWN = """
import multiprocessing, sys, tempfile
sys.modules["torch"] = None  # tensorboardX can do without

def train(name):
    from tensorboardX import SummaryWriter
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        for step in range(5):
            writer.add_scalar(name, step / 3, step)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=train, args=["child"])
    process.start()
    train("parent")
    process.join()
    raise SystemExit(process.exitcode)
"""


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """What is told here is told of runs, wherever they are."""
    return shared_spine


@pytest.fixture(autouse=True)
def _nothing_to_deliver_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivery has tests of its own; here the log tells what was recorded."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")


def script(folder: Path, text: str, name: str = "train.py") -> str:
    (folder / name).write_text(text)
    return name


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", RunStatus.FINISHED),
        ("raise SystemExit(3)", RunStatus.FAILED),
        ("raise ValueError('boom')", RunStatus.FAILED),
        ("raise KeyboardInterrupt", RunStatus.KILLED),
        ("try: raise KeyboardInterrupt\nexcept KeyboardInterrupt: raise SystemExit(1)", RunStatus.KILLED),
        ("os._exit(0)", RunStatus.KILLED),
        ("os.kill(os.getpid(), 15)", RunStatus.KILLED),
    ],
)
def test_how_a_script_ends(spine: Spine, ending: str, status: RunStatus) -> None:
    tracelet("run", "--name", "try", "--project", "p", script(spine.folder, LOG + ending), cwd=spine.folder)
    run = ended(spine)
    assert (run.name, run.project, run.durable) == ("try", "p", 5)
    assert status_from_wire(run.status) is status


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [("true", RunStatus.FINISHED, 0), ("exit 7", RunStatus.FAILED, 7), ("kill -KILL $$", RunStatus.KILLED, -9)],
)
def test_how_a_command_ends_whose_children_record(spine: Spine, ending: str, status: RunStatus, code: int) -> None:
    script(spine.folder, LOG)
    done = tracelet("run", "sh", "-c", f"python train.py; python train.py; {ending}", cwd=spine.folder)
    assert done.returncode == code
    run = ended(spine)
    assert run.durable == 10
    assert status_from_wire(run.status) is status
    assert "goes to mlflow: http://127.0.0.1:9" in done.stderr


def test_tensorboard_in_a_script_and_its_spawned_child(spine: Spine) -> None:
    done = tracelet("run", script(spine.folder, SPAWN), cwd=spine.folder)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    run = ended(spine)
    assert run.durable == 10
    assert status_from_wire(run.status) is RunStatus.FINISHED


def test_last_words(spine: Spine) -> None:
    done = tracelet("run", "--name", "try", script(spine.folder, LOG + "print('mine')"), cwd=spine.folder)
    assert done.stdout == "mine\n"
    pid = collector_pid(spine.home)
    run = ended(spine)
    assert done.stderr.splitlines() == [
        f"tracelet: run try ({run.run_id}) goes to mlflow: http://127.0.0.1:9",
        f"tracelet:   a collector (pid {pid}) stays behind and delivers; see `tracelet status`, end it by `tracelet stop`",
    ]


def test_last_words_name_the_store_absolutely(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    done = tracelet("run", "--wait", script(spine.folder, LOG), cwd=spine.folder)
    assert done.returncode == 0
    assert f"goes to mlflow: sqlite:///{spine.database}" in done.stderr
    assert f"mlflow ui --backend-store-uri sqlite:///{spine.database}" in done.stderr
    assert sum(spine.stored("loss").values()) == 5  # --wait: it is there as soon as the command has ended


def test_last_words_say_how_to_open_each(spine: Spine) -> None:
    offline = {"WANDB_MODE": "offline", "CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(spine.folder / "clearml")}
    words = ["--wait", "--backend", "wandb,clearml,tensorboard", script(spine.folder, LOG)]
    done = tracelet("run", *words, cwd=spine.folder, environment=offline)
    assert done.returncode == 0
    lines = [line.partition("open it:  ")[2] for line in done.stderr.splitlines() if "open it:" in line]
    (folder,) = spine.folder.glob("wandb/offline-run-*")
    (session,) = spine.folder.glob("clearml/offline/*/")
    assert lines[0] == f"wandb sync {folder}"
    assert lines[1] == f"""python -c 'from clearml import Task; Task.import_offline_session("{session}")'"""
    assert lines[2] == f"tensorboard --logdir {spine.folder / 'tracelet-tensorboard'}"
    assert len(lines) == 3


def test_a_script_that_logs_nothing_makes_no_run(home: Path, tmp_path: Path) -> None:
    done = tracelet("run", script(tmp_path, "import tracelet; tracelet.start_logging()"), cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert (
        tracelet("status", "--json", cwd=tmp_path).stdout
        == json.dumps({"collector": None, "runs": []}, indent=2) + "\n"
    )


def test_a_signal_ends_command_and_run(spine: Spine) -> None:
    script(spine.folder, LOG + "print(os.getpid(), flush=True); import time; time.sleep(60)")
    words = [TRACELET, "run", "sh", "-c", f"{BIN}/python train.py; true"]
    with subprocess.Popen(words, cwd=spine.folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        trainer = int(process.stdout.readline())
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    os.kill(trainer, signal.SIGKILL)  # as on plain python, the shell's end is not the end of what it started
    assert wait_gone(trainer, 10)
    assert status_from_wire(ended(spine).status) is RunStatus.KILLED


def test_kill_9_ends_command_and_run(spine: Spine) -> None:
    script(spine.folder, LOG + "print(os.getpid(), flush=True); import time; time.sleep(60)")
    words = [TRACELET, "run", "sh", "-c", f"{BIN}/python train.py; true"]
    with subprocess.Popen(words, cwd=spine.folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        trainer = int(process.stdout.readline())
        until(
            lambda: any(info["writer"]["pid"] == process.pid for info in spools(spine.home)), 30, "the owner's stream"
        )
        process.kill()
    os.kill(trainer, signal.SIGKILL)
    run = ended(spine)
    assert run.durable == 5
    assert status_from_wire(run.status) is RunStatus.KILLED


def spools(home: Path) -> list[dict[str, Any]]:
    """What the writers in a home say of themselves."""
    return [json.loads(path.read_text()) for path in home.glob("spool/*/*/spool.json")]


def ended(spine: Spine) -> wire.RunState:
    """The only run, once the collector knows of its end and has all that its processes left."""

    def over() -> wire.RunState | None:
        reply = spine.status()
        runs = [run for run in reply.runs if status_from_wire(run.status) is not RunStatus.RUNNING]
        return runs[0] if runs and not reply.pending_spools else None

    run = until(over, 30, "the run's end")
    assert run is not None
    return run
