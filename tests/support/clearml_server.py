"""A stand-in for a ClearML server: its API and its store of files, as far as tracelet and ClearML's own SDK speak to them.

It keeps what clearml-server keeps, by the rules of its source: an event takes the place of another one of the same task,
iteration, metric, variant and key, with dashes between; numbers that 32 bits do not hold are not indexed; a task's name has
three characters; an ended task takes events and edits, but no artifacts by `add_or_update_artifacts`. What is wrong with it can
be switched on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
import socket
import ssl
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

__all__ = ["ACCESS", "SECRET", "ClearmlServer", "Fault", "environment"]

ACCESS, SECRET = "ACCESSKEY", "s3cret-of-clearml"
_IDENTITY = ("task", "iter", "metric", "variant", "key")
_UPDATABLE = ("created", "queued", "in_progress")
_MAY_FOLLOW = {
    "created": ("in_progress",),
    "in_progress": ("stopped", "failed", "completed"),
    "stopped": ("failed", "in_progress", "completed"),
    "failed": ("stopped",),
    "completed": ("in_progress",),
}
_ENDS = {"started": "in_progress", "completed": "completed", "failed": "failed", "stopped": "stopped"}


def environment(server: ClearmlServer) -> dict[str, str]:
    """What a script or a worker needs to find it."""
    return {
        "CLEARML_API_HOST": server.url,
        "CLEARML_WEB_HOST": server.url,
        "CLEARML_FILES_HOST": server.files_url,
        "CLEARML_API_ACCESS_KEY": ACCESS,
        "CLEARML_API_SECRET_KEY": SECRET,
        "CLEARML_CONFIG_FILE": "/nonexistent/clearml.conf",
    }


@dataclass
class Fault:
    """What is wrong with the server.

    Attributes:
        on: the beginning of the actions that it strikes: `events.add_batch`, `files`, empty for all.
        status: what it answers; 0 for no answer at all: the connection ends.
        headers: of the answer.
        body: of the answer; by default an error of ClearML's.
        done: what was asked for is done all the same, before.
        hang: no answer before this is set.
        times: how often it strikes.
    """

    on: str = ""
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    done: bool = False
    hang: threading.Event | None = None
    times: float = math.inf


class _Error(Exception):
    def __init__(self, code: int, subcode: int, message: str) -> None:
        self.code, self.subcode = code, subcode
        super().__init__(message)


class ClearmlServer:
    """A server on a free port of 127.0.0.1.

    Attributes:
        tasks, projects: as the server has them, by id.
        events: by type and identity.
        files: path to content.
        asked: how often each action was asked for.
        fault: what is wrong with it now.
        keys: the access key and the secret that it takes.
        check: called with each action and its body, before it is done.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.fault: Fault | None = None
        self.keys = (ACCESS, SECRET)
        self.check: Callable[[str, Any], None] = lambda action, body: None
        self.problems: list[str] = []
        self.connections: set[socket.socket] = set()
        self._tokens: set[str] = set()
        self._lock = threading.Lock()
        self._tls = tls
        self._open(port)

    def _open(self, port: int) -> None:
        owner = self

        class Handler(_Handler):
            server_ = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        if self._tls is not None:
            self._http.socket = self._tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def files_url(self) -> str:
        return self.url

    def close(self) -> None:
        """Nobody listens any more: connections are refused."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def reopen(self) -> None:
        """It is back, on the same port, with all it had."""
        self._open(self.port)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Connections are refused meanwhile."""
        self.close()
        try:
            yield
        finally:
            self.reopen()

    @staticmethod
    def error(code: int, subcode: int, message: str) -> Exception:
        """An error for `check` to raise: the server answers with it."""
        return _Error(code, subcode, message)

    def forget_tokens(self) -> None:
        """Tokens that were given are not taken any more."""
        self._tokens.clear()

    def task(self) -> dict[str, Any]:
        """The only task."""
        (task,) = self.tasks.values()
        return task

    def of(self, type: str = "training_stats_scalar") -> list[dict[str, Any]]:
        """The events of a type."""
        return [event for (kind, _), event in self.events.items() if kind == type]

    def scalars(self, task: str | None = None) -> Counter[tuple[str, float, int]]:
        """Numbers: series, value and iteration, and how often each is there."""
        return Counter(
            (f"{event['metric']}/{event['variant']}", event["value"], event["iter"])
            for event in self.of()
            if task in (None, event["task"])
        )

    def login(self, header: str) -> dict[str, Any]:
        kind, _, said = header.partition(" ")
        given = base64.b64decode(said).decode() if kind == "Basic" else ""
        if given != ":".join(self.keys) and not (kind == "Bearer" and said in self._tokens):
            raise _Error(401, 22, "unauthorized (invalid credentials)")
        claims = {"exp": int(time.time()) + 86400, "api_version": "2.13", "server_version": "1.16.0", "identity": {}}
        parts = [{"alg": "HS256", "typ": "JWT"}, claims | {"jti": uuid.uuid4().hex}, {"no": "signature"}]
        token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        self._tokens.add(token)
        return {"token": token}

    def is_known(self, header: str) -> bool:
        kind, _, said = header.partition(" ")
        return kind == "Bearer" and said in self._tokens

    def do(self, action: str, body: Any) -> dict[str, Any]:
        """What an action does."""
        self.check(action, body)
        with self._lock:
            service, _, verb = action.partition(".")
            if service == "tasks" and verb in _ENDS:
                return self._set_status(body, _ENDS[verb])
            method = getattr(self, f"_{service}_{verb}", None)
            if method is None:
                self.problems.append(f"nobody knows {action}")
                raise _Error(404, 0, f"Unable to find endpoint for name {action}")
            done: dict[str, Any] = method(body)
            return done

    def _projects_get_all(self, body: Any) -> dict[str, Any]:
        pattern = body.get("name", "")
        return {"projects": [project for project in self.projects.values() if re.search(pattern, project["name"])]}

    _projects_get_all_ex = _projects_get_all

    def _projects_get_by_id(self, body: Any) -> dict[str, Any]:
        return {"project": self.projects[body["project"]]}

    def _projects_create(self, body: Any) -> dict[str, Any]:
        name = body["name"].strip()
        if any(project["name"] == name for project in self.projects.values()):
            raise _Error(400, 801, "value combination already exists")
        if any(len(part.strip()) < 3 for part in name.split("/")):
            raise _Error(400, 12, "Project name cannot be blank")
        project = {"id": uuid.uuid4().hex, "name": name, "company": "company"}
        self.projects[project["id"]] = project
        return {"id": project["id"]}

    def _tasks_create(self, body: Any) -> dict[str, Any]:
        self._validate(body)
        id = uuid.uuid4().hex
        self.tasks[id] = {"status": "created", "tags": [], **body, "id": id, "company": "company", "user": "user"}
        return {"id": id}

    def _validate(self, body: Any) -> None:
        if len(body.get("name", "abc").strip()) < 3:
            raise _Error(400, 800, "data validation error: name")
        if body.get("project") and body["project"] not in self.projects:
            raise _Error(400, 401, "invalid project id")
        if body.get("parent") and body["parent"] not in self.tasks:
            raise _Error(400, 101, "invalid task id")
        for section, params in (body.get("hyperparams") or {}).items():
            if not section or not all(name and {"section", "name", "value"} <= set(p) for name, p in params.items()):
                raise _Error(400, 12, "Empty parameter name is not allowed")
        if any(tag.startswith("__$") for tag in body.get("tags") or []):
            raise _Error(400, 16, "unsupported tag prefix")

    def _find(self, body: Any) -> dict[str, Any]:
        task = self.tasks.get(body.get("task", ""))
        if task is None:
            raise _Error(400, 101, f"Invalid task id: id={body.get('task')}")
        return task

    def _tasks_delete(self, body: Any) -> dict[str, Any]:
        del self.tasks[self._find(body)["id"]]
        return {"deleted": True}

    def _tasks_get_by_id(self, body: Any) -> dict[str, Any]:
        return {"task": self._find(body)}

    def _tasks_get_all(self, body: Any) -> dict[str, Any]:
        found = list(self.tasks.values())
        if body.get("id"):
            found = [task for task in found if task["id"] in body["id"]]
        if body.get("project"):
            found = [task for task in found if task.get("project") in body["project"]]
        for path, words in body.items():
            if path.startswith("hyperparams."):
                assert words[0] == "__$any"
                found = [task for task in found if _at(task, path) in words[1:]]
        return {"tasks": found}

    _tasks_get_all_ex = _tasks_get_all

    def _tasks_edit(self, body: Any) -> dict[str, Any]:
        task = self._find(body)
        if not body.get("force") and task["status"] != "created":
            raise _Error(400, 110, "invalid task status")
        fields = {name: value for name, value in body.items() if name not in ("task", "force")}
        self._validate(fields)
        for name, value in fields.items():
            task[name] = {**(task.get(name) or {}), **value} if name == "execution" else value
        return {"updated": 1, "fields": {}}

    _tasks_update = _tasks_edit

    def _tasks_add_or_update_artifacts(self, body: Any) -> dict[str, Any]:
        task = self._find(body)
        if task["status"] not in _UPDATABLE:
            raise _Error(400, 110, "Invalid task status: expected=created")
        kept = (task.get("execution") or {}).get("artifacts") or []
        new = {artifact["key"]: artifact for artifact in [*kept, *body["artifacts"]]}
        task["execution"] = {**(task.get("execution") or {}), "artifacts": list(new.values())}
        return {"updated": 1}

    def _set_status(self, body: Any, status: str) -> dict[str, Any]:
        task = self._find(body)
        if not body.get("force") and status not in (task["status"], *_MAY_FOLLOW.get(task["status"], ())):
            raise _Error(400, 110, "Invalid status change")
        task |= {"status": status, "status_reason": body.get("status_reason", "")}
        task["status_message"] = body.get("status_message", "")
        return {"updated": 1, "fields": {}}

    def _tasks_ping(self, body: Any) -> dict[str, Any]:
        return {}

    def _events_add_batch(self, body: Any) -> dict[str, Any]:
        errors: Counter[str] = Counter()
        added = 0
        for event in body:
            task = self.tasks.get(event.get("task", ""))
            if task is None or task["status"] == "published":
                errors[f"Invalid task id {event.get('task')}"] += 1
                continue
            if not -(2**63) <= int(event.get("iter", 0)) < 2**63:
                raise _Error(500, 0, "1 document(s) failed to index.")
            event = {"metric": "", "variant": "", **event}
            if "value" in event and not _fits(event["value"]):
                raise _Error(500, 0, "1 document(s) failed to index.")
            identity = "-".join(str(event[name]) for name in _IDENTITY if name in event)
            self.events[event["type"], identity] = event
            added += 1
        if not added:
            raise _Error(400, 131, f"Events not added: {dict(errors)}")
        return {"added": added, "errors": sum(errors.values()), "errors_info": dict(errors)}


def _fits(value: Any) -> bool:
    try:
        return math.isfinite(value) and math.isfinite(struct.unpack("<f", struct.pack("<f", value))[0])
    except (OverflowError, struct.error, TypeError):
        return False


def _at(task: Mapping[str, Any], path: str) -> Any:
    found: Any = task
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


class _Handler(BaseHTTPRequestHandler):
    server_: ClearmlServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server_.connections.add(self.connection)

    def finish(self) -> None:
        self.server_.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0].strip("/")
        files = not path and self.command == "POST"
        action = "files" if files else path.rpartition("/")[2]
        if (kept := self.server_.files.get(unquote(path))) is not None:
            self._send(200, kept)
            return
        owner = self.server_
        owner.asked[action] += 1
        fault = owner.fault if owner.fault and action.startswith(owner.fault.on) and owner.fault.times > 0 else None
        if fault is not None:
            fault.times -= 1
            if fault.done:
                self._answer(action, files, body)
            if fault.hang is not None:
                fault.hang.wait(600)
                self.close_connection = True
                return
            if not fault.status:
                self.close_connection = True
                return
            said = fault.body
            if said is None:
                said = json.dumps({"meta": {"result_code": fault.status, "result_msg": "a fault"}, "data": {}}).encode()
            self._send(fault.status, said, fault.headers)
            return
        self._send(*self._answer(action, files, body))

    do_GET = do_POST = do_PUT = do_HEAD = handle_any

    def _answer(self, action: str, files: bool, body: bytes) -> tuple[int, bytes]:
        try:
            data = self._put(body) if files else self._act(action, body)
            code, subcode, message = 200, 0, "OK"
        except (AssertionError, TypeError, KeyError, ValueError, AttributeError) as error:
            self.server_.problems.append(f"{action}: {type(error).__name__}: {error}")
            data, code, subcode, message = {}, 400, 0, str(error)
        except _Error as error:
            data, code, subcode, message = {}, error.code, error.subcode, str(error)
        meta = {"id": uuid.uuid4().hex, "trx": uuid.uuid4().hex, "endpoint": {"name": action}}
        meta |= {"result_code": code, "result_subcode": subcode, "result_msg": message, "error_data": {}}
        return code, json.dumps({"meta": meta, "data": data}).encode()

    def _act(self, action: str, body: bytes) -> dict[str, Any]:
        header = self.headers.get("Authorization") or ""
        if action == "auth.login":
            return self.server_.login(header)
        if not self.server_.is_known(header):
            raise _Error(401, 30, "invalid token")
        if self.headers.get("Content-Type") == "application/json-lines":
            return self.server_.do(action, [json.loads(line, parse_constant=_refuse) for line in body.splitlines()])
        return self.server_.do(action, json.loads(body or b"{}"))

    def _put(self, body: bytes) -> dict[str, Any]:
        if not self.server_.is_known(self.headers.get("Authorization") or ""):
            raise _Error(401, 30, "invalid token")
        mark = re.search("boundary=(.+)", self.headers["Content-Type"])
        assert mark is not None
        part = body.split(f"--{mark[1]}".encode(), 2)[1] if body.count(mark[1].encode()) == 2 else None
        assert part is not None, "one file in a form"
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'filename="([^"]*)"', head)
        assert name is not None
        self.server_.files[name[1].decode().lstrip("/")] = content.removesuffix(b"\r\n")
        return {}

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _refuse(word: str) -> Any:
    raise _Error(400, 0, f"{word} is no JSON")
