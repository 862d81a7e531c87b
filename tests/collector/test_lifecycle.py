"""A collector's life: alone in its home, found where it says, ended in order, gone when nobody needs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tracelet_collector.home import AlreadyServed, HomeLock, SocketError, log_path, socket_path

from tests.support.batches import batch, ending, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.spools import SlotWriter
from tracelet.errors import CollectorError
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport import local
from tracelet.version import __version__

Serve = Callable[..., CollectorProcess]


def refused(home: Path, *options: str) -> str:
    """What a collector says that cannot serve; it must end by itself."""
    command = [sys.executable, "-m", "tracelet_collector", "serve", "--home", str(home), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_announces_itself_and_leaves_nothing_behind(serve: Serve, home: Path) -> None:
    collector = serve()
    said = collector.endpoint
    assert (said["pid"], said["version"], said["wire"]) == (
        collector.pid,
        __version__,
        [codec.WIRE_MAJOR, codec.WIRE_MINOR],
    )
    assert abs(said["started"] - time.time()) < 60
    path = Path(said["address"].removeprefix("unix:"))
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o777 == 0o700
    reply = collector.status()
    assert reply.collector == wire.CollectorInfo(
        pid=collector.pid, version=__version__, address=said["address"], home=str(home)
    )
    for place in (home / "log", home / "collector.log", log_path(home)):
        assert place.stat().st_mode & 0o077 == 0, place
    assert collector.terminate() == 0
    assert not (home / "endpoint.json").exists()
    assert not path.exists()
    assert [line["message"] for line in collector.journal()][-1] == "the collector has ended"
    assert collector.said() == ""


def test_ten_at_once_are_one(serve: Serve, home: Path) -> None:
    collectors = [serve(ready=False) for _ in range(10)]
    until(lambda: sum(collector.process.poll() is None for collector in collectors) == 1, 60)
    (left,) = (collector for collector in collectors if collector.process.poll() is None)
    until((home / "endpoint.json").exists)
    assert json.loads((home / "endpoint.json").read_text())["pid"] == left.process.pid
    for collector in collectors:
        if collector is not left:
            assert collector.process.returncode == 0
            assert "another collector serves" in collector.said()


def test_it_goes_when_nobody_needs_it_and_not_before(serve: Serve, home: Path) -> None:
    collector = serve("--idle", "0.2")
    run = run_spec()
    stream = collector.open(run, writer_spec())
    stream.welcome()
    with pytest.raises(subprocess.TimeoutExpired):
        collector.process.wait(1)
    stream.send(opening(10), ending(10))
    stream.acked_to(11)
    child = SlotWriter(home, run_spec(), writer_spec(owner=False), sends=False)
    child.define()
    collector.hang_up()
    with pytest.raises(subprocess.TimeoutExpired):
        collector.process.wait(1.5)  # a writer to read along with
    child.die()
    assert collector.process.wait(50) == 0
    assert not child.path.exists()
    assert not (home / "endpoint.json").exists()


def test_what_is_not_delivered_keeps_it(serve: Serve) -> None:
    program = "import sys; from tracelet_collector.__main__ import serve; from tests.support.collector import Nowhere; "
    program += "from pathlib import Path; sys.exit(serve(Path(sys.argv[3]), 0.3, None, Nowhere))"
    collector = serve(program=["-c", program])
    run = run_spec("mlflow")
    stream = collector.open(run, writer_spec())
    stream.welcome()
    stream.send(opening(10))
    stream.acked_to(10)
    collector.hang_up()
    with pytest.raises(subprocess.TimeoutExpired):
        collector.process.wait(2)
    (state,) = collector.status().runs
    (backend,) = state.backends
    assert (backend.lag_points, backend.settled, backend.state, backend.last_error) == (9, False, "paused", "nowhere")
    assert backend.lag_seconds > 0
    reply = collector.stub.Stop(wire.StopRequest(drain_seconds=0.2), timeout=60)
    assert reply.lag_points == 9
    assert collector.process.wait(50) == 0


# The mask of blocked signals is inherited.
DEAF = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_signal_ends_one_whose_starter_had_it_blocked(serve: Serve) -> None:
    assert serve(wrapper=(sys.executable, "-c", DEAF)).terminate() == 0


def test_a_signal_ends_streams_in_order(serve: Serve) -> None:
    collector = serve()
    run = run_spec()
    stream = collector.open(run, writer_spec())
    stream.welcome()
    stream.send(opening(1000), *(batch(1000 * number, 1000) for number in range(1, 10)))
    stream.acked_to(1000)
    os.kill(collector.pid, 15)
    said = stream.goodbye()
    assert said.code == wire.Goodbye.CODE_DRAINING
    assert said.next_seq == stream.acked
    assert collector.process.wait(50) == 0
    again = serve()
    assert again.open(run, writer_spec()).welcome().next_seq == said.next_seq
    assert again.kept(run.run_id) == list(range(1, said.next_seq))


def test_stop_drains_and_exits(serve: Serve, home: Path) -> None:
    collector = serve()
    stream = collector.open(run_spec(), writer_spec())
    stream.welcome()
    spool = SlotWriter(home, run_spec(), writer_spec())
    spool.define()
    spool.points(10)
    spool.die()
    assert collector.stub.Stop(wire.StopRequest(drain_seconds=20), timeout=60).lag_points == 0
    assert stream.goodbye().code == wire.Goodbye.CODE_DRAINING
    assert collector.process.wait(50) == 0
    assert not spool.path.exists()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_stop_takes_odd_numbers(serve: Serve, seconds: float) -> None:
    collector = serve()
    collector.stub.Stop(wire.StopRequest(drain_seconds=seconds), timeout=60)
    assert collector.process.wait(50) == 0


def test_what_a_killed_one_left_is_no_obstacle(serve: Serve, home: Path) -> None:
    first = serve()
    address = first.endpoint["address"]
    first.kill()
    assert Path(address.removeprefix("unix:")).exists()
    assert (home / "endpoint.json").exists()
    second = serve()
    assert second.endpoint["address"] == address
    assert second.pid != first.pid
    assert second.status().collector.pid == second.pid


@pytest.mark.parametrize("lost", ["socket", "collector.lock", "home"])
def test_one_that_nobody_can_find_any_more_goes(serve: Serve, tmp_path: Path, lost: str) -> None:
    place = tmp_path / "home"
    collector = serve(at=place)
    if lost == "socket":
        Path(collector.endpoint["address"].removeprefix("unix:")).unlink()
    elif lost == "home":
        place.rename(tmp_path / "elsewhere")
    else:
        (place / lost).unlink()
    assert collector.process.wait(50) == 0


def announced(home: Path) -> object:
    try:
        return json.loads((home / "endpoint.json").read_text())
    except (OSError, ValueError):
        return None


@pytest.mark.parametrize("spoiled", [None, b"", b"{}", b"\xff", "another"])
def test_an_announcement_that_is_lost_or_spoiled_is_written_again(
    serve: Serve, home: Path, spoiled: bytes | str | None
) -> None:
    collector = serve()
    path = home / "endpoint.json"
    if spoiled is None:
        path.unlink()
    elif spoiled == "another":
        path.write_text(json.dumps({**collector.endpoint, "pid": 1}))
    else:
        assert isinstance(spoiled, bytes)
        path.write_bytes(spoiled)
    until(lambda: announced(home) == collector.endpoint)
    until(lambda: "it is written again" in (home / "collector.log").read_text())
    assert collector.process.poll() is None
    assert local.ensure(home, 20.0).pid == collector.pid


def test_an_announcement_that_cannot_be_written_is_told_once(serve: Serve, home: Path) -> None:
    collector = serve()
    (home / "endpoint.json").unlink()
    (home / "endpoint.json").mkdir()
    until(lambda: "cannot announce" in (home / "collector.log").read_text())
    (home / "endpoint.json").rmdir()
    until(lambda: announced(home) == collector.endpoint)
    assert sum("cannot announce" in str(line["message"]) for line in collector.journal()) == 1


def test_who_serves_is_known_without_an_announcement(serve: Serve, home: Path) -> None:
    assert local.holder(home) is None
    collector = serve()
    assert local.holder(home) == collector.pid
    os.kill(collector.pid, signal.SIGSTOP)
    try:
        (home / "endpoint.json").write_text("spoiled")
        assert local.find(home) is None
        assert local.holder(home) == collector.pid
    finally:
        os.kill(collector.pid, signal.SIGCONT)
    collector.terminate()
    assert local.holder(home) is None


def test_one_that_is_about_to_end_is_waited_for(serve: Serve, home: Path) -> None:
    """What wants to serve next is not sent away by a lock that will be free in a moment."""
    lock = HomeLock(home)
    follower = serve(ready=False)
    until(lambda: local.holder(home) == os.getpid())
    with pytest.raises(subprocess.TimeoutExpired):
        follower.process.wait(1)
    lock.release()
    until(follower._announced, 30)
    with pytest.raises(AlreadyServed):
        HomeLock(home)
    (home / "endpoint.json").unlink()
    with pytest.raises(AlreadyServed):
        HomeLock(home, patience=30.0)  # until it has announced itself again


def test_it_can_not_be_found_from_its_first_step_to_the_end_on(serve: Serve, home: Path) -> None:
    """While it drains, others start the next one instead of coming to it in vain."""
    program = "import sys; from tracelet_collector.__main__ import serve; from tests.support.collector import Nowhere; "
    program += "from pathlib import Path; sys.exit(serve(Path(sys.argv[3]), 60.0, None, Nowhere))"
    collector = serve(program=["-c", program])
    stream = collector.open(run_spec("mlflow"), writer_spec())
    stream.welcome()
    stream.send(opening(10))
    stream.acked_to(10)
    collector.stub.Stop(wire.StopRequest(drain_seconds=2.0), timeout=60)
    until(lambda: not (home / "endpoint.json").exists())
    assert local.find(home) is None
    assert collector.process.poll() is None
    endpoint = local.ensure(home, 30.0)
    assert endpoint.pid != collector.pid
    assert collector.process.wait(50) == 0


def test_a_log_that_is_deleted_under_it_is_told_and_begun_anew(serve: Serve, home: Path) -> None:
    collector = serve()
    run = run_spec()
    stream = collector.open(run, writer_spec())
    stream.welcome()
    stream.send(opening(10))
    stream.acked_to(10)
    shutil.rmtree(home / "log")
    stream.send(batch(10, 5))
    said = stream.goodbye()
    assert said.code in (wire.Goodbye.CODE_STORAGE, wire.Goodbye.CODE_DRAINING)
    if said.code == wire.Goodbye.CODE_STORAGE:
        assert "somebody has deleted" in said.message
    assert collector.process.wait(50) == 0
    messages = [str(line["message"]) for line in collector.journal()]
    assert any("somebody has deleted the log" in message for message in messages)
    assert not any("full" in message for message in messages)
    again = serve()
    assert again.open(run, writer_spec()).welcome().next_seq == 0  # it has nothing: the writer says what is left


def test_a_path_that_is_too_long_for_a_socket_is_not_used(serve: Serve, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir(mode=0o700)
    home = deep / "home"
    collector = serve(at=home, environment={"XDG_RUNTIME_DIR": str(deep)})
    path = Path(collector.endpoint["address"].removeprefix("unix:"))
    assert path.parent == Path(f"/tmp/tracelet-{os.getuid()}")
    assert len(os.fsencode(path)) <= 100
    assert collector.status().collector.home == str(home)


def test_the_socket_lies_where_only_its_user_can_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's home plays the part of /tmp, and of the runtime directory."""
    monkeypatch.setattr("tracelet_collector.home.Path", lambda path: home if path == "/tmp" else Path(path))
    own = home / f"tracelet-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    fitting = socket_path(home)
    assert fitting.parent == home / "tracelet"
    assert fitting.parent.stat().st_mode & 0o777 == 0o700
    assert socket_path(home / "another").name != fitting.name

    fitting.parent.chmod(0o755)
    assert socket_path(home).parent == own
    own.chmod(0o770)
    with pytest.raises(SocketError, match=r"open to others \(chmod 700"):
        socket_path(home)
    own.rmdir()
    own.symlink_to(home / "tracelet")
    with pytest.raises(SocketError, match="is no folder"):
        socket_path(home)
    own.unlink()
    own.mkdir(mode=0o700)
    os.chown(own, 12345, -1)
    with pytest.raises(SocketError, match="belongs to user 12345"):
        socket_path(home)


def test_a_home_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot use" in refused(file)
    assert "TRACELET_HOME" in refused(Path("/proc/tracelet"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, -1)
    assert "belongs to another user" in refused(theirs)


def test_a_log_of_another_version_is_said(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "log").mkdir(parents=True)
    log_path(home).write_bytes(b"something else" * 500)
    said = refused(home)
    assert "not a database" in said
    assert f"mv {home / 'log'} {home / 'log.damaged'}" in said
    with pytest.raises(CollectorError, match="not a database") as error:
        local.ensure(home, 30.0)
    assert "Move it away" in str(error.value)


def test_a_damaged_log_is_mended_by_what_the_message_says(serve: Serve, home: Path) -> None:
    spool = SlotWriter(home, run_spec(), writer_spec())
    spool.define()
    spool.points(10)
    (home / "log").mkdir()
    log_path(home).write_bytes(b"something else" * 500)
    said = refused(home)
    command = said.partition("Move it away:  ")[2].partition("  - ")[0]
    subprocess.run(command.split(), check=True)
    assert (home / "log.damaged" / "tracelet.db").exists()
    spool.die()
    collector = serve()
    until(lambda: not spool.path.exists())
    (state,) = collector.status().runs
    assert state.durable == 10


def test_it_also_listens_on_loopback_when_told_to(serve: Serve) -> None:
    collector = serve("--listen", "127.0.0.1:0")
    address = collector.endpoint["listen"]
    assert address.startswith("127.0.0.1:")
    with grpc.insecure_channel(address) as channel:
        status = channel.unary_unary(
            "/tracelet.proto.v1.Collector/Status", response_deserializer=wire.StatusReply.FromString
        )
        assert status(b"", timeout=60).collector.pid == collector.pid


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "10.1.2.3:80", "example.org:1", "::", "127.0.0.1", "127.0.0.1:x", ":1"]
)
def test_it_listens_nowhere_else(tmp_path: Path, address: str) -> None:
    said = refused(tmp_path / "home", "--listen", address)
    assert "--listen" in said
    assert "loopback" in said or "HOST:PORT" in said


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen" in refused(tmp_path / "home", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert not (tmp_path / "home" / "endpoint.json").exists()


def test_its_front_process_stays_light() -> None:
    heavy = ("torch", "numpy", "mlflow", "wandb", "clearml", "pandas", "pydantic", "typer", "rich")
    program = f"import sys, tracelet_collector.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=180)
    assert done.stdout.strip() == "[]"
