"""What the collector's durable log is measured against: SQLite with group commit and nothing else.

As a program, the same behind the same gRPC stream: `python benchmarks/bare_log.py serve --socket S --file F --credit N`.
It checks nothing, removes no doubles, keeps no dictionary and counts no points.
"""

from __future__ import annotations

import argparse
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc

from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import collector_pb2_grpc as service

__all__ = ["BareLog"]

Done = Callable[[], None]
_OVER = 0  # no batch ends there


class BareLog:
    """Stores bytes: one transaction for everything that is waiting, durable when `done` is called."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._waiting: SimpleQueue[tuple[bytes, Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="bare-log", daemon=True)
        self._thread.start()

    def append(self, payload: bytes, done: Done) -> None:
        """Queue bytes."""
        self._waiting.put((payload, done))

    def close(self) -> None:
        """Write what is queued, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        store = sqlite3.connect(self._file, isolation_level=None)
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("PRAGMA synchronous = FULL")
        store.execute("CREATE TABLE batches (lsn INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        ended = False
        while not ended:
            taken = [self._waiting.get()]
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            ended = taken[-1] is None
            group = [each for each in taken if each is not None]
            store.execute("BEGIN")
            store.executemany("INSERT INTO batches (payload) VALUES (?)", ((payload,) for payload, _ in group))
            store.execute("COMMIT")
            for _, done in group:
                done()
        store.close()


class BareCollector(service.CollectorServicer):
    """The collector's stream, in front of a bare log."""

    def __init__(self, log: BareLog, credit: int) -> None:
        self._log = log
        self._credit = credit

    def Publish(self, request_iterator: Iterator[wire.ClientFrame], context: Any) -> Iterator[wire.ServerFrame]:
        ends: SimpleQueue[int] = SimpleQueue()

        def take() -> None:
            try:
                for frame in request_iterator:
                    batch = frame.batch
                    end = batch.first_seq + batch.count
                    self._log.append(batch.SerializeToString(), lambda end=end: ends.put(end))
            except grpc.RpcError:  # how the end of a client's stream looks from here
                return
            finally:
                ends.put(_OVER)

        next(request_iterator)
        yield wire.ServerFrame(
            welcome=wire.Welcome(
                wire=wire.WireVersion(major=codec.WIRE_MAJOR, minor=codec.WIRE_MINOR),
                credit=self._credit,
                max_batch_records=codec.MAX_BATCH_RECORDS,
                max_batch_bytes=codec.MAX_BATCH_BYTES,
            )
        )
        threading.Thread(target=take, name="bare-take", daemon=True).start()
        over = False
        while not over:
            known = [ends.get()]
            while not ends.empty():
                known.append(ends.get())
            over = _OVER in known
            yield wire.ServerFrame(ack=wire.Ack(next_seq=max(known), credit=self._credit))  # acks are cumulative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("serve",))
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--credit", type=int, required=True)
    args = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    service.add_CollectorServicer_to_server(BareCollector(BareLog(args.file), args.credit), server)
    server.add_insecure_port(f"unix:{args.socket}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
