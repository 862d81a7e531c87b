"""What a TorchTrainer of formed logs: each value once, with the step that its callbacks are given.

A trainer tells its callbacks, and nobody else. So while it trains, two of ours are among them: one before all others, which
opens a scope (see `once`), and one behind them, which records what no SummaryWriter of theirs has written. The list that the
script gave is the trainer's again when the training is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token
from typing import Any, Final

from tracelet.core.values import read_together
from tracelet.frameworks import once
from tracelet.frameworks.base import Framework
from tracelet.frameworks.formed_params import bare, parameters_of
from tracelet.frameworks.lightning_metrics import flat, numbers
from tracelet.frameworks.once import Scope
from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.places import Place
from tracelet.guard import Guard
from tracelet.patching import Switch, Wrapper

__all__ = ["OWN", "Training", "places"]

OWN: Final = "tracelet_callback"  # an attribute of the callback that a script names itself
_TRAINER: Final = "formed.integrations.torch.training.trainer"
_BEGINNING: Final = Guard("listening to a TorchTrainer")
_RECORDING: Final = Guard("recording what a TorchTrainer logs")
_PARAMETERS: Final = Guard("recording the parameters of a TorchTrainer")
_ENDING: Final = Guard("ending what is listened to of a TorchTrainer")


def places(library: type[Framework]) -> list[Place]:
    """Where trainings are seen."""
    return [Place(_TRAINER, "TorchTrainer", "train", _train(library), later=True)]


def _train(library: type[Framework]) -> Callable[[Switch], Wrapper]:
    def build(switch: Switch) -> Wrapper:
        def wrapper(wrapped: Callable[..., Any], trainer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            named: list[Any] = []
            training: Training | None = None
            if switch.on:
                named = _named(trainer)
            try:
                for callback in named:
                    callback.begin(trainer)  # may raise, as `start_logging` may: the script has asked for it
                if switch.on:
                    training = _listen(library, trainer)
                return wrapped(*args, **kwargs)
            finally:  # an exception that passes by says how a run ends that ends with the training
                with _ENDING:
                    if training is not None:
                        training.end()
                    for callback in named:
                        callback.finish()

        return wrapper

    return build


def _named(trainer: Any) -> list[Any]:
    """Those of a trainer's callbacks that are ours."""
    found: list[Any] = []
    with _BEGINNING:
        found += [callback for callback in trainer._callbacks if hasattr(type(callback), OWN)]
    return found


def _listen(library: type[Framework], trainer: Any) -> Training | None:
    training = None
    with _BEGINNING:
        if library.here() is not None:
            training = Training(library, trainer)
            training.listen()
    return training


class Training:
    """A training that is recorded.

    Args:
        library: the framework's class.
        trainer: the TorchTrainer.
    """

    def __init__(self, library: type[Framework], trainer: Any) -> None:
        self._library = library
        self._trainer = trainer
        self._given: Any = None
        self._put: list[Any] = []
        self._token: Token[Scope | None] | None = None
        self._rate_of: int | None = None

    def listen(self) -> None:
        """Be among the trainer's callbacks."""
        self._given = self._trainer._callbacks
        self._put = [_First(self), *self._given, _Last(self)]
        self._trainer._callbacks = self._put

    def end(self) -> None:
        """Be gone."""
        self._leave()
        if self._trainer._callbacks is self._put:
            others = [callback for callback in self._put if not isinstance(callback, _Callback)]
            same = list(map(id, self._given)) == list(map(id, others))  # else a callback has changed the list
            self._trainer._callbacks = self._given if same else others

    # -- what the trainer calls

    def started(self, model: Any, state: Any) -> None:
        """Everything is made that is trained."""
        with _PARAMETERS:
            if (framework := self._framework()) is not None and framework.experiment is not None:
                optimizers = framework.experiment._frameworks.get("optimizers")
                heard = optimizers is not None and optimizers.tracking
                if optimizers is not None and heard:
                    optimizers.know(bare(model))
                record_parameters(framework, parameters_of(self._trainer, bare(model), state, optimizer=not heard))

    def logs(self, state: Any, metrics: Mapping[str, Any], prefix: str) -> None:
        """Values are logged; the callbacks have not had them yet."""
        self._leave()
        with _RECORDING:
            framework = self._framework()
            if framework is None or (run := framework.experiment) is None:
                return
            step = int(state.step)
            values = {f"{prefix}{name}": value for name, value in flat(numbers(metrics))}
            if self._rate_of != step:  # a training's and a validation's values come at one step
                self._rate_of = step
                values |= _of_optimizer(state)
            scope = Scope()
            for name, value in values.items():
                run.record(name, value, step, None)
                scope.recorded(name, value, step)
            self._token = once.enter(scope)  # what a callback's SummaryWriter writes of them is the same

    def logged(self) -> None:
        """All callbacks have had it."""
        self._leave()

    def epoch_ended(self, state: Any, epoch: int) -> None:
        """An epoch is over."""
        with _RECORDING:
            if (framework := self._framework()) is not None and (run := framework.experiment) is not None:
                run.record("epoch", float(epoch), int(state.step), None)

    # --

    def _framework(self) -> Framework | None:
        """The framework that records it now; None in a process whose points do not count."""
        framework = self._library.here()
        if framework is None or (run := framework.experiment) is None:
            return None
        return framework if self._trainer.distributor.is_main_process or run.plan.rank_label else None

    def _leave(self) -> None:
        """What SummaryWriters write from now on is theirs."""
        token, self._token = self._token, None
        if token is not None:
            with _RECORDING:
                once.leave(token)


def _of_optimizer(state: Any) -> dict[str, float]:
    """What formed's own MlflowCallback logs beside the values: the first group's learning rate, and the norm of gradients."""
    found: dict[str, Any] = {}
    rate = getattr(state, "get_learning_rate", lambda: None)()  # an engine may have a state of its own
    if rate is not None:
        found["learning_rate"] = rate
    norms = [parameter.grad.detach().norm(2) for parameter in state.model.parameters() if parameter.grad is not None]
    if norms:
        found["gradient_norm"] = sum(norm**2 for norm in read_together(norms)) ** 0.5
    return dict(flat(numbers(found)))


class _NoMetrics:
    """An evaluator that computes nothing: each callback of a trainer has one."""

    def update(self, inputs: Any, output: Any, /) -> None:
        """Take no notice."""

    def compute(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def reset(self) -> None:
        """Nothing is kept."""

    def clone(self) -> _NoMetrics:
        """It has no state."""
        return self


class _Callback:
    """All that a trainer calls, and does nothing."""

    def __reduce__(self) -> Any:
        """A copy that a script makes of its trainer hears nothing, and can be read where tracelet is not installed."""
        from formed.integrations.torch.training import TorchTrainingCallback

        return TorchTrainingCallback, ()

    def on_training_start(self, trainer: Any, model: Any, state: Any) -> None:
        """See formed's TorchTrainingCallback, also for the others."""

    def on_training_end(self, trainer: Any, model: Any, state: Any) -> Any:
        """The state, as it is."""
        return state

    def on_epoch_start(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
        """An epoch begins."""

    def on_epoch_end(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
        """An epoch is over."""

    def on_batch_start(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
        """A batch begins."""

    def on_batch_end(self, trainer: Any, model: Any, state: Any, epoch: int, output: Any) -> None:
        """A batch is over."""

    def on_eval_start(self, trainer: Any, model: Any, state: Any) -> Any:
        """What computes metrics."""
        return _NoMetrics()

    def on_eval_end(self, trainer: Any, model: Any, state: Any, metrics: Mapping[str, Any], prefix: str = "") -> None:
        """Metrics were computed."""

    def on_log(self, trainer: Any, model: Any, state: Any, metrics: Mapping[str, Any], prefix: str = "") -> None:
        """Metrics are logged."""


class _First(_Callback):
    def __init__(self, training: Training) -> None:
        self._training = training

    def on_training_start(self, trainer: Any, model: Any, state: Any) -> None:
        self._training.started(model, state)

    def on_log(self, trainer: Any, model: Any, state: Any, metrics: Mapping[str, Any], prefix: str = "") -> None:
        self._training.logs(state, metrics, prefix)

    def on_training_end(self, trainer: Any, model: Any, state: Any) -> Any:
        self._training.logged()  # the callback that stops early leaves what comes behind it without a call
        return state


class _Last(_Callback):
    def __init__(self, training: Training) -> None:
        self._training = training

    def on_epoch_end(self, trainer: Any, model: Any, state: Any, epoch: int) -> None:
        self._training.epoch_ended(state, epoch)

    # formed calls it right after `on_log`, and there a callback has the values too.
    def on_eval_end(self, trainer: Any, model: Any, state: Any, metrics: Mapping[str, Any], prefix: str = "") -> None:
        self._training.logged()
