"""`TraceletLogger`: a logger of Lightning's, for who would rather name it than be listened to.

    trainer = Trainer(logger=TraceletLogger(project="digits"))

There is one for each of Lightning's packages, made when it is asked for: of the class here and that package's `Logger`.
"""

from __future__ import annotations

import importlib
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tracelet import exits, lifetime
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import RunStatus
from tracelet.core.options import Options
from tracelet.frameworks import kept, lightning_metrics, once
from tracelet.frameworks.lightning_base import LightningBase, lightning_rank
from tracelet.frameworks.lightning_params import INTERNAL
from tracelet.frameworks.once import Recent
from tracelet.frameworks.parameters import record_parameters
from tracelet.guard import Guard
from tracelet.interface import start_logging

__all__ = ["TraceletLogger", "logger_of"]

_FOLDER = "tracelet_logs"
_METRICS = Guard("recording what TraceletLogger is given")
_PARAMETERS = Guard("recording hyperparameters")
_CHECKPOINTS = Guard("keeping checkpoints")
_END = Guard("ending TraceletLogger's run")


class TraceletLogger:
    """A logger that records to a run of tracelet.

    It uses the run that is active when the Trainer begins; when there is none, it starts one, which ends with the Trainer's
    `fit`, and goes on when the Trainer tests afterwards. Each value arrives once, also beside other loggers, and when Lightning
    is listened to as well.

    Args:
        project: of a run that it starts; as for `start_logging`, and so are the others.
        name: the run's name.
        backend: trackers: "mlflow", or several as a list or "a,b".
        run_id: an id of your own.
        resume: what `run_id` means: "never", "auto", "must" or "checkpoint"; None for what the setting says. With "checkpoint",
            checkpoints name the run, and `fit(ckpt_path=…)` goes on with it.
        tags: tags of the run: a mapping, or words.
        group: what the run is compared with.
        notes: a text about the run, in Markdown.
        save_dir: where the Trainer's checkpoints go, in a folder of the run's, and LightningCLI's configuration; None for
            `tracelet_logs/` and the run's id.
        log_model: checkpoints that ModelCheckpoint saves become artifacts, also where `capture_artifacts` does not say so.
    """

    tracelet_logger: ClassVar[bool] = True  # lightning_metrics.OWN
    library: ClassVar[type[LightningBase]]

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        backend: str | list[str] | None = None,
        run_id: str | None = None,
        resume: Literal["never", "auto", "must", "checkpoint"] | None = None,
        tags: dict[str, str] | list[str] | None = None,
        group: str | None = None,
        notes: str | None = None,
        save_dir: str | None = None,
        log_model: bool = False,
    ) -> None:
        super().__init__()
        self._start: dict[str, Any] = {
            "exp_name": name,
            "project": project,
            "backend": backend,
            "run_id": run_id,
            "resume": resume,
            "tags": tags,
            "group": group,
            "notes": notes,
        }
        # A second start is that of the same run.
        self._again = "checkpoint" if resume == "checkpoint" else "must"
        self._save_dir = save_dir
        self._log_model = log_model
        self._run: Experiment | None = None
        self._mine = False  # the run that it has
        self._recent = Recent()
        self.library.explicit = True
        self.library.install()  # the Trainer that gets it says more than it tells its loggers

    # -- what Lightning asks

    @property
    def experiment(self) -> Any:
        """The run, an `Experiment`. On ranks above 0, something that takes every call and does nothing."""
        if lightning_rank():
            return importlib.import_module(f"{self.library.module}.loggers.logger").DummyExperiment()
        return self._begun()

    @property
    def name(self) -> str | None:
        """The run's name; before it has begun, what was given."""
        given: str | None = self._start["exp_name"]
        return given if self._run is None else self._run.name

    @property
    def version(self) -> str | None:
        """The run's id; before it has begun, what was given."""
        given: str | None = self._start["run_id"]
        return given if self._run is None else self._run.id

    @property
    def save_dir(self) -> str:
        """Where the Trainer's files go."""
        # LightningCLI refuses to overwrite its configuration there: by default each run has a folder of its own.
        return self._save_dir or os.path.join(_FOLDER, *filter(None, [self.version]))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers.

        Args:
            metrics: by name.
            step: of all of them.
        """
        if lightning_rank():
            return
        scope = once.here()
        if scope is not None:  # they are recorded once all loggers have had them
            if scope.logger is None:
                scope.begin(self, "")
                scope.end(dict(metrics), step)
            return
        run = self._begun()
        with _METRICS:
            framework = self._framework(run)
            recent = self._recent if framework is None else framework.recent
            folder = "" if framework is None else lightning_metrics.log_dir_beside(framework, self)
            values = lightning_metrics.flat(lightning_metrics.numbers(metrics))
            at = None if step is None else int(step)
            new = {name: value for name, value in values if recent.takes(self, name, value, at)}
            lightning_metrics.record_all(run, new, at, "", folder)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Record parameters.

        Args:
            params: by name; those in one another get a `/` between their names.
            args: what other loggers take is left out.
            kwargs: likewise.
        """
        if lightning_rank():
            return
        framework = self._framework(self._begun())
        with _PARAMETERS:
            if framework is not None:
                record_parameters(framework, params, INTERNAL)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Keep the checkpoint, where `log_model` says so.

        Args:
            checkpoint_callback: what has saved it.
        """
        if not self._log_model or lightning_rank():
            return
        run = self._begun()
        with _CHECKPOINTS:
            framework = self._framework(run)
            if framework is None or not framework.tracking or "checkpoints" not in framework.artifacts:
                kept.keep(run, "checkpoints", [getattr(checkpoint_callback, "_last_checkpoint_saved", None)])

    def finalize(self, status: str) -> None:
        """End the run, if this logger began it.

        Args:
            status: "success", or else the exception that is being handled says how it ended.
        """
        run = self._run
        if run is None or not self._mine or not run.active:
            return
        with _END:
            ended = exits.outcome(run.began_during) if status == "failed" else (RunStatus.FINISHED, "")
            lifetime.stop(run, *ended)
            lifetime.settle([run])

    # -- what Lightning's capture asks

    def resumes(self, options: Options) -> bool:
        """Whether its run, which has not begun, is that of the checkpoint from which the Trainer goes on."""
        if self._run is not None or self._start["run_id"] is not None:
            return False
        return (self._start["resume"] or options.resume) == "checkpoint"

    def go_on_with(self, run_id: str) -> None:
        """Have its run be that of an id."""
        self._start |= {"run_id": run_id, "resume": "checkpoint"}

    # -- what a module may call: self.logger.log_image(…)

    def log_image(self, key: str, images: Any, step: int | None = None, **kwargs: Any) -> None:
        """Record an image, or several of a list; see `Experiment.log_image`."""
        several = images if isinstance(images, list) else [images]
        for number, image in enumerate(several):
            self.experiment.log_image(f"{key}/{number}" if len(several) > 1 else key, image, step, **kwargs)

    def log_figure(self, key: str, figure: Any, step: int | None = None, **kwargs: Any) -> None:
        """Record a matplotlib figure; see `Experiment.log_figure`."""
        self.experiment.log_figure(key, figure, step, **kwargs)

    def log_histogram(self, key: str, values: Any, step: int | None = None, **kwargs: Any) -> None:
        """Record how values are distributed; see `Experiment.log_histogram`."""
        self.experiment.log_histogram(key, values, step, **kwargs)

    def log_text(self, key: str, text: str, step: int | None = None) -> None:
        """Record a text, in Markdown; see `Experiment.log_text`."""
        self.experiment.log_text(key, text, step)

    def log_table(self, key: str, table: Any, step: int | None = None, **kwargs: Any) -> None:
        """Record a table; see `Experiment.log_table`."""
        self.experiment.log_table(key, table, step, **kwargs)

    def log_audio(self, key: str, samples: Any, step: int | None = None, **kwargs: Any) -> None:
        """Record sound; see `Experiment.log_audio`."""
        self.experiment.log_audio(key, samples, step, **kwargs)

    def log_video(self, key: str, frames: Any, step: int | None = None, **kwargs: Any) -> None:
        """Record moving pictures; see `Experiment.log_video`."""
        self.experiment.log_video(key, frames, step, **kwargs)

    # --

    def _begun(self) -> Experiment:
        run = self._run
        if run is not None and run.status is RunStatus.RUNNING:  # or disabled
            return run
        if not self._mine and (run := active.here()) is not None:
            self._run = run
            return run
        again = {"run_id": run.id, "resume": self._again} if self._mine and run is not None else {}
        self._run = start_logging(**{**self._start, **again})
        self._mine = True
        self.library.install()
        return self._run

    def _framework(self, run: Experiment) -> LightningBase | None:
        framework = run._frameworks.get(self.library.identifier)
        return framework if isinstance(framework, LightningBase) else None


def logger_of(library: type[LightningBase], module: str) -> type[TraceletLogger]:
    """The logger for one of Lightning's packages.

    Args:
        library: which.
        module: where it is found, by name, when it is unpickled or made of a configuration.

    Raises:
        ImportError: the package is not installed.
    """
    base = importlib.import_module(f"{library.module}.loggers.logger").Logger
    said = {"__module__": module, "__doc__": TraceletLogger.__doc__, "library": library}
    return type("TraceletLogger", (TraceletLogger, base), said)
