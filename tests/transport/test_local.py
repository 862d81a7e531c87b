"""The local collector: found if there is one, started if there is none, by one of all that want it, and by nobody's leave."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.support.processes import collector_pid, wait_gone
from tracelet.errors import CollectorError
from tracelet.transport import local

SAID = {"pid": 1, "version": "0.1.0", "address": "unix:{home}/a.sock", "wire": [1, 0]}


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        "",
        "no json",
        "[]",
        "{}",
        json.dumps(SAID),  # nobody listens there
        json.dumps({**SAID, "address": "unix:" + "x" * 200}),
        json.dumps({**SAID, "address": "127.0.0.1:1"}),
        json.dumps({**SAID, "wire": None}),
        json.dumps({**SAID, "pid": "x"}),
        b"\xff\xfe",
    ],
    ids=lambda said: repr(said)[:20],
)
def test_nobody_is_found(tmp_path: Path, endpoint: str | bytes | None) -> None:
    if isinstance(endpoint, bytes):
        (tmp_path / "endpoint.json").write_bytes(endpoint)
    elif endpoint is not None:
        (tmp_path / "endpoint.json").write_text(endpoint.replace("{home}", str(tmp_path)))
    assert local.find(tmp_path) is None
    assert local.find(tmp_path / "nowhere") is None


def test_a_stale_socket_is_nobody(tmp_path: Path) -> None:
    path = f"{tmp_path}/a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        (tmp_path / "endpoint.json").write_text(json.dumps({**SAID, "address": f"unix:{path}"}))
        assert local.find(tmp_path) == local.Endpoint(f"unix:{path}", 1, "0.1.0", (1, 0))
    assert Path(path).exists()
    assert local.find(tmp_path) is None


def test_many_threads_start_one(home: Path) -> None:
    found: list[local.Endpoint] = []
    threads = [threading.Thread(target=lambda: found.append(local.ensure(home, 30.0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert {endpoint.pid for endpoint in found} == {collector_pid(home)}


def test_one_that_is_killed_before_anybody_has_found_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is started at once; whoever waits does not wait in vain."""
    find, seen, killed = local.find, [], []

    def found(at: Path) -> local.Endpoint | None:
        if killed:
            return find(at)
        if pid := local.holder(at):
            if seen:
                os.kill(pid, signal.SIGKILL)
                assert wait_gone(pid, 10)
                killed.append(pid)
            seen.append(pid)
        return None

    monkeypatch.setattr(local, "find", found)
    assert local.ensure(home, 60.0).pid not in killed


def test_it_has_nothing_of_the_script(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither folder, session, environment nor descriptors; and it is not its child."""
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") + os.pathsep + str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open() as file:
        os.set_inheritable(file.fileno(), True)
        endpoint = local.ensure(home, 30.0)
    process = psutil.Process(endpoint.pid)
    assert process.cwd() == "/"
    assert os.getsid(endpoint.pid) != os.getsid(0)
    assert process.terminal() is None
    assert {name: process.environ().get(name) for name in ("WANDB_API_KEY", "PYTHONPATH", "LD_LIBRARY_PATH")} == {
        "WANDB_API_KEY": None,
        "PYTHONPATH": None,
        "LD_LIBRARY_PATH": "/opt/python/lib",
    }
    assert str(tmp_path / "file") not in [opened.path for opened in process.open_files()]
    assert endpoint.pid not in [child.pid for child in psutil.Process().children(recursive=True)]
    for number in (0, 1, 2):
        target = os.readlink(f"/proc/{endpoint.pid}/fd/{number}")
        assert target == ("/dev/null" if number == 0 else str(home / "collector.err"))


def test_where_none_can_start_it_says_why(tmp_path: Path) -> None:
    (tmp_path / "collector.err").mkdir()
    with pytest.raises(CollectorError, match=r"cannot start a collector .*: .*collector\.err"):
        local.ensure(tmp_path, 5.0)
    with pytest.raises(CollectorError, match="cannot start a collector"):
        local.ensure(tmp_path / "collector.err" / "x" / ("y" * 300), 5.0)


def test_one_that_ends_at_once_is_given_up_in_time(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    with pytest.raises(CollectorError, match=r"no collector can serve .*: cannot make the log"):
        local.ensure(tmp_path, 30.0)
    assert "cannot make the log" in (tmp_path / "collector.err").read_text()


def test_somebody_who_is_stuck_in_starting_one(tmp_path: Path) -> None:
    with (tmp_path / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CollectorError, match="for too long"):
            local.ensure(tmp_path, 0.1)


def test_an_interpreter_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CollectorError):
        local.ensure(tmp_path, 0.3)


def test_the_users_children_stay_the_users(home: Path) -> None:
    """Whoever waits for any child meets his own, and no zombie of ours is left."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys, pathlib\n"
            "from tracelet.transport import local\n"
            "local.ensure(pathlib.Path(sys.argv[1]), 30.0)\n"
            "try: print(os.waitpid(-1, os.WNOHANG))\n"
            "except ChildProcessError: print('none')",
            str(home),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("none\n", "")
