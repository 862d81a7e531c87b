"""Tells what an MLflow error means for the delivery: later, not before somebody acts, or these points never."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import mlflow
from mlflow.exceptions import MlflowException

from tracelet_collector.exporters.base import ExportError, Paused, Retryable, Unauthorized
from tracelet_collector.exporters.mlflow_waits import listening

__all__ = ["hide_password", "is_gone", "is_refusal", "translated"]

_MAX_MESSAGE: Final = 400
# What these say is true until somebody changes it.
_FORBIDDEN: Final = frozenset({"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"})
_REFUSED: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
_LASTING: Final = re.compile(
    r"readonly database|file is not a database|disk image is malformed|CERTIFICATE_VERIFY_FAILED"
    r"|maintenance mode|[Nn]o suitable|UnsupportedModelRegistryStoreURI|Could not find a registered"
)
_PREAMBLE: Final = "(raised as a result of"  # of SQLAlchemy; the reason is in the next line
_PASSWORD: Final = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")


def hide_password(text: str) -> str:
    """The text, with the password of any URI in it as `***`."""
    return _PASSWORD.sub(r"\1:***@", text)


def is_gone(error: MlflowException) -> bool:
    """The run (or its experiment) is not in the store."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def is_refusal(error: MlflowException) -> bool:
    """MLflow does not want what it was given, and never will."""
    return error.error_code in _REFUSED and not is_lasting(error)


def is_lasting(error: BaseException) -> bool:
    """Whatever it is, it stays until somebody changes it."""
    return bool(_LASTING.search(str(error)))


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Turn MLflow's exceptions into `Retryable` and `Paused`; what nobody foresaw passes unchanged.

    Args:
        target: the tracking URI, for the message.
    """
    with listening() as asked:
        try:
            with _named(target):
                yield
        except Retryable as error:
            error.retry_after = error.retry_after or asked.seconds
            raise


@contextmanager
def _named(target: str) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except MlflowException as error:
        raise _translate(error, target) from error
    except ImportError as error:
        raise Paused(
            f"MLflow cannot use {hide_password(target)}: {_first_line(error)}. "
            f"Install what is missing for {sys.executable}"
        ) from error
    except (OSError, TimeoutError) as error:
        raise Retryable(f"{hide_password(target)}: {_first_line(error)}") from error
    except Exception as error:
        # Without importing SQLAlchemy: mlflow-skinny does not bring it.
        if type(error).__module__.partition(".")[0] == "sqlalchemy":
            lasting = is_lasting(error)
            raise (Paused if lasting else Retryable)(f"{hide_password(target)}: {_first_line(error)}") from error
        raise


def _translate(error: MlflowException, target: str) -> ExportError:
    shown, said = hide_password(target), _first_line(error)
    if "out-of-date database schema" in str(error):
        return Paused(
            f"the MLflow store has the schema of another version than MLflow {mlflow.__version__}. Take a backup, then: "
            f"{sys.executable} -m mlflow db upgrade {shown}  (or install the version that made it)"
        )
    if error.error_code in _FORBIDDEN:
        return Unauthorized(
            f"MLflow at {shown} refuses the credentials: {said}. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and start a run there, or `tracelet sync`: this run goes on "
            "with them, too"
        )
    if error.error_code == "ENDPOINT_NOT_FOUND" or type(error).__name__ == "InvalidUrlException":
        return Paused(f"there is no MLflow server at {shown}: {said}. Check MLFLOW_TRACKING_URI")
    if is_lasting(error) or error.error_code in _REFUSED:
        return Paused(f"MLflow at {shown}: {said}")
    return Retryable(f"MLflow at {shown}: {said}")


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if not line.startswith(_PREAMBLE)]
    text = hide_password(lines[0]) if lines else type(error).__name__
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"
