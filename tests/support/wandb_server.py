"""The part of W&B's server that a run needs, for tests: what its SDK asks, kept as the real one keeps it.

History lines lie where their offset says, as in the real file stream; a line that comes twice is there once, and `conflicts`
says where it was another one. Faults can be switched on while it serves.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["KEY", "Fault", "KeptRun", "WandbServer", "serving"]

KEY = "local-" + "k" * 40
ENTITY = "someone"


@dataclass(frozen=True)
class Fault:
    """What the server does instead of its work.

    Attributes:
        status: the answer; 0 for none at all: the connection stays open, and silent.
        retry_after: seconds.
        only: of what path: a part of it.
    """

    status: int
    retry_after: int | None = None
    only: str = ""


@dataclass
class KeptRun:
    """A run as the server has it."""

    entity: str
    project: str
    name: str
    history: dict[int, str] = field(default_factory=dict)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)  # by the last upsert
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    starts: int = 0  # upserts that began or resumed it

    @property
    def count(self) -> int:
        return max(self.history, default=-1) + 1

    def rows(self) -> list[dict[str, Any]]:
        """The history, in order; a line that never came is a failure."""
        assert sorted(self.history) == list(range(self.count)), "lines are missing"
        return [json.loads(self.history[line]) for line in range(self.count)]


class WandbServer(ThreadingHTTPServer):
    """The server, at 127.0.0.1.

    Attributes:
        runs: by name.
        fault: what goes wrong now.
        counted: how many answers each path got.
        hidden: rows that the count does not know of yet.
        keys: what it takes.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.runs: dict[str, KeptRun] = {}
        self.fault: Fault | None = None
        self.counted: Counter[str] = Counter()
        self.hidden = 0
        self.keys = {KEY}
        self.lock = threading.RLock()
        self.released = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or a connection that it does not use any more."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            return {"upsertBucket": self._upsert(variables)}
        if "createRunFiles" in query:
            run = self.runs[variables["run"]]
            files = [
                {"name": name, "uploadUrl": f"{self.url}/put/{run.name}/{_hidden(name)}"} for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": run.name, "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in query:
            return {"model": self._resume(variables)}
        if "markRunFilesUploaded" in query or "MarkRunFilesUploaded" in query:
            return {"markRunFilesUploaded": {"success": True}}
        if "viewer" in query:
            teams = {"edges": [{"node": {"name": ENTITY}}]}
            viewer = {"id": "v", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": teams}
            return {"viewer": viewer, "serverInfo": None}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": None, "latestLocalVersionInfo": None}}
        if "RunStoppedStatus" in query:
            return {"project": {"run": {"stopped": False}}}
        raise AssertionError(query)

    def _resume(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        run = self.runs.get(variables["name"])
        if run is None:
            return None
        last = run.history.get(run.count - 1, "{}")
        bucket = {
            "id": run.name, "name": run.name, "summaryMetrics": "{}", "displayName": run.said.get("displayName"),
            "logLineCount": 0, "historyLineCount": max(run.count - self.hidden, 0), "eventsLineCount": 0,
            "historyTail": json.dumps([last]), "eventsTail": "[]", "config": json.dumps(run.config), "tags": run.tags,
            "notes": run.said.get("notes"), "wandbConfig": json.dumps({"t": {}}),
        }  # fmt: skip
        entity = {"id": run.entity, "name": run.entity}
        return {"id": run.project, "name": run.project, "entity": entity, "bucket": bucket}

    def _upsert(self, said: dict[str, Any]) -> dict[str, Any]:
        name = said.get("name") or said.get("id")
        entity = said.get("entity") or ENTITY
        inserted = name not in self.runs
        run = self.runs.setdefault(name, KeptRun(entity, said.get("project") or "", name))
        run.said |= {key: value for key, value in said.items() if value is not None}
        if said.get("displayName"):
            run.starts += 1
            run.state, run.exit_code = "running", None
        if said.get("config"):
            run.config = json.loads(said["config"])
        if said.get("tags") is not None:
            run.tags = said["tags"]
        project = {"id": run.project, "name": run.project, "entity": {"id": entity, "name": entity}}
        bucket = {
            "id": name, "name": name, "displayName": run.said.get("displayName"), "description": "",
            "config": json.dumps(run.config), "sweepName": None, "project": project, "historyLineCount": run.count,
        }  # fmt: skip
        return {"bucket": bucket, "inserted": inserted}

    def stream(self, name: str, said: dict[str, Any]) -> None:
        run = self.runs[name]
        chunk = (said.get("files") or {}).get("wandb-history.jsonl")
        for at, line in enumerate(chunk["content"] if chunk else (), start=chunk["offset"] if chunk else 0):
            before = run.history.setdefault(at, line)
            if _told(before) != _told(line):
                run.conflicts.append((before, line))
        if said.get("complete"):
            run.exit_code = said.get("exitcode", 0)
            run.state = "finished" if run.exit_code == 0 else "failed"


def _told(line: str) -> dict[str, Any]:
    """A line without what wandb-core adds of its own."""
    return {key: value for key, value in json.loads(line).items() if key not in ("_runtime", "_step")}


def _hidden(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        if (body := self._body()) is not None:
            _, _, name, path = self.path.split("/")
            with self.server.lock:
                self.server.runs[name].files[base64.urlsafe_b64decode(path).decode()] = body
            self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        with self.server.lock:
            if self.path == "/graphql":
                said = json.loads(body)
                reply: dict[str, Any] = {"data": self.server.graphql(said["query"], said.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                self.server.stream(self.path.split("/")[-2], json.loads(body))
                reply = {}
            else:
                reply = {}
        self._answer(reply)

    def _body(self) -> bytes | None:
        """What was sent; None when there is another answer to it."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.counted[self.path.rpartition("/")[2]] += 1
        fault = self.server.fault
        if fault is not None and fault.only in self.path:
            if fault.status == 0:
                self.server.released.wait(60)
                self.close_connection = True
            else:
                headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
                self._answer({"error": "a fault of the test"}, fault.status, headers)
            return None
        if not self.path.startswith("/put/"):
            key = (
                base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic "))
                .decode()
                .partition(":")[2]
            )
            if key not in self.server.keys:
                self._answer({"errors": [{"message": "user is not logged in"}]}, 401)
                return None
        return body

    def _answer(self, said: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(said).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True


@contextmanager
def serving(port: int = 0) -> Iterator[WandbServer]:
    """A server that serves until the block ends."""
    server = WandbServer(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
