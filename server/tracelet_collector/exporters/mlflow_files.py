"""Puts files among the artifacts of an MLflow run: into its folder, its server or its bucket, one after the other.

Content that lies in a file is never read into memory: MLflow is given a link to it, of the right name, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tracelet_collector.exporters.base import Gone, Memory, Paused, Run
from tracelet_collector.exporters.metadata import fit
from tracelet_collector.exporters.mlflow_errors import hide_password, is_refusal
from tracelet_collector.exporters.mlflow_media import PlannedFile
from tracelet_collector.exporters.thumbnails import small_image

__all__ = ["log_files"]

_SLOWEST: Final = 128 * 1024  # bytes in a second: less is no progress
_PATIENCE: Final = 60.0
_SLOWEST_SERVER: Final = 4 * 1024 * 1024
_ANSWER: Final = 30.0
_TIMEOUT: Final = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_NO_PLACE: Final = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ, errno.EFBIG}
)
_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_HTTP_NEVER: Final = frozenset({400, 409, 413, 414, 415, 422})
_HTTP_NO_RIGHT: Final = frozenset({401, 403})
_HTTP_NO_ARTIFACTS: Final = frozenset({404, 405, 501})


class _Refused(Exception):
    """This file, never."""


def log_files(
    client: MlflowClient, run: Run, tracked: str, files: Iterable[PlannedFile], memory: Memory
) -> dict[int, tuple[PlannedFile, str]]:
    """Log files, in order; one of a path that is there takes its place.

    Args:
        client: of the store.
        run: the run.
        tracked: MLflow's id of it.
        files: with their paths.
        memory: is told how long it may take.

    Returns:
        By `id` of the file: what cannot be stored, and why.

    Raises:
        Paused: nothing can be stored before somebody does something.
        OSError, MlflowException: nothing can be stored now.
    """
    refused: dict[int, tuple[PlannedFile, str]] = {}
    with tempfile.TemporaryDirectory(prefix="tracelet-") as scratch:
        for file in files:
            memory.working(_PATIENCE + file.size / _SLOWEST)
            try:
                with _patient(file.size):
                    _log_file(lambda at, folder: client.log_artifact(tracked, at, folder), run, file, Path(scratch))
            except (_Refused, Gone) as error:
                refused[id(file)] = file, fit(str(error), 400)
    return refused


@contextlib.contextmanager
def _patient(size: int) -> Iterator[None]:
    """A server answers when it has put the whole file where it belongs: MLflow is to wait for that."""
    before = os.environ.get(_TIMEOUT)
    os.environ[_TIMEOUT] = str(round(_ANSWER + size / _SLOWEST_SERVER))
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TIMEOUT]
        else:
            os.environ[_TIMEOUT] = before


def _log_file(send: Callable[[str, str | None], Any], run: Run, file: PlannedFile, scratch: Path) -> None:
    folder, _, name = file.path.rpartition("/")
    local = scratch / name
    try:
        content = run.content(file.content)
        if isinstance(content, bytes):
            local.write_bytes(content)
        else:
            local.symlink_to(content)
        _send(send, run, local, folder)
        if file.small:
            _send_small(send, run, local, file, folder)
    finally:
        local.unlink(missing_ok=True)


def _send_small(send: Callable[[str, str | None], Any], run: Run, local: Path, file: PlannedFile, folder: str) -> None:
    small = small_image(local)
    name = file.small.rpartition("/")[2] + (".webp" if small is not None else local.suffix)
    beside = local.with_name(name)
    try:
        if small is not None:
            beside.write_bytes(small)
        else:
            beside.symlink_to(local.resolve())
        _send(send, run, beside, folder)
    finally:
        beside.unlink(missing_ok=True)


def _send(send: Callable[[str, str | None], Any], run: Run, local: Path, folder: str) -> None:
    try:
        send(str(local), folder or None)
    except MlflowException as error:
        if is_refusal(error) or "nvalid artifact" in str(error):
            raise _Refused(f"MLflow refuses it: {str(error).partition(chr(10))[0]}") from error
        raise
    except OSError as error:
        _judge(error, run)
        raise


def _judge(error: OSError, run: Run) -> None:
    """Raise what an error means, unless it heals by itself."""
    shown = hide_password(run.target)
    status = getattr(getattr(error, "response", None), "status_code", None)  # of requests' HTTPError
    if error.errno in _NO_PLACE or status in _HTTP_NEVER:
        raise _Refused(f"MLflow cannot store it: {hide_password(str(error))}") from error
    if error.errno in _NO_RIGHT:
        raise Paused(
            f"artifacts of {shown} cannot be written: {error.strerror}: {error.filename}. Make that writable"
        ) from error
    if status in _HTTP_NO_RIGHT:
        raise Paused(
            f"MLflow at {shown} refuses the credentials for artifacts. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and start a run"
        ) from error
    if status in _HTTP_NO_ARTIFACTS:
        raise Paused(
            f"MLflow at {shown} takes no artifacts (it answers {status}). Start it with --serve-artifacts, or give the "
            "experiment an artifact location that this machine can write"
        ) from error
