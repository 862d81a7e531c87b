"""Parameters of a Trainer's run: the arguments that matter, and the model's configuration.

Of more than a hundred training arguments, recorded are those that nearly every comparison asks for, and those that are not what
they are by default. Of a configuration, what the model's own class adds to that of all models.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final

from tracelet.frameworks.parameters import record_parameters
from tracelet.frameworks.transformers import TransformersFramework

__all__ = ["tell"]

_ALWAYS: Final = frozenset(
    {
        "bf16",
        "fp16",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "num_train_epochs",
        "optim",
        "per_device_train_batch_size",
        "seed",
        "warmup_steps",
        "weight_decay",
    }
)
# How the training is shown, and to whom.
_NEVER: Final = frozenset({"disable_tqdm", "log_level", "log_level_replica", "logging_dir", "report_to"})
# Names of classes, one for each: a number says it.
_LABELS: Final = frozenset({"id2label", "label2id"})
_OF_NO_MODEL: Final = frozenset({"transformers_version", "_name_or_path"})


def tell(framework: TransformersFramework, model: Any, args: Any) -> None:
    """Record the arguments of a Trainer, and what its model is; what is recorded already is not recorded again.

    Args:
        framework: whose run it is.
        model: the Trainer's.
        args: its TrainingArguments.
    """
    record_parameters(framework, {**_arguments(args), "model": _model(model)})


def _arguments(args: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(args):
        return {}
    found = {}
    for field in dataclasses.fields(args):
        if not field.init or field.name in _NEVER:
            continue
        value = _plain(getattr(args, field.name, None))
        if field.name in _ALWAYS:
            found[field.name] = value
        elif field.name == "fsdp_config" and not getattr(args, "fsdp", None):
            continue  # it is filled in, and not looked at
        elif isinstance(value, Mapping):
            usual = _usual(getattr(args, field.name))
            found[field.name] = {name: each for name, each in value.items() if each != usual.get(name)}
        elif not _same(value, _default(field)):
            found[field.name] = value
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return _plain(field.default)
    return None if field.default_factory is dataclasses.MISSING else _plain(field.default_factory())


def _same(value: Any, default: Any) -> bool:
    """Whether a value is the default one; many an empty one is filled in by another empty one."""
    empty = value is False or (not value and not isinstance(value, int | float))
    return bool(value == default) or (empty and not default)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.to_dict() if hasattr(value, "to_dict") and not isinstance(value, type) else value


def _usual(value: Any) -> Mapping[str, Any]:
    """What an object with names in it is when nobody has said anything; empty for a mapping."""
    try:
        return {} if isinstance(value, Mapping) else type(value)().to_dict()
    except TypeError:  # it wants to be told something
        return {}


def _model(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    found: dict[str, Any] = {} if config is None else _configuration(config)
    if model is not None:
        found["class"] = type(model).__name__
        sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
        found["num_parameters"] = sum(size for size, _ in sizes)
        found["num_trainable_parameters"] = sum(size for size, trained in sizes if trained)
    return found


def _configuration(config: Any) -> dict[str, Any]:
    """What a model's configuration says beyond that of any model."""
    if not hasattr(config, "to_dict"):
        return dict(config) if isinstance(config, Mapping) else {}
    said = config.to_dict()
    base = next((kind for kind in reversed(type(config).__mro__) if "to_dict" in vars(kind)), type(config))
    usual = {} if base is type(config) else base().to_dict()
    found: dict[str, Any] = {}
    for name, value in said.items():
        inner = getattr(config, name, None)
        if name in _LABELS or name in _OF_NO_MODEL or value is None:
            continue
        if hasattr(inner, "to_dict"):
            found[name] = _configuration(inner)
        elif name not in usual or usual[name] != value:
            found[name] = value
    if name := getattr(config, "_name_or_path", ""):
        found["name_or_path"] = name
    if said.get("id2label") and said["id2label"] != usual.get("id2label"):
        found["num_labels"] = len(said["id2label"])
    return found
