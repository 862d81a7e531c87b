"""The exporters there are: one line each. Imports none of them: only a worker loads a tracker's SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["EXPORTERS", "Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an exporter is, and what its worker needs.

    Attributes:
        module, name: the class.
        package: the import that must be there.
        extra: tracelet's extra that brings it.
        environment: variables that its workers have, unless the credentials say otherwise.
        ignored: variables that are never taken from the credentials.
    """

    module: str
    name: str
    package: str
    extra: str
    environment: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


EXPORTERS: Final[Mapping[str, Entry]] = {
    "mlflow": Entry(
        "tracelet_collector.exporters.mlflow",
        "MlflowExporter",
        package="mlflow",
        extra="mlflow",
        # Retrying is the scheduler's: MLflow's own retries (7, up to minutes) would hide that a server is down. One, at
        # once, covers a kept-alive connection that the server has closed.
        environment={
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
            "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
            "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        },
        # The retries as above; and what would attach our points to something that the training process had open.
        ignored=frozenset(
            {
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
                "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR",
                "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER",
                "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER",
                "MLFLOW_TRACKING_URI",
                "MLFLOW_RUN_ID",
                "MLFLOW_EXPERIMENT_ID",
                "MLFLOW_EXPERIMENT_NAME",
                "MLFLOW_ACTIVE_MODEL_ID",
            }
        ),
    ),
    "tensorboard": Entry(
        "tracelet_collector.exporters.tensorboard",
        "TensorBoardExporter",
        package="tensorboard",
        extra="tensorboard",
    ),
}
