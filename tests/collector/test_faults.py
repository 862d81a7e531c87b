"""The collector under fire: killed while it takes records, on a disk that fails or is full."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from tests.support.batches import batch, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.disk import dead_disk
from tests.support.processes import until
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

pytestmark = pytest.mark.faults
Serve = Callable[..., CollectorProcess]


def cut(first: int, end: int, luck: random.Random) -> Iterator[pb.Batch]:
    """Positions of a stream, in batches as they fall."""
    while first < end:
        count = min(luck.randint(1, 300), end - first)
        yield batch(first, count) if first else opening(count)
        first += count


def send_until_broken(collector: CollectorProcess, run: wire.RunSpec, end: int, luck: random.Random) -> tuple[int, str]:
    """One connection of a writer: what was acked, and why it ended."""
    stream = collector.open(run, writer_spec())
    try:
        welcome = stream.welcome()
        sent = max(welcome.next_seq - luck.randint(0, 50), 0)
        for made in cut(sent, end, luck):
            while made.first_seq + made.count > stream.acked + welcome.credit // 20:
                frame = stream.next()
                if frame is None or frame.HasField("goodbye"):
                    return stream.acked, wire.Goodbye.Code.Name(frame.goodbye.code) if frame else "over"
            stream.send(made)
        stream.acked_to(end)
    except (grpc.RpcError, AssertionError) as error:  # an assertion: something else than was awaited, such as a goodbye
        return stream.acked, repr(error)
    return stream.acked, "done"


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acked_survives_kills_exactly_once_and_in_order(serve: Serve, seed: int) -> None:
    kill_while_it_takes_records(serve, seed, kills=4)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_torture_kills(serve: Serve, torture_seed: int) -> None:
    """The collector is killed while it takes records: 6 streams, 10 kills each."""
    for seed in range(torture_seed, torture_seed + 6):
        kill_while_it_takes_records(serve, seed, kills=10)


def kill_while_it_takes_records(serve: Serve, seed: int, kills: int) -> None:
    luck = random.Random(seed)
    run, end, acked = run_spec(), 60_000, 0
    for _ in range(kills):
        collector = serve()
        when = acked + luck.randint(1, end * 4 // 5 // kills)
        stream = collector.open(run, writer_spec())
        welcome = stream.welcome()
        assert welcome.next_seq >= acked, "acked, and not there any more"
        for made in cut(max(welcome.next_seq - luck.randint(0, 50), 0), min(when + 15_000, end), luck):
            stream.send(made)
        stream.acked_to(min(when, end))
        collector.kill()
        with suppress(grpc.RpcError):  # acks that were on their way
            while (frame := stream.next()) is not None:
                assert frame.HasField("ack")
        acked = stream.acked
    collector = serve()
    assert send_until_broken(collector, run, end, luck) == (end, "done")
    assert collector.kept(run.run_id) == list(range(1, end))
    assert collector.status(run.run_id).runs[0].durable == end - 1
    collector.stop()


def test_failing_fsyncs_stop_the_acks_until_they_work_again(serve: Serve) -> None:
    luck = random.Random(3)
    collector = serve()
    run, end = run_spec(), 20_000
    assert send_until_broken(collector, run, end, luck) == (end, "done")
    with dead_disk(collector.pid):
        for _ in range(3):
            reached, why = send_until_broken(collector, run, 2 * end, luck)
            assert "CODE_STORAGE" in why
            assert reached in (end, -1)  # -1: not even a welcome
        assert collector.status().runs[0].durable == end - 1
    assert send_until_broken(collector, run, 2 * end, luck) == (2 * end, "done")
    assert collector.kept(run.run_id) == list(range(1, 2 * end))
    assert "the log works again" in [line["message"] for line in collector.journal()]
    assert collector.terminate() == 0


def test_a_collector_that_dies_with_its_disk_leaves_what_was_acked(serve: Serve) -> None:
    luck = random.Random(4)
    collector = serve()
    run, end = run_spec(), 20_000
    assert send_until_broken(collector, run, end, luck) == (end, "done")
    with dead_disk(collector.pid):
        reached, why = send_until_broken(collector, run, 2 * end, luck)
        assert (reached, "CODE_STORAGE" in why) == (end, True)
        collector.kill()
    healthy = serve()
    assert send_until_broken(healthy, run, 2 * end, luck) == (2 * end, "done")
    assert healthy.kept(run.run_id) == list(range(1, 2 * end))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(mounted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here, so a full disk under the log is not tested: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def filled(hog: int, disk: Path) -> bool:
    """Take what is free; the log's checkpoint may take some of it at the same time, and then there is less."""
    free = os.statvfs(disk)
    try:
        os.posix_fallocate(hog, 0, free.f_bavail * free.f_frsize)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def test_a_full_disk_is_a_pause(serve: Serve, disk: Path) -> None:
    luck = random.Random(5)
    collector = serve(at=disk / "home")
    run, end = run_spec(), 20_000
    assert send_until_broken(collector, run, end, luck) == (end, "done")
    hog = os.open(disk / "hog", os.O_WRONLY | os.O_CREAT)
    until(lambda: filled(hog, disk), what="a full disk")
    for _ in range(3):
        acked, why = send_until_broken(collector, run, 2 * end, luck)
        assert (acked, why) == (end, "CODE_STORAGE")
    assert collector.status().runs[0].durable == end - 1
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(collector.channel)
    sick = health_pb2.HealthCheckResponse.NOT_SERVING
    until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == sick)

    os.ftruncate(hog, 0)
    os.close(hog)
    assert send_until_broken(collector, run, 2 * end, luck) == (2 * end, "done")
    assert collector.kept(run.run_id) == list(range(1, 2 * end))
    until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=60).status != sick)
    assert collector.terminate() == 0
