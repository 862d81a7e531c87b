"""`TraceletCallback`: a callback of formed's TorchTrainer, for who would rather name it than be listened to.

    callbacks: [{ type: 'tracelet', project: 'digits' }]

Importing this file imports formed, and registers the callback there.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

from tracelet import exits, lifetime
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.guard import Guard
from tracelet.interface import start_logging
from tracelet.nested.formed import FormedFramework

__all__ = ["TraceletCallback"]

_END = Guard("ending TraceletCallback's run")
_training = importlib.import_module("formed.integrations.torch.training")


class TraceletCallback(_training.TorchTrainingCallback):  # type: ignore[misc, name-defined]
    """A callback that records a training to a run of tracelet.

    It uses the run that is active when the training begins; when there is none, it starts one, which ends with the training, as
    that ends: failed, when it raises. Each value arrives once, also when formed is listened to as well. In a configuration its
    type is `tracelet`.

    Args:
        project: of a run that it starts; as for `start_logging`, and so are the others.
        name: the run's name.
        backend: trackers: "mlflow", or several as a list or "a,b".
        run_id: an id of your own.
        resume: what `run_id` means: "never", "auto" or "must".
        tags: tags of the run: a mapping, or words.
        group: what the run is compared with.
        notes: a text about the run, in Markdown.
    """

    tracelet_callback: ClassVar[bool] = True  # formed_trainer.OWN

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
        FormedFramework.named.add(self)
        FormedFramework.install()  # what trains calls `begin` and `finish`: no callback hears of a training that raises

    @property
    def experiment(self) -> Experiment | None:
        """The run that it has started and that goes on, else the active one; None on ranks other than 0."""
        return self._run or active.current()

    def begin(self, trainer: Any) -> None:
        """Start a run, where none is active.

        Args:
            trainer: what is about to train; on ranks other than 0, no run is started.
        """
        if self._run is None and active.here() is None and trainer.distributor.is_main_process:
            self._run = start_logging(**self._start)

    def finish(self) -> None:
        """End the run, if this callback started it; the exception that is being handled says how it ended."""
        run, self._run = self._run, None
        if run is not None and run.active:
            with _END:
                lifetime.stop(run, *exits.outcome(run.began_during))
                lifetime.settle([run])


_callbacks = _training.TorchTrainingCallback
if "tracelet" not in _callbacks._registry[_callbacks]:  # a name that a project has given to a callback of its own stays
    _callbacks.register("tracelet")(TraceletCallback)
