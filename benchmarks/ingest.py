"""How fast the collector makes points durable, beside SQLite with group commit alone.

Three stores take the same batches in turns, each until its last ack: the collector; a bare log behind the same gRPC stream;
the bare log in this process, without gRPC. The second is the measure of what validation, sequence and dictionary cost.

    python benchmarks/ingest.py --points 500000 --batch 100 --batch 1000
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import grpc
from bare_log import BareLog
from home import Home, temporary_home
from machine import describe
from report import Report, spread
from rich.console import Console

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb
from tracelet.spoolfile import BlobKind, SpoolBlob, SpoolItem, SpoolPoint
from tracelet.transport.session import Session

TAGS = 10
ACK_DEADLINE = 60.0


def batches(points: int, size: int) -> list[pb.Batch]:
    """A stream's batches of `size` points, as a sender cuts them."""
    items: list[SpoolItem] = [
        SpoolBlob(
            seq,
            BlobKind.TAG_DEF,
            f'{{"id": {seq + 1}, "name": "metric/{seq}", "tag": "metric/{seq}", "type": "scalar"}}'.encode(),
        )
        for seq in range(TAGS)
    ]
    start = 1_700_000_000.0
    items += [
        SpoolPoint(TAGS + number, 1 + number % TAGS, number // TAGS, 1.0 / (number + 1), start + number * 1e-3)
        for number in range(points)
    ]
    return list(codec.encode(items, size))


def hello() -> wire.Hello:
    """A new writer of a new run that is delivered nowhere."""
    run = wire.RunSpec(run_id=uuid.uuid4().hex, name="ingest", project="bench", created=time.time())
    return wire.Hello(run=run, writer=wire.WriterSpec(writer_id=uuid.uuid4().hex, epoch=time.time_ns(), owner=True))


def through_grpc(address: str, stream: Sequence[pb.Batch]) -> float:
    """Send a stream as the client's sender does; seconds until its last ack."""
    progressed = threading.Event()
    session = Session(address, hello(), progressed, timeout=30.0)
    session.eager = True

    def wait_for(position: int) -> None:
        until = time.monotonic() + ACK_DEADLINE
        while session.next_seq < position:
            if session.broken is not None:
                raise session.broken
            if time.monotonic() > until:
                raise TimeoutError(f"no ack of position {position} within {ACK_DEADLINE:g} s")
            progressed.wait(1.0)
            progressed.clear()

    begun = time.perf_counter()
    for batch in stream:
        end = batch.first_seq + batch.count
        wait_for(end - session.credit)
        session.send(batch)
    wait_for(end)
    took = time.perf_counter() - begun
    session.close()
    return took


def in_process(file: Path, stream: Sequence[pb.Batch], credit: int) -> float:
    """The same into a bare log of this process, with as many positions under way; seconds until the last commit."""
    log = BareLog(file)
    under_way = threading.Semaphore(max(1, credit // stream[-2].count))
    begun = time.perf_counter()
    for batch in stream:
        under_way.acquire()
        log.append(batch.SerializeToString(), under_way.release)
    log.close()
    return time.perf_counter() - begun


def bare_server(folder: Path, credit: int) -> tuple[subprocess.Popen[bytes], str]:
    """The bare log behind gRPC, in a process of its own."""
    name = uuid.uuid4().hex[:8]
    socket = folder / f"{name}.sock"
    server = subprocess.Popen(
        [
            *(sys.executable, Path(__file__).with_name("bare_log.py"), "serve"),
            *("--socket", socket, "--file", folder / f"{name}.db", "--credit", str(credit)),
        ]
    )
    address = f"unix:{socket}"
    grpc.channel_ready_future(grpc.insecure_channel(address)).result(timeout=30)
    return server, address


def welcomed_credit(home: Home) -> int:
    """Positions that the collector lets a writer have under way."""
    session = Session(home.start_collector().address, hello(), threading.Event(), timeout=30.0)
    credit = session.credit
    session.close()
    return credit


def measure(report: Report, home: Home, points: int, size: int, rounds: int) -> None:
    """One batch size."""
    stream = batches(points, size)
    credit = welcomed_credit(home)
    server, bare_address = bare_server(home.path, credit)
    try:
        kinds: dict[str, Callable[[], float]] = {
            "collector": lambda: through_grpc(home.start_collector().address, stream),
            "bare, same stream": partial(through_grpc, bare_address, stream),
            "bare, in process": lambda: in_process(home.path / f"{uuid.uuid4().hex}.db", stream, credit),
        }
        for run in kinds.values():
            run()  # not counted: files are made, code is warm
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, run in kinds.items():
                rates[kind].append(points / run() / 1e3)
    finally:
        server.terminate()
        server.wait(10)
    collector = rates["collector"]
    report.add(f"batches of {size}: the collector, 1,000 points/s", spread(collector, 0), rounds=collector)
    for kind, target in (("bare, same stream", 0.6), ("bare, in process", None)):
        ratios = [mine / other for mine, other in zip(collector, rates[kind], strict=True)]
        report.add(
            f"batches of {size}: ratio to {kind}",
            spread(ratios, 2),
            beside=spread(rates[kind], 0),
            target=f"≥ {target}" if target else "",
            met=statistics.median(ratios) >= target if target else None,
            rounds=ratios,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=300_000)
    parser.add_argument("--batch", type=int, action="append", help="points of a batch (100 and 1000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where to put the logs; by default among temporary files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    console = Console(stderr=True)
    with temporary_home(args.dir) as home, console.status("") as status:
        report = Report("durable ingest, one writer", describe(home.path, ("grpcio", "protobuf")))
        for size in args.batch or (100, 1000):
            status.update(f"{args.rounds} rounds of {args.points:,} points in batches of {size}")
            measure(report, home, args.points, size, args.rounds)
    report.show(args.json)


if __name__ == "__main__":
    main()
