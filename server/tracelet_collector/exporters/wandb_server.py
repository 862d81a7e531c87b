"""Asks a W&B server how many rows of a run it has, and tells what it means when there is no answer."""

from __future__ import annotations

import os
import re
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from tracelet_collector.exporters.base import ExportError, Paused, Retryable, Unauthorized

__all__ = ["Server", "Target", "judged"]

_TIMEOUT: Final = 20.0
_MAX_MESSAGE: Final = 400
# What wandb's own `resume` asks: the line at which it goes on.
_QUERY: Final = """
query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    bucket(name: $name, missingOk: true) {
      historyLineCount
      wandbConfig(keys: ["t"])
    }
  }
}
"""
_UNAUTHORIZED: Final = re.compile(
    r"\b40[13]\b|[Uu]nauthori[sz]ed|[Pp]ermission|not logged in|API key|[Ff]orbidden|authenticat", re.ASCII
)


class Target(NamedTuple):
    """Where a run goes.

    Attributes:
        base: the server's address; empty when offline.
        entity: the team or user; empty for the key's own.
        folder: of offline runs; empty when online.
    """

    base: str
    entity: str
    folder: str

    @classmethod
    def read(cls, target: str) -> Target:
        """A target as it is stored: an address, and behind it the entity; a path that ends in `/` is all address."""
        if target.startswith("offline:"):
            return cls("", "", target.removeprefix("offline:"))
        parts = urlsplit(target)
        path, _, entity = parts.path.rpartition("/")
        return cls(parts._replace(path=path, query="", fragment="").geturl().rstrip("/"), entity, "")


class Server:
    """A W&B server.

    Args:
        base: its address.
        key: an API key.
    """

    def __init__(self, base: str, key: str) -> None:
        import requests

        self._base = base
        self._session = requests.Session()
        self._session.auth = ("api", key)
        if os.environ.get("WANDB_INSECURE_DISABLE_SSL", "").lower() in ("1", "true"):
            self._session.verify = False

    def rows(self, entity: str, project: str, run_id: str) -> int:
        """How many rows of a run the server has; 0 when it does not know the run.

        Raises:
            Retryable, Unauthorized, Paused: it does not say.
        """
        import requests

        asked: Any = {"query": _QUERY, "variables": {"project": project, "entity": entity or None, "name": run_id}}
        try:
            reply = self._session.post(f"{self._base}/graphql", json=asked, timeout=_TIMEOUT)
            said: Any = reply.json() if reply.status_code == 200 else {}
        except requests.RequestException as error:
            raise Retryable(f"W&B at {self._base}: {_first_line(error)}") from error
        except ValueError as error:
            raise Paused(
                f"there is no W&B server at {self._base}: it answers with no JSON. Check WANDB_BASE_URL"
            ) from error
        if reply.status_code != 200:
            raise self._refused(reply)
        data = said.get("data") if isinstance(said, dict) else None
        if not isinstance(data, dict):
            errors = said.get("errors") if isinstance(said, dict) else None
            message = str(errors[0].get("message", "")) if isinstance(errors, list) and errors else "an empty answer"
            raise judged(message, self._base)
        bucket = (data.get("model") or {}).get("bucket") or {}
        return int(bucket.get("historyLineCount") or 0)

    def close(self) -> None:
        """Let go of its connections."""
        self._session.close()

    def _refused(self, reply: Any) -> ExportError:
        said = f"it answers {reply.status_code} {reply.reason}: {reply.text[:200]}".strip(": \n")
        if reply.status_code in (401, 403):
            return unauthorized(self._base, said)
        if reply.status_code in (404, 405, 501):
            return Paused(f"there is no W&B server at {self._base}: {said}. Check WANDB_BASE_URL")
        return Retryable(f"W&B at {self._base}: {said}", _seconds(reply.headers.get("Retry-After")))


def unauthorized(base: str, said: str) -> Unauthorized:
    """The server does not take the key."""
    return Unauthorized(
        f"W&B at {base} refuses the key: {said}. Run `wandb login` or set WANDB_API_KEY, and start a run; "
        "with another entity, set WANDB_ENTITY"
    )


def judged(message: str, base: str) -> ExportError:
    """What an error of the server's or of wandb's means."""
    said = message.strip().partition("\n")[0][:_MAX_MESSAGE]
    if _UNAUTHORIZED.search(message):
        return unauthorized(base, said)
    if "deleted" in message:
        return Paused(
            f"W&B at {base}: {said}. A run that was deleted there cannot be written again: restore it, or go on with a new run"
        )
    return Retryable(f"W&B at {base}: {said}")


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _first_line(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"
