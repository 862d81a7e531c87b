"""A model and its search in one file, which `torch.load` reads with its defaults."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import nn

from tracelet.optim.population import PopulationOptimizer

__all__ = ["load", "save"]


def save(model: nn.Module, optimizer: PopulationOptimizer, path: str | PathLike[str]) -> None:
    """Write a model, the search it came from, and what serving wants to know of it.

    The file holds `model_state_dict`, `optimizer_state_dict` and `optimizer_config` with `optimizer` (the class name),
    `population_size`, `best_fitness`, `best_params` (D,) and `evaluations`.

    Args:
        model: whose parameters the optimizer searches.
        optimizer: of `tracelet.optim`.
        path: of the file.
    """
    config = {
        "optimizer": type(optimizer).__name__,
        "population_size": int(optimizer.population.shape[0]),
        "best_fitness": optimizer.best_fitness,
        "best_params": optimizer.best_params.clone(),
        "evaluations": optimizer.evaluations,
    }
    torch.save(
        {
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "optimizer_config": config,
        },
        path,
    )


def load(
    path: str | PathLike[str],
    model: nn.Module,
    optimizer: PopulationOptimizer | None = None,
    *,
    map_location: torch.device | str | None = None,
) -> dict[str, Any]:
    """Read what `save` wrote.

    Args:
        path: of the file.
        model: gets the saved parameters and buffers.
        optimizer: goes on where the saved one stopped; None for serving.
        map_location: as of `torch.load`.

    Returns:
        The file's `optimizer_config`.
    """
    saved = torch.load(path, map_location=map_location)
    model.load_state_dict(saved["model_state_dict"])
    if optimizer is not None:
        optimizer.load_state_dict(saved["optimizer_state_dict"])
    return dict(saved["optimizer_config"])
