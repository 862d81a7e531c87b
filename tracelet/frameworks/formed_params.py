"""What a TorchTrainer of formed was made of, as parameters, under the names that its configuration has in jsonnet."""

from __future__ import annotations

import functools
from typing import Any, Final

from tracelet.frameworks.optimizer_settings import settings
from tracelet.frameworks.parameters import described

__all__ = ["bare", "parameters_of"]

_TRAINER: Final = (
    "max_epochs",
    "eval_strategy",
    "eval_interval",
    "logging_strategy",
    "logging_interval",
    "logging_first_step",
)
_ENGINE: Final = ("gradient_accumulation_steps", "max_grad_norm", "dtype")


def parameters_of(trainer: Any, model: Any, state: Any, *, optimizer: bool = False) -> dict[str, Any]:
    """Trainer, engine, batch sizes and model.

    Args:
        trainer: the TorchTrainer.
        model: the model.
        state: what it trains.
        optimizer: the optimizer's settings too: nobody else records them.
    """
    said = {f"trainer/{name}": getattr(trainer, f"_{name}", None) for name in _TRAINER}
    engine = getattr(trainer, "_engine", None)
    said["trainer/engine/class"] = _class(engine)
    said |= {f"trainer/engine/{name}": getattr(engine, f"_{name}", None) for name in _ENGINE}
    said["trainer/engine/loss"] = _loss(getattr(engine, "_loss", None))
    said["trainer/engine/optimizer/class"] = _class(state.optimizer)
    said["trainer/engine/lr_scheduler/class"] = _class(state.lr_scheduler)
    said["trainer/distributor/class"] = _class(trainer.distributor)
    for loader in ("train_dataloader", "val_dataloader"):
        said[f"trainer/{loader}/batch_size"] = _batch_size(getattr(trainer, f"_{loader}", None))
    if optimizer and hasattr(state.optimizer, "param_groups"):
        said |= settings(state.optimizer, "trainer/engine/optimizer")
    said["model/class"] = _class(model)
    said |= _sizes(model)
    return {name: described(value) for name, value in said.items() if value is not None}


def bare(model: Any) -> Any:
    """The model, where a distributor has wrapped it."""
    return model.module if type(model).__module__.startswith("torch.nn.parallel") else model


def _class(thing: Any) -> str | None:
    return None if thing is None else f"{type(thing).__module__}.{type(thing).__qualname__}"


def _loss(loss: Any) -> Any:
    """The name of the loss in the model's output, where it has one."""
    return loss.keywords.get("name", loss) if isinstance(loss, functools.partial) else loss


def _batch_size(loader: Any) -> Any:
    for holder, name in ((loader, "batch_size"), (getattr(loader, "_sampler", None), "_batch_size")):
        if (size := getattr(holder, name, None)) is not None:
            return size
    return None


def _sizes(model: Any) -> dict[str, int]:
    try:
        sizes = [(int(parameter.numel()), bool(parameter.requires_grad)) for parameter in model.parameters()]
    except (RuntimeError, ValueError):  # some have no shape before the first batch
        return {}
    return {
        "model/parameters": sum(size for size, _ in sizes),
        "model/trainable_parameters": sum(size for size, trainable in sizes if trainable),
    }
