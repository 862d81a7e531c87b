"""`PopulationTrainer`: a Trainer for optimizers that judge many points in a step. Importing this needs Transformers.

Transformers' Trainer makes `step()` without a closure, once it has summed gradients over the micro-batches. This one keeps the
micro-batches instead, and tells the optimizer before the step what to judge by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from tracelet.optim.hybrid_bfo import HybridBFO
from tracelet.optim.objectives import accumulate
from tracelet.optim.population import PopulationOptimizer

__all__ = ["PopulationTrainer"]


class PopulationTrainer(Trainer):
    """A Trainer that trains with population optimizers of `tracelet.optim` too.

        PopulationTrainer(model=…, args=…, train_dataset=…, optimizer_cls_and_kwargs=(AdaptiveBFO, {"population_size": 30}))
        PopulationTrainer(model=…, args=…, train_dataset=…, optimizers=(HybridBFO(model.parameters()), None))

    A step judges every bacterium on all micro-batches of `gradient_accumulation_steps`, with the loss that `compute_loss`
    gives, under the Trainer's autocast. `HybridBFO` gets gradients, clipped to `max_grad_norm`. The logged `loss` is that of
    the model before each step, as with other optimizers, which costs one more evaluation. No `grad_norm` is logged: the model
    has no gradient of its own. With any other optimizer it is a Trainer.

    Raises:
        ValueError: when training begins with `fp16`, which scales gradients: there are none to scale. `bf16` does not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._micro_batches: list[tuple[Any, Any]] = []

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, without the micro-batches that a training has left which was interrupted in the middle of a step.

        Args:
            args: as for Trainer.
            kwargs: likewise.

        Returns:
            What Trainer returns.
        """
        self._micro_batches = []
        return super().train(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer; a population optimizer searches all parameters that are trained, and has no weight decay.

        Args:
            args: as for Trainer.
            kwargs: likewise.
        """
        given = self.optimizer_cls_and_kwargs
        if (
            self.optimizer is None
            and given is not None
            and isinstance(given[0], type)
            and issubclass(given[0], PopulationOptimizer)
        ):
            model: Any = next(iter([*args, *kwargs.values()]), None) or self.model
            trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
            self.optimizer = given[0](trained, **given[1])
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if isinstance(optimizer, PopulationOptimizer) and getattr(self.accelerator, "scaler", None) is not None:
            raise ValueError(
                f"{type(optimizer).__name__} has no gradients that fp16 could scale; train with bf16=True, or in float32"
            )
        return optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The loss of a micro-batch, with the model as it is before the step.

        Args:
            model: as Trainer gives it.
            inputs: the micro-batch.
            num_items_in_batch: labels in all micro-batches of the step.

        Returns:
            The loss, shape (), as Trainer sums it up.
        """
        search = self._search()
        if search is None:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        model.train()
        judged = model.module if isinstance(model, DistributedDataParallel) else model
        inputs = self._prepare_inputs(inputs)
        self._micro_batches.append((inputs, num_items_in_batch))
        if self.accelerator.gradient_state.sync_gradients:  # the last one before the step
            search.set_objective(self._objective(judged, self._micro_batches, search))
            self._micro_batches = []
        with torch.no_grad():
            return self._loss(judged, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, without a gradient norm that is none.

        Args:
            logs: the values.
            args: as for Trainer.
            kwargs: likewise.
        """
        if self._search() is not None:
            logs.pop("grad_norm", None)
        super().log(logs, *args, **kwargs)

    def _search(self) -> PopulationOptimizer | None:
        """The population optimizer in what accelerate, and others, wrap around it."""
        optimizer = self.optimizer
        while optimizer is not None and not isinstance(optimizer, PopulationOptimizer):
            optimizer = getattr(optimizer, "optimizer", None)
        return optimizer

    def _objective(
        self, model: nn.Module, batches: list[tuple[Any, Any]], search: PopulationOptimizer
    ) -> Callable[[], Tensor]:
        """What the search judges by: the sum over micro-batches, as the mean of so many times each."""
        count = len(batches)

        def loss_of(batch: tuple[Any, Any]) -> Tensor:
            return self._loss(model, *batch) * count

        plain = accumulate(loss_of, batches)
        if not isinstance(search, HybridBFO):
            return torch.no_grad()(plain)
        guided = accumulate(loss_of, batches, backward=True)

        def objective() -> Tensor:
            if not search._wants_gradients():
                with torch.no_grad():
                    return plain()
            loss = guided()
            if self.args.max_grad_norm > 0:
                nn.utils.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
            return loss

        return objective

    def _loss(self, model: nn.Module, inputs: Any, num_items_in_batch: Any) -> Tensor:
        """The loss of a micro-batch as Trainer scales it, so that those of a step add up."""
        given = {**inputs} if isinstance(inputs, Mapping) else inputs  # `compute_loss` takes labels out
        with self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, given, num_items_in_batch=num_items_in_batch)
        if self.args.n_gpu > 1:
            loss = loss.mean()
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = counted or self.compute_loss_func is not None
        result: Tensor = loss if scaled else loss / self._steps_accumulated()
        return result

    def _steps_accumulated(self) -> int:
        # The last step of an epoch may have fewer; before that was known, all were divided by the same.
        return int(getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps))
