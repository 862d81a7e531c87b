"""What SummaryWriters are given that is no number: recorded as TensorBoard encoded it, by both libraries' writers."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import tensorboardX
import torch
import wrapt
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils import tensorboard

from tests.support import runs
from tests.support.spool_points import points, records_of
from tracelet.core.metrics import BlobRef, Media, Params
from tracelet.frameworks.versions import reaches
from tracelet.spoolfile import SpoolDirectory

matplotlib.use("agg")
from matplotlib import pyplot

LIBRARIES: dict[str, Any] = {"torch": tensorboard.SummaryWriter, "tensorboardX": tensorboardX.SummaryWriter}
Make = Callable[..., Any]

rng = np.random.default_rng(3)
PICTURE = rng.random((3, 8, 9), dtype=np.float32)
NOISE = rng.integers(0, 255, (3, 64, 64), dtype=np.uint8)
VERTICES = torch.rand(1, 4, 3)
FACES = torch.tensor([[[0, 1, 2], [1, 2, 3]]])
LABELS, GUESSES = rng.integers(0, 2, 100), rng.random(100)
LAYOUT = {"A": {"one": ["Multiline", ["x", "y"]], "two": ["Margin", ["a", "b", "c"]]}}


@pytest.fixture(params=LIBRARIES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a writer whose folder has a name."""
    return lambda name="w", library=request.param: LIBRARIES[library](str(tmp_path / "runs" / name))


def media(home: Path) -> list[Media]:
    return records_of(Media, home)


def content_of(home: Path, one: Media) -> bytes:
    if isinstance(one.content, bytes):
        return one.content
    (spool,) = SpoolDirectory.under(home)
    return (spool.blobs / one.content.sha256).read_bytes()


def figure() -> Any:
    made, axes = pyplot.subplots(figsize=(2, 1), dpi=50)
    axes.plot([1, 2])
    return made


def events(folder: Path) -> Iterator[Event]:
    for path in sorted(folder.rglob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        yield from (Event.FromString(raw) for raw in RawEventFileLoader(str(path)).Load())


# What is called, the kind and media type that come of it. All at step 5.
CALLS: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "add_image": (lambda w: w.add_image("t", PICTURE, 5), "image", "image/png"),
    "add_images": (lambda w: w.add_images("t", PICTURE[None], 5), "image", "image/png"),
    "add_image_with_boxes": (
        lambda w: w.add_image_with_boxes("t", NOISE, np.array([[1, 1, 9, 9]]), 5),
        "image",
        "image/png",
    ),
    "add_figure": (lambda w: w.add_figure("t", figure(), 5), "figure", "image/png"),
    "add_figure of several": (lambda w: w.add_figure("t", [figure(), figure()], 5), "figure", "image/png"),
    "add_histogram": (lambda w: w.add_histogram("t", rng.normal(size=100), 5), "histogram", "application/json"),
    "add_histogram_raw": (
        lambda w: w.add_histogram_raw("t", 0, 2, 3, 4.0, 5.0, [1.0, 2.0], [1, 2], 5),
        "histogram",
        "application/json",
    ),
    "add_text": (lambda w: w.add_text("t", "**bold** ü", 5), "text", "text/plain"),
    "add_audio": (lambda w: w.add_audio("t", np.linspace(-1, 1, 50), 5, sample_rate=8000), "audio", "audio/wav"),
    "add_pr_curve": (
        lambda w: w.add_pr_curve("t", LABELS, GUESSES, 5, num_thresholds=11),
        "pr_curve",
        "application/json",
    ),
    "add_pr_curve_raw": (
        lambda w: w.add_pr_curve_raw("t", *np.arange(12.0).reshape(6, 2), 5),
        "pr_curve",
        "application/json",
    ),
    "add_mesh": (lambda w: w.add_mesh("t", VERTICES, None, FACES, {"a": 1}, 5), "mesh", "application/x-npz"),
    "add_embedding": (
        lambda w: w.add_embedding(torch.rand(3, 2), ["x", "y", "z"], None, 5, "t"),
        "embedding",
        "application/zip",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_kind_is_recorded_once(home: Path, make: Make, call: str) -> None:
    act, kind, media_type = CALLS[call]
    writer = make()
    with runs.running(home):
        assert act(writer) is None
    (one,) = media(home)
    assert (one.name, one.tag, one.kind, one.media_type, one.step, one.step_implied) == (
        "t",
        "t",
        kind,
        media_type,
        5,
        False,
    )
    assert one.log_dir == str(Path(writer.logdir if hasattr(writer, "logdir") else writer.log_dir).absolute())
    assert content_of(home, one)
    assert points(home) == []


def test_contents_are_what_tensorboard_wrote(home: Path, make: Make, tmp_path: Path) -> None:
    with runs.running(home), make() as writer:
        for act, _, _ in CALLS.values():
            act(writer)
    said = {call: content_of(home, one) for call, one in zip(CALLS, media(home), strict=True)}
    written: dict[str, list[Any]] = {}
    for event in events(tmp_path):
        for value in event.summary.value:
            written.setdefault(value.tag, []).append(value)
    pictures = [value.image.encoded_image_string for value in written["t"] if value.HasField("image")]
    assert [said[call] for call in CALLS if "image" in call or "figure" in call] == pictures
    sounds = [value.audio.encoded_audio_string for value in written["t"] if value.HasField("audio")]
    assert [said["add_audio"]] == sounds
    first, raw = (value.histo for value in written["t"] if value.HasField("histo"))
    for found, histo in ((said["add_histogram"], first), (said["add_histogram_raw"], raw)):
        assert json.loads(found)["bucket"] == list(histo.bucket)
        assert json.loads(found)["bucket_limit"] == list(histo.bucket_limit)
    assert json.loads(said["add_histogram_raw"])["sum_squares"] == 5.0
    assert said["add_text"].decode() == "**bold** ü"
    curve = json.loads(said["add_pr_curve_raw"])
    assert (curve["tp"], curve["recall"], curve["thresholds"]) == ([0.0, 1.0], [10.0, 11.0], [0.0, 1.0])
    assert len(json.loads(said["add_pr_curve"])["precision"]) == 11
    with np.load(io.BytesIO(said["add_mesh"])) as arrays:
        assert np.array_equal(arrays["vertices"], VERTICES.numpy())
        assert arrays["faces"].tolist() == FACES.tolist()
    with zipfile.ZipFile(io.BytesIO(said["add_embedding"])) as archive:
        assert archive.namelist() == ["metadata.tsv", "tensors.tsv"]
        assert archive.read("metadata.tsv") == b"x\ny\nz\n"
        assert archive.read("tensors.tsv") == next(tmp_path.rglob("tensors.tsv")).read_bytes()
    whats = {one.kind: one.metadata for one in media(home)}
    assert whats["audio"] == {"sample_rate": 8000, "frames": 50}
    assert whats["mesh"] == {"config": '{"a": 1}'}
    assert whats["embedding"] == {"points": 3, "dimensions": 2}
    assert whats["image"] == {"width": 64, "height": 64}


def test_event_files_are_what_they_are_without_us(home: Path, make: Make, tmp_path: Path) -> None:
    def log(name: str) -> list[tuple[int, bytes]]:
        with make(name) as writer:
            for call, (act, _, _) in CALLS.items():
                if call != "add_histogram":  # its values are drawn anew
                    act(writer)
            writer.add_custom_scalars(LAYOUT)
            writer.add_graph(torch.nn.Linear(3, 2), torch.rand(1, 3))
        return [(e.step, e.summary.SerializeToString() + e.graph_def) for e in events(tmp_path / "runs" / name)]

    bare = log("bare")
    with runs.running(home):
        assert log("patched") == bare
    assert len(bare) > len(CALLS)


def test_graphs_and_layouts(home: Path, make: Make) -> None:
    writer = make()
    with runs.running(home):
        writer.add_graph(torch.nn.Linear(3, 2), torch.rand(1, 3))
        writer.add_custom_scalars(LAYOUT)
        writer.add_custom_scalars_multilinechart(["x", "y"], "B", "three")
        writer.add_custom_scalars_marginchart(["a", "b", "c"])
    graph, *layouts = media(home)
    assert (graph.name, graph.kind, graph.media_type) == ("graph", "graph", "text/x-protobuf")
    assert b"aten::linear" in content_of(home, graph)
    assert [(one.name, one.kind, one.step, one.step_implied) for one in layouts] == [
        ("custom_scalars", "layout", step, True) for step in range(3)
    ]
    said = json.loads(content_of(home, layouts[0]))
    (category,) = said["category"]
    assert category["title"] == "A"
    assert category["chart"][0] == {"title": "one", "multiline": {"tag": ["x", "y"]}}
    assert category["chart"][1]["margin"]["series"] == [{"value": "a", "lower": "b", "upper": "c"}]


def test_a_video_without_moviepy(home: Path, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """TensorBoard then writes nothing but a line on stdout; the video is recorded all the same."""
    frames = torch.zeros(1, 4, 3, 6, 8)
    frames[:, 2:, 1] = 1.0
    writer = make()
    library = sys.modules[type(writer).__module__.partition(".")[0]]
    if library.__name__ == "tensorboardX" and not reaches(library.__version__, (2, 6, 5)):
        pytest.skip("this tensorboardX cannot arrange a video's frames with this numpy")
    with runs.running(home):
        writer.add_video("v", frames, 3, fps=8)
    (one,) = media(home)
    picture = Image.open(io.BytesIO(content_of(home, one)))
    assert (one.kind, one.media_type, one.step) == ("video", "image/gif", 3)
    assert picture.size == (8, 6)
    capfd.readouterr()


def test_steps_wall_times_and_labels(home: Path, make: Make) -> None:
    train, val = make("train"), make("val")
    with runs.running(home):
        train.add_text("note", "a", walltime=12.5)
        train.add_text("note", "b")
        train.add_scalar("note", 1.0)
        train.add_image("note", PICTURE)
        val.add_text("note", "c", torch.tensor(7))
        val.add_text(tag="note", text_string="d", global_step=np.int64(8))
    assert [(one.name, one.kind, one.step, one.step_implied) for one in media(home)] == [
        ("note", "text", 0, True),
        ("note", "text", 1, True),
        ("note", "image", 0, True),
        ("val/note", "text", 7, False),
        ("val/note", "text", 8, False),
    ]
    assert media(home)[0].wall_time == 12.5
    assert [point.step for point in points(home)] == [0]


def test_hparams_are_parameters_and_results(home: Path, make: Make) -> None:
    with runs.running(home), make() as writer:
        writer.add_scalar("loss", 1.0, 1)
        writer.add_hparams({"lr": 0.1, "act": "relu", "on": True}, {"hparam/loss": 0.5, "acc": torch.tensor(0.25)})
        writer.add_hparams({"lr": 0.2}, {"acc": 0.75}, global_step=9)
    assert [dict(params.values) for params in records_of(Params, home)] == [
        {"lr": 0.1, "act": "relu", "on": True},
        {"lr": 0.2},
    ]
    assert [(point.name, point.value, point.step, point.step_implied) for point in points(home)] == [
        ("loss", 1.0, 1, False),
        ("hparam/loss", 0.5, 0, True),
        ("acc", 0.25, 0, True),
        ("acc", 0.75, 9, False),
    ]


def test_what_raises_raises_and_is_not_recorded(home: Path, make: Make) -> None:
    writer = make()
    wrong: list[tuple[Callable[[], Any], type[BaseException]]] = [
        (lambda: writer.add_histogram("t", np.array([])), ValueError),
        (lambda: writer.add_image("t"), TypeError),
        (lambda: writer.add_hparams([], {}), TypeError),
        (lambda: writer.add_embedding(torch.rand(3), tag="t"), AssertionError),
        (lambda: writer.add_custom_scalars_marginchart(["a"]), AssertionError),
        (lambda: writer.add_onnx_graph("/nowhere"), (ModuleNotFoundError, FileNotFoundError)),  # type: ignore[list-item]
    ]
    with runs.running(home):
        for call, kind in wrong:
            with pytest.raises(kind):
                call()
    assert media(home) == []


def test_a_tensor_is_not_recorded_and_that_is_said_once(
    home: Path, make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = make()
    if not hasattr(writer, "add_tensor"):
        pytest.skip("this library has no add_tensor")
    writer.add_tensor("before the run", torch.ones(2), 0)
    assert capfd.readouterr().err == ""
    with runs.running(home):
        for step in range(2):
            writer.add_tensor("t", torch.ones(2), step)
    assert capfd.readouterr().err.count("add_tensor writes is in its event file only") == 1
    assert media(home) == []


def test_large_content_is_a_blob_and_equal_content_one_file(home: Path, make: Make) -> None:
    writer = make()
    with runs.running(home):
        for step in range(3):
            writer.add_image("noise", NOISE, step)
    refs = [one.content for one in media(home)]
    assert len({ref.sha256 for ref in refs if isinstance(ref, BlobRef)}) == 1
    (spool,) = SpoolDirectory.under(home)
    assert len(list(spool.blobs.iterdir())) == 1


def test_subclasses_and_instances_of_ones_own(home: Path, make: Make, tmp_path: Path) -> None:
    kind = type(make())

    class Own(kind):  # type: ignore[misc, valid-type]
        def add_image(self, tag: str, picture: Any, step: int) -> str:
            super().add_image(f"own/{tag}", picture, step)
            super().add_text(tag, "and a text", step)
            return "mine"

        def add_figure(self, *args: Any, **kwargs: Any) -> Any:
            return super().add_figure(*args, **kwargs)

    writer, marked = Own(str(tmp_path / "own")), make("marked")
    seen: list[str] = []
    marked.add_text = lambda tag, text, step: seen.append(tag)
    with runs.running(home):
        assert writer.add_image("a", PICTURE, 1) == "mine"
        marked.add_text("b", "x", 2)
    assert [(one.tag, one.kind) for one in media(home)] == [("own/a", "image"), ("a", "text")]
    assert seen == ["b"]


@pytest.mark.parametrize("how", ["function", "wrapt", "callable"])
@pytest.mark.parametrize("when", ["before us", "on top of us"])
def test_other_tools_see_each_call_too(
    home: Path, make: Make, how: str, when: str, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = make()
    kind = type(writer)
    original = kind.__dict__["add_image"]
    seen: list[str] = []

    def patch() -> None:
        below = kind.__dict__["add_image"]

        def function(self: Any, tag: str, *args: Any, **kwargs: Any) -> Any:
            seen.append(tag)
            return below.__get__(self, kind)(tag, *args, **kwargs)

        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            seen.append(args[0])
            return wrapped(*args, **kwargs)

        class Bound:
            def __get__(self, instance: Any, owner: Any = None) -> Any:
                return self if instance is None else lambda *args, **kwargs: function(instance, *args, **kwargs)

        kind.add_image = {"function": function, "wrapt": wrapt.FunctionWrapper(below, wrapper), "callable": Bound()}[
            how
        ]

    try:
        if when == "before us":
            patch()
        with runs.running(home):
            if when == "on top of us":
                patch()
            writer.add_image("t", PICTURE, 1)
            writer.add_figure("f", figure(), 2)
    finally:
        kind.add_image = original
    assert seen == ["t", "f"]
    lost = how == "callable" and when == "before us"
    assert [(one.tag, one.kind) for one in media(home)] == ([] if lost else [("t", "image")]) + [("f", "figure")]
    assert capfd.readouterr().err.count("cannot be watched") == lost


def test_threads(home: Path, make: Make) -> None:
    """Each thread's pictures under their own name and step."""
    writer = make()

    def log(number: int) -> None:
        for step in range(20):
            writer.add_image(f"t{number}", np.full((3, 4, 4), number * 20 + step, np.uint8), step)

    with runs.running(home):
        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = {
        (one.tag, one.step): np.asarray(Image.open(io.BytesIO(content_of(home, one))))[0, 0, 0] for one in media(home)
    }
    assert found == {(f"t{number}", step): number * 20 + step for number in range(4) for step in range(20)}


def test_a_forked_child_leaves_its_content_in_a_spool_of_its_own(home: Path, make: Make) -> None:
    writer = make()
    with runs.running(home) as run:
        writer.add_image("noise", NOISE, 0)
        child = os.fork()
        if not child:
            signal.alarm(30)
            run.log_image("noise", NOISE, 1)  # a writer's queue may be locked by a thread that is not here
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert [one.step for one in media(home)] == [0, 1]
    assert [len(list(spool.blobs.iterdir())) for spool in SpoolDirectory.under(home)] == [1, 1]


def test_without_a_run_and_switched_off_nothing_is_watched(home: Path, make: Make) -> None:
    writer = make()
    writer.add_text("t", "before", 1)
    with runs.running(home) as run:
        for framework in run._frameworks.values():
            framework.stop_tracking()
        writer.add_text("t", "off", 2)
    writer.add_text("t", "after", 3)
    assert media(home) == []


def test_a_fault_of_ours_costs_one_line(
    home: Path, make: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")

    def broken(*_: Any) -> None:
        raise RuntimeError("of ours")

    writer = make()
    with runs.running(home) as run:
        monkeypatch.setattr(run, "record_media", broken)
        writer.add_text("t", "x", 1)
        writer.add_text("t", "x", 2)
    assert capfd.readouterr().err.count("\n") == 1
