"""Population optimizers in fastai's loop, which steps without a closure. Importing this needs fastai."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.optimizer import OptimWrapper

from tracelet.errors import ConfigurationError

__all__ = ["PopulationCallback", "population"]


class PopulationCallback(Callback):  # type: ignore[misc]
    """Says before each step what a population optimizer judges by: the loss of the batch, or of those that are accumulated.

        learn = Learner(dls, model, loss_func, opt_func=population(HybridBFO, population_size=4), cbs=PopulationCallback())
        learn.fit(5)

    With `GradientAccumulation` a point's fitness is the mean over the samples of all batches since the last step. Under
    `MixedPrecision` it is computed under the same autocast. The forward and backward pass that fastai makes of each batch stay,
    so that losses and metrics are those of any training.

    Raises:
        ConfigurationError: when a training begins, and the Learner's optimizer takes no objective.
    """

    # Behind GradientAccumulation, which cancels the steps that are not due, and before MixedPrecision.
    order = 8
    run_valid = False

    def before_fit(self) -> None:
        """Begin with no batch."""
        self._batches: list[tuple[Any, Any]] = []

    def before_train(self) -> None:
        """See that there is such an optimizer."""
        optimizer = self._optimizer()
        if not callable(getattr(optimizer, "set_objective", None)):
            kind = type(optimizer)
            raise ConfigurationError(
                f"PopulationCallback: the Learner's optimizer is a {kind.__module__}.{kind.__qualname__}, "
                "which takes no objective; give the Learner opt_func=population(HybridBFO), or another one of tracelet.optim"
            )

    def before_backward(self) -> None:
        """Keep the batch."""
        self._batches.append((self.learn.xb, self.learn.yb))

    def before_step(self) -> None:
        """Give the optimizer its objective."""
        batches, self._batches = self._batches, []
        self._optimizer().set_objective(functools.partial(self._judged, batches))

    def after_fit(self) -> None:
        """Let go of the last batch."""
        self._batches = []
        if callable(let_go := getattr(self._optimizer(), "set_objective", None)):
            let_go(None)

    def loss(self, inputs: tuple[Any, ...], targets: tuple[Any, ...]) -> Any:
        """The loss of one batch, a tensor of shape (), for the parameters that the model has now. To be overridden.

        Args:
            inputs: what the model takes, `learn.xb`.
            targets: what the loss function takes behind the model's output, `learn.yb`.
        """
        return self.learn.loss_func(self.learn.model(*inputs), *targets)

    def _optimizer(self) -> Any:
        optimizer = self.learn.opt
        return optimizer.opt if isinstance(optimizer, OptimWrapper) else optimizer

    def _judged(self, batches: list[tuple[Any, Any]]) -> Any:
        mixed = vars(self.learn).get("mixed_precision")
        losses, sizes = [], []
        for inputs, targets in batches:
            with mixed.autocast if mixed is not None else contextlib.nullcontext():
                losses.append(self.loss(inputs, targets))
            sizes.append(len(targets[0]) if hasattr(targets[0], "__len__") else 1)
        if len(losses) == 1:
            return losses[0]
        return torch.stack([each * size for each, size in zip(losses, sizes, strict=True)]).sum() / sum(sizes)


class _Population(OptimWrapper):  # type: ignore[misc]
    """An OptimWrapper whose schedules may name what the optimizer does not have, as `fit_one_cycle` does with momentum.

    When a Learner is frozen or unfrozen, a new search begins, over what requires gradients from then on.
    """

    opt: Any

    def __init__(self, params: Any = None, opt: Any = None, **settings: Any) -> None:
        super().__init__(params, opt, **settings)
        self._make = opt

    def clear_state(self) -> None:
        """Forget the search, if it has begun."""
        if self.opt.evaluations:
            self.opt = self._make([dict(group) for group in self.opt.param_groups])

    @property
    def hypers(self) -> list[dict[str, Any]]:
        """Of each group: its own, and what a schedule has set besides, which it wants to read again."""
        passed_over = self.__dict__.get("_passed_over", {})
        return [
            {**{name: values[place] for name, values in passed_over.items()}, **own}
            for place, own in enumerate(super().hypers)
        ]

    def _set_hyper(self, k: str, v: Any) -> None:
        if k in self.bwd_map:
            super()._set_hyper(k, v)
        else:
            self.__dict__.setdefault("_passed_over", {})[k] = list(v)


def population(optimizer: type, **settings: Any) -> Any:
    """An optimizer of `tracelet.optim` as a Learner's `opt_func`.

    A fit that names no learning rate begins with the optimizer's own `lr`, and not with fastai's 0.001, by which a population's
    runs would be a thousandth as long. Schedules may change `lr`; what they say of a momentum that the optimizer does not have
    is passed over.

    Args:
        optimizer: the class.
        settings: its arguments.

    Raises:
        ConfigurationError: the class takes no objective.
    """
    if not callable(getattr(optimizer, "set_objective", None)):
        raise ConfigurationError(f"population() takes a class of tracelet.optim, not {optimizer!r}")
    lr = settings.pop("lr", None)
    if lr is None:
        lr = inspect.signature(optimizer).parameters["lr"].default
    return functools.partial(_Population, opt=functools.partial(optimizer, **settings), lr=lr)
