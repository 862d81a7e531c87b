"""The engine by which formed's TorchTrainer trains with a population optimizer. Importing this needs formed.

engine: { type: 'tracelet_population', optimizer: { type: 'tracelet.optim:AdaptiveBFO', population_size: 10 } }
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tracelet.optim.population import PopulationOptimizer

__all__ = ["PopulationEngine"]


def _formed(module: str) -> Any:
    try:
        return import_module(f"formed.integrations.torch.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "formed":
            raise
        raise ImportError("PopulationEngine needs formed: pip install formed") from error


_engines = _formed("training.engine")
_context = _formed("context")


class PopulationEngine(_engines.DefaultTorchTrainingEngine):  # type: ignore[misc, name-defined]
    """Trains as formed's default engine does, and gives the optimizer what it judges its points by.

    Where the default engine takes a gradient and calls `step()`, this one calls `step(closure)`: one round of the search on the
    batch, or on the mean of the last `gradient_accumulation_steps` batches. What a step returns is the model's output on the
    last batch with the best point in its parameters. Its type in a configuration is `tracelet_population`.

    It takes the arguments of the default engine, `optimizer` and `lr_scheduler` in every form that that does, and is one for an
    optimizer that is none of `tracelet.optim`. `max_grad_norm` holds for the gradients of `HybridBFO`; the others have none.

    Raises:
        ImportError: when it is imported, and formed is not installed.
        ValueError: when the training begins with a `grad_scaler`: a loss is not scaled where it is what points are judged by.
    """

    _batches: list[Any]

    def create_state(self, trainer: Any, model: Any) -> Any:
        """Make the optimizer and what belongs to it."""
        if self._grad_scaler is not None:
            raise ValueError("PopulationEngine takes no grad_scaler: points are judged by the loss as it is")
        self._batches = []
        return super().create_state(trainer, model)

    def train_step(self, inputs: Any, state: Any, trainer: Any) -> Any:
        """One batch: kept until there are enough of them, and then a round of the search."""
        search = state.optimizer
        if not isinstance(search, PopulationOptimizer):
            return super().train_step(inputs, state, trainer)
        state.model.train()
        steps = self._gradient_accumulation_steps
        if state.step % steps == 0:
            self._batches = []  # also of a state that was not made here
        self._batches.append(inputs)
        if (state.step + 1) % steps == 0:
            objective = _Objective(self, state.model, search, self._batches)
            search.step(objective)
            self._batches = []
            if state.lr_scheduler is not None:
                state.lr_scheduler.step()
        with torch.no_grad():
            output = self._outputs(state.model, inputs)
        state.step += 1
        return output

    def _outputs(self, model: Any, inputs: Any) -> Any:
        with self._precision():
            return model(inputs, params=self._params)

    def _judged(self, model: Any, inputs: Any) -> Tensor:
        with self._precision():
            output = model(inputs, params=self._params)
            try:
                loss = self._loss(output)
            except (AttributeError, KeyError) as error:
                raise ValueError(f"there is no loss in what the model returns, a {type(output).__name__}") from error
        if loss is None:
            raise ValueError("the loss that the model returns is None: has the training data no labels?")
        found: Tensor = loss
        return found

    def _precision(self) -> AbstractContextManager[Any]:
        device = _context.get_device()
        if device is None or self._dtype is None:
            return nullcontext()
        return torch.autocast(device_type=device.type, dtype=self._dtype)


class _Objective:
    """The mean loss of some batches; for a search along gradients, with them."""

    def __init__(self, engine: PopulationEngine, model: Any, search: PopulationOptimizer, batches: list[Any]) -> None:
        self._engine = engine
        self._model = model
        self._search = search
        self._batches = batches

    def __call__(self) -> Tensor:
        if self._search._wants_gradients():
            return self._with_gradients()
        with torch.no_grad():
            return torch.stack([self._engine._judged(self._model, batch) for batch in self._batches]).mean()

    def _with_gradients(self) -> Tensor:
        self._search.zero_grad()
        total = []
        for batch in self._batches:
            loss = self._engine._judged(self._model, batch)
            (loss / len(self._batches)).backward()  # type: ignore[no-untyped-call]
            total.append(loss.detach())
        if self._engine._max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._engine._max_grad_norm)
        return torch.stack(total).mean()


_registry = _engines.TorchTrainingEngine
if "tracelet_population" not in _registry._registry[_registry]:  # a name that a project has given to its own stays
    _registry.register("tracelet_population")(PopulationEngine)
