"""Settings of an optimizer: two spellings, and edits of `defaults` and of param groups that act."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, TypedDict

import torch

__all__ = ["COMMON", "OBJECTS", "PER_GROUP", "Common", "checked", "reconcile", "spelled"]

# The rest is the population's, and there is one population.
PER_GROUP = frozenset({"lr", "bounds", "init_std", "step_size_max", "step_size_min"})
ALIASES = {
    "chemotaxis_steps": "chem_steps",
    "reproduction_steps": "repro_steps",
    "elimination_steps": "elim_steps",
    "elimination_prob": "elim_prob",
    "enable_swarming": "use_swarming",
}


class Common(TypedDict, total=False):
    """Keyword arguments of every population optimizer; `PopulationOptimizer` says what they mean."""

    bounds: tuple[float, float] | None
    init_std: float | None
    init: str
    seed: int | None
    generator: torch.Generator | None
    max_evaluations: int | None
    early_stopping: bool
    convergence_tolerance: float
    convergence_patience: int
    reevaluate: str
    decisions: str
    shard: str | None
    process_group: Any
    device: torch.device | str | None
    compile_mode: str | None
    compile_kwargs: dict[str, Any] | None


COMMON: Common = {
    "bounds": None,
    "init_std": None,
    "init": "around",
    "seed": None,
    "generator": None,
    "max_evaluations": None,
    "early_stopping": False,
    "convergence_tolerance": 1e-6,
    "convergence_patience": 10,
    "reevaluate": "auto",
    "decisions": "auto",
    "shard": None,
    "process_group": None,
    "device": None,
    "compile_mode": None,
    "compile_kwargs": None,
}
# Not a number, a text or a pair of numbers: they are no part of a checkpoint.
OBJECTS = ("seed", "generator", "shard", "process_group", "device", "compile_mode", "compile_kwargs")
CHOICES = {
    "init": ("around", "uniform"),
    "reevaluate": ("auto", "always", "never"),
    "decisions": ("auto", "host", "device"),
}


def checked(settings: Mapping[str, Any]) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: which names the setting and what it may be.
    """
    for name, choices in CHOICES.items():
        if settings.get(name, choices[0]) not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, not {settings[name]!r}")
    for name in ("lr", "init_std", "step_size_max", "convergence_tolerance"):
        if (value := settings.get(name)) is not None and not value >= 0:
            raise ValueError(f"{name} is not negative, but {value!r} was given")
    for name in ("population_size", "max_evaluations", "convergence_patience"):
        if (value := settings.get(name)) is not None and not (isinstance(value, int) and value > 0):
            raise ValueError(f"{name} is a positive whole number, not {value!r}")
    if (bounds := settings.get("bounds")) is not None:
        low, high = bounds
        if not low < high:
            raise ValueError(f"bounds are (low, high) with low < high, not {bounds!r}")


def spelled(given: MutableMapping[str, Any], canonical: MutableMapping[str, Any]) -> None:
    """Move arguments in their other spelling (`chemotaxis_steps` for `chem_steps`) to where they belong.

    Args:
        given: keyword arguments; the aliases are taken out.
        canonical: the settings under their own names; changed.

    Raises:
        TypeError: for an alias of something that this optimizer does not have.
    """
    for alias in [name for name in given if name in ALIASES]:
        if ALIASES[alias] not in canonical:
            raise TypeError(f"unexpected keyword argument {alias!r}")
        canonical[ALIASES[alias]] = given.pop(alias)


def reconcile(defaults: dict[str, Any], groups: Sequence[dict[str, Any]], seen: Mapping[str, Any]) -> list[str]:
    """Make `defaults` and param groups say the same after somebody edited either.

    A changed default is written to every group. A changed shared setting of one group is written to the others and to
    `defaults`; what is a group's own (`PER_GROUP`) stays there.

    Args:
        defaults: the optimizer's; changed in place. An edit under an alias acts too.
        groups: the optimizer's; changed in place.
        seen: `defaults` as they were when they last agreed.

    Returns:
        The names of the shared settings and defaults that changed.
    """
    changed = []
    for alias in ALIASES.keys() & defaults.keys():
        defaults[ALIASES[alias]] = defaults.pop(alias)
    for name, before in seen.items():
        value = defaults.get(name, before)
        if value != before:
            for group in groups:
                group[name] = value
            changed.append(name)
        elif name not in PER_GROUP:
            for group in groups:
                if (edited := group.get(name, before)) != before:
                    defaults[name] = edited
                    changed.append(name)
                    break
            else:
                continue
            for group in groups:
                group[name] = edited
    return changed
