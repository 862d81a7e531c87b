"""Speaks to a ClearML server: every call has its deadline, and every answer tells what it means for the delivery.

ClearML's own session is not used: it tries a server that is down, overloaded or has a wrong certificate again and again without
an end, and its reporter says nothing of what did not arrive. The endpoints are those of the API version below, which servers
have had since 2021; an event is delivered when `events.add_batch` has answered that it is stored.
"""

from __future__ import annotations

import base64
import email.utils
import io
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from tracelet_collector.exporters.base import Paused, Retryable, Unauthorized
from tracelet_collector.exporters.clearml_events import Refused

__all__ = ["Api", "Denied"]

_VERSION: Final = "v2.13"
_CONNECT: Final = 10.0  # seconds
_ANSWER: Final = 30.0
_SLOWEST_STORE: Final = 4 * 1024 * 1024  # bytes in a second that a server puts where they belong
_EARLY: Final = 60.0  # seconds before its end that a token is renewed
_LONGEST: Final = 400
_NEVER: Final = frozenset({400, 409, 413, 414, 415, 422})
_FALSE: Final = frozenset({"0", "false", "no", "off", "f", "n"})
_TRUE: Final = frozenset({"1", "true", "yes", "on", "t", "y", ""})


class Denied(Refused):
    """ClearML's server does not take a request.

    Attributes:
        code, subcode: ClearML's numbers of the error.
    """

    def __init__(self, code: int, subcode: int, message: str) -> None:
        self.code = code
        self.subcode = subcode
        super().__init__(message)


class Api:
    """A server's API, with the keys of the environment.

    Args:
        host: its address.
    """

    def __init__(self, host: str) -> None:
        self.host = host.rstrip("/")
        self._http = requests.Session()
        self._http.auth = _as_it_is  # not from ~/.netrc
        self._http.verify = _verify()
        self._token = ""
        self._until = 0.0

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def call(self, action: str, body: Mapping[str, Any], again: bool = True) -> dict[str, Any]:
        """One request.

        Args:
            action: as `tasks.create`.
            body: its parameters.
            again: it may be repeated, when a connection was gone.

        Returns:
            The data of the answer.

        Raises:
            Denied: the server does not want it.
            Paused, Retryable: it cannot be done now.
        """
        return self._send(action, json.dumps(body).encode(), "application/json", again)

    def call_lines(self, action: str, lines: Sequence[str]) -> dict[str, Any]:
        """One request with many parts; otherwise as `call`."""
        return self._send(action, "\n".join(lines).encode(), "application/json-lines", True)

    def upload(self, files_host: str, path: str, content: bytes | Path, media_type: str) -> None:
        """Put a file on a server of files.

        Args:
            files_host: its address.
            path: the file's, on it.
            content: the bytes, or a file that has them.
            media_type: what it is.

        Raises:
            Refused: the server does not want it.
            Paused, Retryable: it cannot be done now.
        """
        parts = urlsplit(files_host)
        if parts.path.strip("/"):  # as ClearML's own: the server is the host, and the rest is a folder on it
            path = f"{parts.path.strip('/')}/{path}"
        host = parts._replace(path="", query="", fragment="").geturl()
        for fresh in (False, True):
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                form = _Form(path, file, size, media_type)
                headers = {"Content-Type": form.content_type, "Authorization": f"Bearer {self._valid_token(fresh)}"}
                answer = self._post(host, form, headers, _ANSWER + size / _SLOWEST_STORE)
            if answer.status_code != requests.codes.unauthorized:
                break
        if answer.status_code in _NEVER:
            raise Refused(f"the ClearML files server refuses it: {answer.status_code} {answer.reason}")
        if answer.status_code == 404:
            raise Paused(f"there is no ClearML files server at {files_host}. Check CLEARML_FILES_HOST")
        self._judge(files_host, answer, answer.text)

    def _send(self, action: str, body: bytes, content_type: str, again: bool) -> dict[str, Any]:
        url = f"{self.host}/{_VERSION}/{action}"
        for fresh in (False, True):
            headers = {"Content-Type": content_type, "Authorization": f"Bearer {self._valid_token(fresh)}"}
            try:
                answer = self._post(url, body, headers, _ANSWER)
            except _Broken as error:
                if fresh or not again:
                    raise
                del error  # a connection that was kept, and that the server has closed since
                continue
            if answer.status_code != requests.codes.unauthorized:
                break
        return self._read(answer)

    def _valid_token(self, fresh: bool = False) -> str:
        if not fresh and self._token and time.time() < self._until - _EARLY:
            return self._token
        answer = self._post(f"{self.host}/{_VERSION}/auth.login", b"{}", {"Authorization": _basic(), **_JSON}, _ANSWER)
        try:
            data = self._read(answer)
        except Denied as error:
            raise Unauthorized(f"ClearML at {self.host} does not take the keys: {error}. {_KEYS}") from error
        self._token = str(data.get("token") or "")
        if not self._token:
            raise Paused(f"{self.host} gives no token: it is no ClearML API server. Check CLEARML_API_HOST")
        self._until = _end_of(self._token)
        return self._token

    def _post(self, url: str, body: Any, headers: Mapping[str, str], seconds: float) -> requests.Response:
        shown = _origin(url)
        try:
            return self._http.post(url, data=body, headers=headers, timeout=(_CONNECT, seconds), allow_redirects=False)
        except requests.exceptions.SSLError as error:
            raise Paused(
                f"ClearML at {shown} has a certificate that cannot be trusted: {_short(error)}. Give its authority with "
                "CLEARML_API_HOST_VERIFY_CERT=<file> or REQUESTS_CA_BUNDLE, and start a run"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise Paused(f"{shown} is no address of a ClearML server: {_short(error)}") from error
        except requests.exceptions.Timeout as error:
            raise Retryable(f"ClearML at {shown} does not answer: {_short(error)}") from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise _Broken(f"ClearML at {shown}: {_short(error)}") from error

    def _read(self, answer: requests.Response) -> dict[str, Any]:
        try:
            said = answer.json()
            meta, data = said["meta"], said.get("data") or {}
            words, subcode = str(meta.get("result_msg") or ""), int(meta.get("result_subcode") or 0)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._judge(self.host, answer, "")
            raise Paused(f"what answers at {self.host} is no ClearML API server. Check CLEARML_API_HOST") from None
        if answer.status_code in _NEVER:
            raise Denied(answer.status_code, subcode, _cut(words))
        self._judge(self.host, answer, words, subcode)
        return dict(data)

    def _judge(self, host: str, answer: requests.Response, words: str, subcode: int = 0) -> None:
        """Raise what a status means, unless it is well."""
        status = answer.status_code
        said = _cut(words or answer.reason or "")
        if status == requests.codes.unauthorized:
            raise Unauthorized(f"ClearML at {host} does not take the keys: {said}. {_KEYS}")
        if status == requests.codes.forbidden:
            raise Paused(f"ClearML at {host} forbids it: {said}")
        if status == requests.codes.too_many_requests or status >= 500:
            error = Retryable(f"ClearML at {host} answers {status}: {said}", _retry_after(answer))
            error.__cause__ = Denied(status, subcode, said)
            raise error
        if status >= 300:
            raise Paused(f"there is no ClearML server at {host}: it answers {status}. Check CLEARML_API_HOST")


class _Broken(Retryable):
    """There was no answer."""


_JSON: Final[Mapping[str, str]] = {"Content-Type": "application/json"}
_KEYS: Final = "Set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or run clearml-init, and start a run"


class _Form:
    """A form with one file, read bit by bit: the file is never in memory as a whole."""

    def __init__(self, path: str, file: Any, size: int, media_type: str) -> None:
        mark = uuid.uuid4().hex
        kind = (
            media_type
            if media_type.isascii() and media_type.isprintable() and media_type
            else "application/octet-stream"
        )
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{path}"; filename="{path}"\r\nContent-Type: {kind}\r\n\r\n'
        tail = f"\r\n--{mark}--\r\n"
        self.content_type = f"multipart/form-data; boundary={mark}"
        self._parts = [io.BytesIO(head.encode()), file, io.BytesIO(tail.encode())]
        self._size = len(head.encode()) + size + len(tail)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while some := self.read(64 * 1024):
            yield some

    def read(self, size: int = -1) -> bytes:
        while self._parts:
            if some := self._parts[0].read(size):
                return bytes(some)
            self._parts.pop(0)
        return b""


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _basic() -> str:
    token = os.environ.get("CLEARML_AUTH_TOKEN", "").strip()
    if token:
        return f"Bearer {token}"
    access = os.environ.get("CLEARML_API_ACCESS_KEY", "").strip()
    secret = os.environ.get("CLEARML_API_SECRET_KEY", "").strip()
    if not (access and secret):
        raise Unauthorized(f"there are no keys for ClearML. {_KEYS}")
    return "Basic " + base64.b64encode(f"{access}:{secret}".encode()).decode()


def _verify() -> bool | str:
    said = os.environ.get("CLEARML_API_HOST_VERIFY_CERT", "").strip()
    if said.lower() in _FALSE:
        import urllib3

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return False
    return True if said.lower() in _TRUE else said


def _end_of(token: str) -> float:
    """When a token ends; a token that does not say so is taken for an hour."""
    try:
        middle = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return float(said["exp"])
    except (IndexError, ValueError, TypeError, KeyError):
        return time.time() + 3600


def _retry_after(answer: requests.Response) -> float | None:
    said = answer.headers.get("Retry-After", "").strip()
    if not said:
        return None
    try:
        return max(float(said), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _short(error: BaseException) -> str:
    return _cut(str(error).partition("\n")[0] or type(error).__name__)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
