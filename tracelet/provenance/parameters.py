"""Parameters that nobody logged: what argparse, absl, Hydra or OmegaConf made of the command line, as the user's code has it.

Looked for in the frames above `start_logging` (or above the first record, under `tracelet run`) up to `__main__`: reading the
names there changes nothing. Libraries are looked at only if the script has imported them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from pathlib import PurePath
from types import FrameType
from typing import Any, Final

__all__ = ["flatten", "in_frames", "of_absl", "of_hydra"]

_MOST_FRAMES: Final = 64
_MOST_NAMES: Final = 2000  # of one frame
_MOST_VALUES: Final = 2000
_MOST_ELEMENTS: Final = 200
_MOST_TEXT: Final = 6000
_DEEPEST: Final = 10
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values under dotted names: `model.lr`. Lists are JSON; what is no plain value is told by its name, or its text."""
    return dict(islice(_leaves("", values, 0), _MOST_VALUES))


def in_frames(frame: FrameType | None, namespaces: bool = True) -> dict[str, Any]:
    """The arguments and the configuration that the code above has, from the nearest frame that has any.

    Args:
        frame: where to begin.
        namespaces: look for what argparse made, too.
    """
    found: dict[str, Any] = {}
    for names in _names(frame):
        for value in names:
            said = (_of_namespace(value) if namespaces else None) or _of_omegaconf(value)
            found = {**(said or {}), **found}
        if found:
            break
    return found


def of_absl() -> dict[str, Any]:
    """The key flags of the main module, once absl has parsed the command line."""
    flags = getattr(sys.modules.get("absl.flags"), "FLAGS", None)
    if flags is None or not flags.is_parsed():
        return {}
    return flatten({flag.name: flag.value for flag in flags.get_key_flags_for_module(sys.argv[0])})


def of_hydra() -> dict[str, Any]:
    """The configuration of the job that Hydra runs now, as it lies in the job's folder."""
    kind = getattr(sys.modules.get("hydra.core.hydra_config"), "HydraConfig", None)
    if kind is None or not kind.initialized():
        return {}
    from omegaconf import OmegaConf

    config = kind.get()
    path = PurePath(str(config.runtime.output_dir), str(config.output_subdir), "config.yaml")
    try:
        return _of_omegaconf(OmegaConf.load(str(path))) or {}
    except OSError:
        return {}  # it was told to write none


def _of_namespace(value: Any) -> dict[str, Any] | None:
    argparse = sys.modules.get("argparse")
    # By its type: a lazy object would make up its mind when it is asked for its class.
    if argparse is None or not issubclass(type(value), argparse.Namespace):
        return None
    return flatten(vars(value))


def _of_omegaconf(value: Any) -> dict[str, Any] | None:
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is None or not issubclass(type(value), omegaconf.DictConfig):
        return None
    written = omegaconf.OmegaConf.to_container(value, resolve=False)
    if not isinstance(written, dict):
        return {}
    flat = flatten(written)
    return {name: _referred(each, flat) for name, each in flat.items()}


def _referred(value: Any, flat: Mapping[str, Any], depth: int = 0) -> Any:
    """A value with what it refers to (`${model.size}`) in its place.

    What comes from a resolver stays as it is written: that is the user's code, or a variable of the environment.
    """
    if not isinstance(value, str) or depth > _DEEPEST:
        return value
    if (whole := _REFERENCE.fullmatch(value)) is not None:
        return _referred(flat[whole[1]], flat, depth + 1) if whole[1] in flat else value
    return _REFERENCE.sub(lambda found: str(_referred(found[0], flat, depth + 1)), value)


def _names(frame: FrameType | None) -> Iterator[list[Any]]:
    """The values of each frame's names, nearest first; at last those of `__main__`."""
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    met = 0
    while frame is not None and met < _MOST_FRAMES and frame.f_globals is not main:
        met += 1
        if not str(frame.f_globals.get("__name__", "")).startswith("tracelet."):
            yield list(islice(dict(frame.f_locals).values(), _MOST_NAMES))
        frame = frame.f_back
    while frame is not None and met < _MOST_FRAMES and frame.f_code.co_name != "<module>":
        met += 1
        yield list(islice(dict(frame.f_locals).values(), _MOST_NAMES))
        frame = frame.f_back
    yield list(islice(dict(main).values(), _MOST_NAMES))


def _leaves(prefix: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    inner = vars(value) if _is_namespace(value) else value
    if isinstance(inner, Mapping) and depth < _DEEPEST:
        for name, each in list(inner.items()):
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), each, depth + 1)
        if not inner and prefix:
            yield prefix, "{}"
    else:
        yield prefix, _told(value)


def _is_namespace(value: Any) -> bool:
    argparse = sys.modules.get("argparse")
    return argparse is not None and isinstance(value, argparse.Namespace)


def _told(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        said = json.dumps([_plain(each) for each in islice(items, _MOST_ELEMENTS)], ensure_ascii=False)
        return said if len(items) <= _MOST_ELEMENTS else f"{said[:-1]}, …]"
    return _text(value)


def _plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if depth < _DEEPEST and isinstance(value, list | tuple):
        return [_plain(each, depth + 1) for each in value[:_MOST_ELEMENTS]]
    if depth < _DEEPEST and isinstance(value, dict):
        return {str(name): _plain(each, depth + 1) for name, each in value.items()}
    return _text(value)


def _text(value: Any) -> str:
    """Its text; of functions, classes and arrays what they are: their texts have addresses, or have to be computed."""
    if isinstance(value, PurePath):
        return str(value)
    name: Any = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(value, '__module__', '')}.{name}".lstrip(".")
    kind: Any = type(value)
    if hasattr(kind, "shape"):
        return f"{kind.__name__}{tuple(value.shape)}"
    if hasattr(value, "name") and hasattr(value, "fileno"):
        return str(value.name)  # an open file
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        return f"{kind.__module__}.{kind.__qualname__}"
    try:
        return str(value)[:_MOST_TEXT]
    except Exception:  # the user's own __str__ fails
        return str(kind.__qualname__)
