"""`TraceletTracker`: a tracker of Accelerate's, for who would rather name it than be listened to.

    Accelerator(log_with=TraceletTracker("digits"))
    Accelerator(log_with="tracelet").init_trackers("digits", config={…})

Its class is made of the one here and Accelerate's own, when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from tracelet import exits, lifetime
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.frameworks import handing, once
from tracelet.frameworks.accelerate import AccelerateFramework
from tracelet.frameworks.handing import Handed
from tracelet.frameworks.once import Scope
from tracelet.frameworks.parameters import record_parameters
from tracelet.guard import Guard
from tracelet.interface import get_active_experiment, start_logging

__all__ = ["TraceletTracker", "tracker_class"]

_LIBRARY = AccelerateFramework
_METRICS = Guard("recording what TraceletTracker is given")
_PARAMETERS = Guard("recording what TraceletTracker is configured with")
_END = Guard("ending TraceletTracker's run")


class TraceletTracker:
    """A tracker that records to a run of tracelet.

    It uses the run that is active when trackers are initialised; when there is none, it starts one, which ends with
    `Accelerator.end_training`. Each value arrives once, also beside other trackers, and when Accelerate is listened to as well.

    Args:
        project: of a run that it starts; as for `start_logging`, and so are the others. By name (`log_with="tracelet"`), what
            `init_trackers` calls the project, and the others are in `init_kwargs={"tracelet": {…}}`.
        name: the run's name.
        backend: trackers: "mlflow", or several as a list or "a,b".
        run_id: an id of your own.
        resume: what `run_id` means: "never", "auto" or "must".
        tags: tags of the run: a mapping, or words.
        group: what the run is compared with.
        notes: a text about the run, in Markdown.
    """

    tracelet_tracker: ClassVar[bool] = True  # frameworks.accelerate.OWN
    name: ClassVar[str] = "tracelet"
    requires_logging_directory: ClassVar[bool] = False

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        backend: str | list[str] | None = None,
        run_id: str | None = None,
        resume: Literal["never", "auto", "must"] = "never",
        tags: dict[str, str] | list[str] | None = None,
        group: str | None = None,
        notes: str | None = None,
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
        self._run: Experiment | None = None
        self._mine = False  # the run that it has
        _LIBRARY.install()

    @property
    def tracker(self) -> Experiment:
        """The run, an `Experiment`, which is begun if need be."""
        return self._begun()

    def start(self) -> None:
        """Begin the run, if none is active."""
        self._begun()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Record parameters.

        Args:
            values: by name; those in one another get a `/` between their names.
        """
        run = self._begun()
        with _PARAMETERS:
            if not active.is_muted() and (framework := run._frameworks.get(_LIBRARY.identifier)) is not None:
                record_parameters(framework, values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Record numbers and texts.

        Args:
            values: by name.
            step: of all of them.
            kwargs: what other trackers take is left out.
        """
        if once.here() is not None or active.is_muted():
            return  # they are recorded once all trackers have had them
        run = self._begun()
        with _METRICS:
            if run.active:
                handing.record(Handed(run, dict(values), None if step is None else int(step), tuple), Scope())

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Record images; see `Experiment.log_image`.

        Args:
            values: by name: a list of images, or a batch of them.
            step: of all of them.
            kwargs: more arguments of `log_image`.
        """
        run = self._begun()
        for name, images in values.items():
            several = list(images)
            for number, image in enumerate(several):
                run.log_image(f"{name}/{number}" if len(several) > 1 else name, image, step, **kwargs)

    def log_table(
        self,
        table_name: str,
        columns: Iterable[str] | None = None,
        data: Any = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Record a table; see `Experiment.log_table`.

        Args:
            table_name: its name.
            columns: names of the columns of rows.
            data: the rows.
            dataframe: a DataFrame, in place of rows.
            step: of the table.
            kwargs: what other trackers take is left out.
        """
        run = self._begun()
        run.log_table(table_name, data if dataframe is None else dataframe, step, columns=columns)

    def finish(self) -> None:
        """End the run, if this tracker began it."""
        run = self._run
        if run is None or not self._mine or not run.active:
            return
        with _END:
            lifetime.stop(run, *exits.outcome(run.began_during))
            lifetime.settle_one(run)

    def _begun(self) -> Experiment:
        run = self._run
        if self._mine and run is not None and run.active:
            return run
        there = get_active_experiment()  # also one that is disabled
        if there is not None:
            self._run, self._mine = there, False
            return there
        again = {"run_id": run.id, "resume": "must"} if self._mine and run is not None else {}
        self._run, self._mine = start_logging(**{**self._start, **again}), True
        _LIBRARY.install()
        return self._run


def tracker_class(module: str) -> type[TraceletTracker]:
    """The tracker's class.

    Args:
        module: where it is found, by name, when it is unpickled.

    Raises:
        ImportError: Accelerate is not installed.
    """
    base = importlib.import_module("accelerate.tracking").GeneralTracker
    said = {"__module__": module, "__doc__": TraceletTracker.__doc__}
    return type("TraceletTracker", (TraceletTracker, base), said)
