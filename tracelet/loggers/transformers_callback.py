"""`TraceletCallback`: a callback of Transformers, for who would rather name it than be listened to.

    TrainingArguments("out", report_to="tracelet")
    Trainer(…, callbacks=[TraceletCallback(project="digits")])

Its class is made of the one here and Transformers' own, when it is asked for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tracelet import exits, lifetime
from tracelet.core import active
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import RunStatus
from tracelet.frameworks import handing, kept, once, transformers_metrics, transformers_trainer
from tracelet.frameworks.once import Scope
from tracelet.frameworks.transformers import TransformersFramework
from tracelet.guard import Guard
from tracelet.interface import get_active_experiment, start_logging

__all__ = ["TraceletCallback", "callback_class"]

_LIBRARY = TransformersFramework
_METRICS = Guard("recording what TraceletCallback is given")
_CHECKPOINTS = Guard("keeping checkpoints")
_END = Guard("ending TraceletCallback's run")


class TraceletCallback:
    """A callback that records to a run of tracelet.

    It uses the run that is active when the Trainer begins; when there is none, it starts one, which ends with `train`, and goes
    on when the Trainer evaluates or predicts afterwards. Each value arrives once, also beside other callbacks, and when
    Transformers is listened to as well. Which run it has started is in the Trainer's checkpoints: a training that resumes from
    one goes on in that run.

    Args:
        project: of a run that it starts; as for `start_logging`, and so are the others.
        name: the run's name; by default the Trainer's `run_name`.
        backend: trackers: "mlflow", or several as a list or "a,b".
        run_id: an id of your own.
        resume: what `run_id` means: "never", "auto" or "must".
        tags: tags of the run: a mapping, or words.
        group: what the run is compared with.
        notes: a text about the run, in Markdown.
        log_model: checkpoints become artifacts, also where `capture_artifacts` does not say so.

    Attributes:
        began: the id of the run that it has started; None when it has not.
    """

    tracelet_callback: ClassVar[bool] = True  # frameworks.transformers.OWN

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
        log_model: bool = False,
    ) -> None:
        self._start: dict[str, Any] = {
            "project": project,
            "name": name,
            "backend": backend,
            "run_id": run_id,
            "resume": resume,
            "tags": tags,
            "group": group,
            "notes": notes,
        }
        self._log_model = log_model
        self._run: Experiment | None = None
        self._mine = False  # the run that it has
        self._over = False  # a trial's training has come to its end
        self.began: str | None = None
        _LIBRARY.install()

    @property
    def experiment(self) -> Experiment | None:
        """The run, once the Trainer has begun."""
        return self._run

    def begin(self, args: Any, state: Any) -> Experiment:
        """The run: its own while that goes on, else the active one, else one that begins now.

        Args:
            args: the TrainingArguments.
            state: the TrainerState.
        """
        run = self._run
        if self._mine and run is not None and run.active:
            return run
        there = get_active_experiment()  # also one that is disabled
        self._run = self._begun(args, state) if there is None else there
        self._mine = there is None
        _LIBRARY.install()
        return self._run

    def end(self) -> None:
        """End the run, if this callback began it. An exception that is being handled, or passes by, says how."""
        run = self._run
        if run is None or not self._mine or not run.active:
            return
        with _END:
            # An exception behind the training's end is a search's way to go on with the next trial.
            lifetime.stop(run, *((RunStatus.FINISHED, "") if self._over else exits.outcome(run.began_during)))
            lifetime.settle_one(run)
        self._over = False
        _LIBRARY.install()  # the patches went with the last run, and it may go on

    # -- what Transformers calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin the run."""
        self._over = False
        name = type(self).__name__
        if state.is_hyper_param_search:  # each trial is a run
            self.began = None
            state.stateful_callbacks.pop(name, None)
        # A checkpoint of a Trainer without this callback has no place for its state, and Transformers takes that for granted.
        state.stateful_callbacks.setdefault(name, self.state())
        if state.is_world_process_zero:
            self.begin(args, state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Record, where the Trainer is not listened to."""
        self._record(args, state, logs, kwargs)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Likewise."""
        self._record(args, state, metrics, kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the checkpoint, where `log_model` says so."""
        run = self._run
        if not self._log_model or run is None or not state.is_world_process_zero:
            return
        with _CHECKPOINTS:
            framework = run._frameworks.get(_LIBRARY.identifier)
            if framework is None or not framework.tracking or not framework.artifacts:
                kept.keep(run, "checkpoints", [os.path.join(args.output_dir, f"checkpoint-{state.global_step}")])

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The training is over; its run ends when the Trainer returns."""
        self._over = state.is_hyper_param_search
        self._end_unless_at_work()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An evaluation is over; likewise."""
        self._end_unless_at_work()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain data without secrets."""
        said = {name: _plain(value) for name, value in self._start.items()}
        return {"args": {**said, "log_model": self._log_model}, "attributes": {"began": self.began}}

    # --

    def _begun(self, args: Any, state: Any) -> Experiment:
        start = dict(self._start)
        name = start.pop("name") or state.trial_name or args.run_name
        start["exp_name"] = None if name == args.output_dir else name
        if again := self.began or (start["run_id"] is None and self._kept_in(state)):
            start.update(run_id=again, resume="auto")
        run = start_logging(**start)
        self.began = run.id
        return run

    def _kept_in(self, state: Any) -> str | None:
        """The run of the checkpoint that a training resumes from."""
        said = state.stateful_callbacks.get(type(self).__name__)
        several = [each for each in (said if isinstance(said, list) else [said]) if isinstance(each, Mapping)]
        found = (each.get("attributes", {}).get("began") for each in reversed(several))
        return next((run_id for run_id in found if isinstance(run_id, str)), None)

    def _record(self, args: Any, state: Any, values: Any, given: Mapping[str, Any]) -> None:
        if once.here() is not None or active.is_muted() or not state.is_world_process_zero:
            return  # it is recorded once all callbacks have had it
        self.begin(args, state)
        with _METRICS:
            alone = _Alone(self, given.get("model"))
            if (handed := transformers_metrics.handed(_LIBRARY, alone, args, state, values)) is not None:
                handing.record(handed, Scope())

    def _end_unless_at_work(self) -> None:
        if not transformers_trainer.at_work():
            self.end()


class _Alone:
    """A CallbackHandler with one callback."""

    def __init__(self, callback: TraceletCallback, model: Any) -> None:
        self.callbacks = [callback]
        self.model = model


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): str(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [str(each) for each in value]
    return None if value is None else str(value)


def callback_class(module: str) -> type[TraceletCallback]:
    """The callback's class.

    Args:
        module: where it is found, by name, when it is unpickled.

    Raises:
        ImportError: Transformers is not installed.
    """
    transformers = importlib.import_module("transformers.trainer_callback")
    bases = (TraceletCallback, transformers.TrainerCallback, transformers.ExportableState)
    return type("TraceletCallback", bases, {"__module__": module, "__doc__": TraceletCallback.__doc__})
