"""`tracelet.log` and its kin: what a script says by itself, of whichever run is the active one.

They take what the methods of `Experiment` of the same names take, with `step` for the step, and never raise for what they are
given. In a context that is muted they do nothing; without a run they say so, once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, SupportsIndex

from tracelet.core import active
from tracelet.core.options import ENV_FILE, read_environment
from tracelet.core.tables import is_frame
from tracelet.core.values import as_float, as_step, read_together
from tracelet.guard import Guard, say, was_said
from tracelet.interface import get_active_experiment

if TYPE_CHECKING:
    import os

    from tracelet.core.artifacts import Policy
    from tracelet.core.experiment import Experiment

__all__ = [
    "log",
    "log_artifact",
    "log_audio",
    "log_figure",
    "log_histogram",
    "log_image",
    "log_params",
    "log_table",
    "log_text",
    "log_video",
    "set_tags",
]

_LOGGING: Final = Guard("recording values")
_LOOKING: Final = Guard("looking for a run")
_NO_RUN: Final = "no run: start_logging() first; what is logged before that is not recorded"
_DEEPEST: Final = 16  # of mappings in mappings; one that holds itself has no bottom


def log(values: Mapping[str, Any], step: SupportsIndex | None = None) -> None:
    """Record several values at one step, in the active run.

    Numbers, numpy scalars, and tensors or arrays of one element are points. A mapping in the mapping puts its name before
    those in it: `{"train": {"loss": 0.5}}` is `train/loss`. A matplotlib figure, a Pillow image and a DataFrame are recorded
    as by `log_figure`, `log_image` and `log_table`. What is anything else is left out, and one line says which call is for it;
    the rest is recorded all the same.

    Tensors on a device are read together: the call waits for each device once.

    Args:
        values: by name.
        step: the step; 0 is step 0. Without one, the points of each name are counted, and flagged.
    """
    run = _run()
    if run is None or not run.active:  # nothing is read from a device for nothing
        return
    with _LOGGING:
        given: Any = values
        if not isinstance(given, Mapping):
            say(f"log takes a mapping of names to values, not {type(given).__name__}: nothing is recorded")
            return
        at = None if step is None else as_step(step)
        now = time.time()
        record = run.record
        on_devices: list[tuple[str, Any]] = []
        for name, value in _flat(given, "", _DEEPEST):
            if isinstance(value, float):
                record(name, float(value), at, now)
            elif isinstance(value, int):
                with _LOGGING:  # it may be too large for a float
                    record(name, float(value), at, now)
            elif _is_on_device(value):
                on_devices.append((name, value))
            else:
                with _LOGGING:
                    _log_one(run, name, value, at, now)
        if on_devices:
            with _LOGGING:
                names, tensors = zip(*on_devices, strict=True)
                for name, number in zip(names, read_together(tensors), strict=True):
                    record(name, number, at, now)


def log_image(name: str, image: Any, step: SupportsIndex | None = None, *, dataformats: str = "CHW") -> None:
    """Record an image in the active run; see `Experiment.log_image`."""
    if (run := _run()) is not None:
        run.log_image(name, image, step, dataformats=dataformats)


def log_figure(name: str, figure: Any, step: SupportsIndex | None = None, *, close: bool = True) -> None:
    """Record a matplotlib figure in the active run; see `Experiment.log_figure`."""
    if (run := _run()) is not None:
        run.log_figure(name, figure, step, close=close)


def log_histogram(
    name: str, values: Any, step: SupportsIndex | None = None, *, bins: str | int | Sequence[float] = "tensorflow"
) -> None:
    """Record in the active run how values are distributed; see `Experiment.log_histogram`."""
    if (run := _run()) is not None:
        run.log_histogram(name, values, step, bins=bins)


def log_text(name: str, text: str, step: SupportsIndex | None = None) -> None:
    """Record a text, in Markdown, in the active run; see `Experiment.log_text`."""
    if (run := _run()) is not None:
        run.log_text(name, text, step)


def log_table(
    name: str, table: Any, step: SupportsIndex | None = None, *, columns: Iterable[Any] | None = None
) -> None:
    """Record a table in the active run; see `Experiment.log_table`."""
    if (run := _run()) is not None:
        run.log_table(name, table, step, columns=columns)


def log_audio(name: str, samples: Any, step: SupportsIndex | None = None, *, sample_rate: int = 44100) -> None:
    """Record sound in the active run; see `Experiment.log_audio`."""
    if (run := _run()) is not None:
        run.log_audio(name, samples, step, sample_rate=sample_rate)


def log_video(name: str, frames: Any, step: SupportsIndex | None = None, *, fps: float = 4) -> None:
    """Record moving pictures in the active run; see `Experiment.log_video`."""
    if (run := _run()) is not None:
        run.log_video(name, frames, step, fps=fps)


def log_artifact(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    policy: Policy = "now",
    type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Keep a file or a folder as an artifact of the active run; see `Experiment.log_artifact`."""
    if (run := _run()) is not None:
        run.log_artifact(path, name, policy=policy, type=type, metadata=metadata)


def log_params(params: Mapping[str, Any]) -> None:
    """Record parameters of the active run; see `Experiment.log_params`."""
    if (run := _run()) is not None:
        run.log_params(params)


def set_tags(tags: Mapping[str, Any] | Iterable[str]) -> None:
    """Set tags of the active run; see `Experiment.set_tags`."""
    if (run := _run()) is not None:
        run.set_tags(tags)


def _run() -> Experiment | None:
    run = active.current()
    if run is None and not active.is_muted() and not was_said(_NO_RUN):
        with _LOOKING:
            run = get_active_experiment()  # there may be a disabled one
            if run is None and not read_environment(ENV_FILE).get("disabled"):
                say(_NO_RUN)
    return run


def _flat(values: Mapping[Any, Any], prefix: str, levels: int) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        name = f"{prefix}{name}"
        if isinstance(value, float) or not isinstance(value, Mapping):
            yield name, value
        elif levels:
            yield from _flat(value, f"{name}/", levels - 1)
        else:
            say(f"{prefix.partition('/')[0]} is not recorded below {_DEEPEST} levels of mappings")


def _log_one(run: Experiment, name: str, value: Any, step: int | None, now: float) -> None:
    """Record what is no plain number."""
    if _is_number(value):
        run.record(name, as_float(value), step, now)
    elif (as_medium := _medium(run, value)) is not None:
        as_medium(name, value, step)
    else:
        say(f"{name} is not recorded: {_advice(value)}", key=f"log {name}")


def _medium(run: Experiment, value: Any) -> Callable[..., None] | None:
    """What records a value that is unmistakably no number."""
    kind = type(value)
    if callable(getattr(value, "savefig", None)):
        return run.log_figure
    if hasattr(kind, "convert") and hasattr(kind, "save") and hasattr(kind, "getbands"):
        return run.log_image
    return run.log_table if is_frame(value) else None


def _is_number(value: Any) -> bool:
    if hasattr(value, "numel"):
        return bool(value.numel() == 1)
    if hasattr(value, "item"):
        return bool(getattr(value, "size", 0) == 1)
    return hasattr(value, "__float__") or hasattr(value, "__index__")


def _advice(value: Any) -> str:
    if isinstance(value, str | bytes):
        return "a text is for log_text"
    if hasattr(value, "shape"):
        return f"an array of shape {tuple(value.shape)} is for log_histogram, log_image or log_table"
    if isinstance(value, Sequence):
        return f"a {type(value).__name__} is for log_histogram or log_table"
    return f"{type(value).__name__} is no number"


def _is_on_device(value: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    tensor = getattr(torch, "Tensor", None)
    return tensor is not None and isinstance(value, tensor) and value.device.type != "cpu" and value.numel() == 1
