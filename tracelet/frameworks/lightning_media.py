"""What `WandbLogger` is given that is no number: images, sounds, videos, texts and tables.

Content is made before W&B takes it, which moves files, and recorded when it has: nothing is recorded of what it refuses. (What
TensorBoard's `experiment` is given arrives as from any SummaryWriter.)
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracelet.core import contents, tables
from tracelet.core.contents import Content, Missing
from tracelet.core.metrics import MetaValue, MetricType
from tracelet.core.values import as_step
from tracelet.frameworks.lightning_base import LightningBase
from tracelet.frameworks.lightning_metrics import log_dir_beside
from tracelet.frameworks.places import Place
from tracelet.guard import say, swallow
from tracelet.patching import Switch, Wrapper

__all__ = ["audio_of", "image_of", "places", "video_of"]

Library = type[LightningBase]

_SAMPLE_RATE: Final = 44100
_FPS: Final = 4  # W&B's own


def places(library: Library) -> list[Place]:
    """Where it is seen."""
    methods: dict[str, tuple[MetricType, Callable[..., Iterable[Content]]]] = {
        "log_image": (MetricType.IMAGE, _with_captions(image_of)),
        "log_audio": (MetricType.AUDIO, _with_captions(audio_of, "sample_rate")),
        "log_video": (MetricType.VIDEO, _with_captions(video_of, "fps")),
        "log_table": (MetricType.TABLE, _table),  # `log_text` calls it
    }
    return [
        Place(".loggers.wandb", "WandbLogger", name, _recording(library, name, kind, make))
        for name, (kind, make) in methods.items()
    ]


def _recording(
    library: Library, method: str, kind: MetricType, make: Callable[..., Iterable[Content]]
) -> Callable[[Switch], Wrapper]:
    what, step_at = f"recording WandbLogger.{method}", 3 if method == "log_table" else 1  # behind the key

    def contents_of(key: str = "", *args: Any, step: Any = None, **kwargs: Any) -> _Seen:
        step, args = (args[step_at], args[:step_at]) if len(args) > step_at else (step, args)
        return _Seen(str(key), None if step is None else as_step(step), _made(kind, key, lambda: make(*args, **kwargs)))

    def build(switch: Switch) -> Wrapper:
        def wrapper(
            wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Any:
            seen: _Seen | Exception | None = None
            if switch.on:
                try:
                    seen = None if library.capturing() is None else contents_of(*args, **kwargs)
                except Exception as error:
                    seen = error  # most likely, what W&B is about to refuse
            result = wrapped(*args, **kwargs)
            if seen is not None:
                try:
                    _record(library, instance, kind, seen)
                except Exception as error:
                    swallow(what, error)
            return result

        return wrapper

    return build


class _Seen(NamedTuple):
    key: str
    step: int | None
    contents: list[Content]


def _record(library: Library, logger: Any, kind: MetricType, seen: _Seen | Exception) -> None:
    if isinstance(seen, Exception):
        raise seen
    framework = library.capturing()
    if framework is None or (run := framework.experiment) is None:
        return
    log_dir = log_dir_beside(framework, logger)
    for number, content in enumerate(seen.contents):
        name = f"{seen.key}/{number}" if len(seen.contents) > 1 else seen.key
        run.record_media(name, kind, content, seen.step, None, log_dir)


def _made(kind: MetricType, key: str, make: Callable[[], Iterable[Content]]) -> list[Content]:
    try:
        return list(make())
    except Missing as missing:
        say(f"{kind.value} {key} is not recorded: {missing}", key=f"{kind.value}: {missing}")
        return []


def _with_captions(make: Callable[..., Content], *of_each: str) -> Callable[..., Iterator[Content]]:
    """What is made of a list, each with its caption, and its own argument where there is a list of those."""

    def made(given: Sequence[Any] = (), **kwargs: Sequence[Any]) -> Iterator[Content]:
        named = given or next((value for name, value in kwargs.items() if name in ("images", "audios", "videos")), ())
        for number, each in enumerate(named):
            content = make(each, **{name: kwargs[name][number] for name in of_each if name in kwargs})
            caption = kwargs["caption"][number] if "caption" in kwargs else None
            said: dict[str, MetaValue] = {} if caption is None else {"caption": str(caption)}
            yield content._replace(metadata={**content.metadata, **said})

    return made


def image_of(given: Any) -> Content:
    """An image as W&B takes it: tensors are CHW, arrays HWC; a Pillow image, a figure, a path, or a `wandb.Image`."""
    if isinstance(given, str | os.PathLike) or (hasattr(given, "save") and hasattr(given, "convert")):
        return contents.image(given, "")
    if hasattr(given, "savefig"):
        return contents.figure(given)
    if (picture := getattr(given, "image", None)) is not None:
        return contents.image(picture, "")
    array = contents.array_of(given)
    if array.dtype.kind in "iu":
        array = array.astype("u1")
    orders = {2: "HW", 3: "CHW", 4: "NCHW"} if hasattr(given, "detach") else {2: "HW", 3: "HWC", 4: "NHWC"}
    return contents.image(array, orders.get(array.ndim, ""))


def audio_of(given: Any, sample_rate: int = _SAMPLE_RATE) -> Content:
    """Sound as W&B takes it: samples of one channel, or a file's path."""
    return _file(given) or contents.audio(given, int(sample_rate))


def video_of(given: Any, fps: float = _FPS) -> Content:
    """Moving pictures as W&B takes them: (T, C, H, W), or (N, T, C, H, W); or a file's path."""
    if (file := _file(given)) is not None:
        return file
    array = contents.array_of(given)
    if array.dtype.kind in "iu":
        array = array.astype("u1")
    return contents.video(array[None] if array.ndim == 4 else array, fps)


def _file(given: Any) -> Content | None:
    if not isinstance(given, str | os.PathLike):
        return None
    media_type = mimetypes.guess_type(os.fspath(given))[0] or "application/octet-stream"
    return Content(Path(given).read_bytes(), media_type)


def _table(
    columns: Sequence[Any] | None = None, data: Iterable[Sequence[Any]] | None = None, dataframe: Any = None
) -> Iterator[Content]:
    yield tables.table(list(data or ()) if dataframe is None else dataframe, columns, "of WandbLogger")
