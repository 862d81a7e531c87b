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
    "clearml": Entry(
        "tracelet_collector.exporters.clearml",
        "ClearmlExporter",
        package="clearml",
        extra="clearml",
        # Of ClearML's SDK only the storage of files is used, and only for buckets and folders.
        environment={"CLEARML_SUPPRESS_UPDATE_MESSAGE": "1", "CLEARML_LOG_LEVEL": "ERROR"},
        # What would attach the worker to the training process's task, or change what the target says.
        ignored=frozenset(
            {
                "CLEARML_TASK_ID",
                "CLEARML_PROC_MASTER_ID",
                "CLEARML_SIMULATE_REMOTE_TASK",
                "CLEARML_LOG_TASK_TO_BACKEND",
                "CLEARML_OFFLINE_MODE",
                "CLEARML_API_HOST",
                "CLEARML_API_VERBOSE",
                "CLEARML_CONFIG_VERBOSE",
            }
        ),
    ),
    "tensorboard": Entry(
        "tracelet_collector.exporters.tensorboard",
        "TensorBoardExporter",
        package="tensorboard",
        extra="tensorboard",
    ),
    "wandb": Entry(
        "tracelet_collector.exporters.wandb",
        "WandbExporter",
        package="wandb",
        extra="wandb",
        # All else is said when a run is begun. The settings files are the user's, of whom the training process asked them.
        environment={
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_DISABLE_GIT": "true",
            "WANDB_DISABLE_CODE": "true",
            "WANDB_CONFIG_DIR": "/nonexistent/tracelet",
        },
        # What would attach our runs to one that the training process had open, or put them elsewhere.
        ignored=frozenset(
            {
                "WANDB_BASE_URL",
                "WANDB_CONFIG_DIR",
                "WANDB_CONSOLE",
                "WANDB_DIR",
                "WANDB_DISABLED",
                "WANDB_ENTITY",
                "WANDB_JOB_TYPE",
                "WANDB_MODE",
                "WANDB_NAME",
                "WANDB_NOTES",
                "WANDB_PROJECT",
                "WANDB_RESUME",
                "WANDB_RUN_GROUP",
                "WANDB_RUN_ID",
                "WANDB_SERVICE",
                "WANDB_SILENT",
                "WANDB_SWEEP_ID",
                "WANDB_TAGS",
            }
        ),
    ),
}
