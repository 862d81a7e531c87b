"""Media by explicit calls: in the form that TensorBoard makes of the same, without TensorBoard."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter, summary

from tests.support import runs
from tests.support.spool_points import records_of
from tracelet.core import contents
from tracelet.core.experiment import Experiment
from tracelet.core.metrics import BlobRef, Media
from tracelet.spoolfile import SpoolDirectory

rng = np.random.default_rng(7)


def logged(home: Path) -> list[Media]:
    return records_of(Media, home)


def bytes_of(home: Path, media: Media) -> bytes:
    if isinstance(media.content, bytes):
        return media.content
    (spool,) = SpoolDirectory.under(home)
    content = (spool.blobs / media.content.sha256).read_bytes()
    assert len(content) == media.content.size
    return content


def one(home: Path, log: Callable[[Experiment], None]) -> tuple[Media, bytes]:
    with runs.running(home) as run:
        log(run)
    (media,) = logged(home)
    return media, bytes_of(home, media)


def pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


IMAGES = {
    "CHW": rng.random((3, 8, 9)),
    "HWC": rng.integers(0, 255, (8, 9, 3), dtype=np.uint8),
    "HW": rng.random((8, 9), dtype=np.float32),
    "NCHW": rng.random((11, 3, 4, 5)),
    "NHWC": rng.random((3, 4, 5, 1)),
    "hwc": rng.random((8, 9, 4)),
}


@pytest.mark.parametrize("dataformats", IMAGES)
@pytest.mark.parametrize("tensor", [False, True])
def test_images_have_the_pixels_that_tensorboard_gives_them(home: Path, dataformats: str, tensor: bool) -> None:
    given = IMAGES[dataformats]
    theirs = summary.image("t", given, dataformats=dataformats).value[0].image
    passed = torch.from_numpy(given).requires_grad_(given.dtype != np.uint8) if tensor else given
    media, png = one(home, lambda run: run.log_image("t", passed, 3, dataformats=dataformats))
    assert np.array_equal(pixels(png), pixels(theirs.encoded_image_string))
    assert (media.name, media.kind, media.media_type, media.step) == ("t", "image", "image/png", 3)
    assert media.metadata == {"width": theirs.width, "height": theirs.height}


def test_images_from_files_bytes_and_pillow(home: Path, tmp_path: Path) -> None:
    picture = Image.fromarray(IMAGES["HWC"])
    png, jpeg = tmp_path / "a.png", tmp_path / "a.jpg"
    picture.save(png)
    picture.save(jpeg)
    with runs.running(home) as run:
        for given in (picture, png, str(png), png.read_bytes(), bytearray(png.read_bytes())):
            run.log_image("a", given)
        run.log_image("a", jpeg)
        run.log_image("a", picture.convert("P"))
        run.log_image("a", torch.rand(3, 2, 2).to(torch.bfloat16))
    found = [bytes_of(home, media) for media in logged(home)]
    assert all(np.array_equal(pixels(content), IMAGES["HWC"]) for content in found[:5])
    assert found[1] == png.read_bytes(), "a PNG is kept as it is"
    assert np.array_equal(pixels(found[5]), np.asarray(Image.open(jpeg)))
    assert [(media.step, media.step_implied) for media in logged(home)] == [(step, True) for step in range(8)]


def test_figures(home: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(2, 1), dpi=50)
    axes.plot([1, 2])
    with runs.running(home) as run:
        run.log_figure("f", figure, 1, close=False)
        assert pyplot.fignum_exists(figure.number)
        run.log_figure("f", figure, 2)
        assert not pyplot.fignum_exists(figure.number)
    first, second = logged(home)
    assert (first.kind, first.media_type, first.metadata) == ("figure", "image/png", {"width": 100, "height": 50})
    assert bytes_of(home, first) == bytes_of(home, second)


VALUES = {
    "normal": rng.normal(size=10_000),
    "one": np.array([3.5]),
    "constant": np.zeros(10),
    "integers": np.arange(-5, 100).reshape(5, 21),
    "tiny": np.array([1e-15, -1e-15, 1e-12]),
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("bins", ["tensorflow", 7, [-1.0, 0.0, 1.0, 200.0]])
def test_histograms_are_tensorboards(home: Path, tmp_path: Path, values: str, bins: Any) -> None:
    limits = SummaryWriter(str(tmp_path)).default_bins if bins == "tensorflow" else bins
    theirs = summary.histogram("h", VALUES[values], limits).value[0].histo
    media, content = one(home, lambda run: run.log_histogram("h", VALUES[values], 1, bins=bins))
    said = json.loads(content)
    assert list(said["bucket_limit"]) == list(theirs.bucket_limit)
    assert list(said["bucket"]) == list(theirs.bucket)
    assert (said["min"], said["max"], said["num"]) == (theirs.min, theirs.max, theirs.num)
    assert (said["sum"], said["sum_squares"]) == pytest.approx((theirs.sum, theirs.sum_squares))
    assert (media.kind, media.media_type) == ("histogram", "application/json")


@pytest.mark.parametrize("bins", ["tensorflow", 7, [-1.0, 0.0, 1.0, 200.0]])
@pytest.mark.parametrize("values", VALUES)
def test_histograms_without_numpy_are_the_same(monkeypatch: pytest.MonkeyPatch, values: str, bins: Any) -> None:
    numbers = VALUES[values].reshape(-1).tolist()
    expected = json.loads(contents.histogram(numbers, bins).data)

    def needs(module: str, package: str = "") -> Any:
        raise contents.Missing(module)

    monkeypatch.setattr(contents, "_needs", needs)
    found = json.loads(contents.histogram(numbers, bins).data)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value)


def test_a_histogram_leaves_out_what_is_not_finite(home: Path) -> None:
    given = [1.0, float("nan"), 2.0, float("inf")]
    media, content = one(home, lambda run: run.log_histogram("h", given))
    assert json.loads(content)["num"] == 2
    assert media.metadata == {"not_finite": 2}


def test_text(home: Path) -> None:
    media, content = one(home, lambda run: run.log_text("t", "**ü**\n" * 10_000, 2**70))
    assert content.decode() == "**ü**\n" * 10_000
    assert isinstance(media.content, BlobRef)
    assert (media.kind, media.media_type, media.step) == ("text", "text/plain", 2**70)


def test_audio_is_tensorboards(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = rng.uniform(-1.5, 1.5, (1, 1000))
    theirs = summary.audio("a", samples, 8000).value[0].audio
    capsys.readouterr()  # it prints that it clips
    media, content = one(home, lambda run: run.log_audio("a", samples, 0, sample_rate=8000))
    assert content == theirs.encoded_audio_string
    with wave.open(io.BytesIO(content)) as file:
        assert file.getframerate() == 8000
    assert media.metadata == {"sample_rate": 8000, "frames": 1000}
    assert capsys.readouterr().out == ""


def test_video(home: Path) -> None:
    frames = np.zeros((2, 5, 3, 4, 6), np.uint8)
    frames[0, :, 0] = 255
    frames[1, :, 2] = np.arange(5)[:, None, None] * 50
    media, content = one(home, lambda run: run.log_video("v", frames, 0, fps=10))
    picture = Image.open(io.BytesIO(content))
    assert (picture.n_frames, picture.size) == (5, (12, 4))  # type: ignore[attr-defined]
    assert np.asarray(picture.convert("RGB"))[0, 0].tolist() == [255, 0, 0]
    assert (media.media_type, media.metadata["frames"], media.metadata["fps"]) == ("image/gif", 5, 10)


@pytest.mark.parametrize("weights", [None, rng.random(500)])
def test_pr_curves_are_tensorboards(home: Path, weights: Any) -> None:
    labels, predictions = rng.integers(0, 2, 500), rng.random(500)
    theirs = summary.pr_curve("p", labels, predictions, 50, weights).value[0].tensor
    media, content = one(
        home,
        lambda run: run.log_pr_curve("p", labels, torch.from_numpy(predictions), num_thresholds=50, weights=weights),
    )
    said = json.loads(content)
    rows = [said[name] for name in ("tp", "fp", "tn", "fn", "precision", "recall")]
    assert np.allclose(np.array(theirs.float_val).reshape(6, 50), rows, rtol=1e-6)
    assert said["thresholds"] == pytest.approx([n / 49 for n in range(50)])
    assert media.kind == "pr_curve"


def test_meshes(home: Path) -> None:
    vertices, faces = rng.random((1, 4, 3)), torch.tensor([[[0, 1, 2], [1, 2, 3]]])
    media, content = one(home, lambda run: run.log_mesh("m", vertices, None, faces, 4, config={"camera": 1}))
    with np.load(io.BytesIO(content)) as arrays:
        assert set(arrays) == {"vertices", "faces"}
        assert np.allclose(arrays["vertices"], vertices)
        assert arrays["faces"].tolist() == faces.tolist()
    assert (media.media_type, media.step, media.metadata) == ("application/x-npz", 4, {"config": '{"camera": 1}'})


def test_embeddings_are_the_files_of_the_projector(home: Path, tmp_path: Path) -> None:
    matrix, images = torch.rand(5, 3), torch.rand(5, 1, 4, 4)
    table, head = [["a", 1], ["b", 2], ["c", 3], ["d", 4], ["e", 5]], ["letter", "number"]
    SummaryWriter(str(tmp_path)).add_embedding(matrix, table, images, 0, "e", head)
    media, content = one(home, lambda run: run.log_embedding("e", matrix, table, images, metadata_header=head))
    folder = tmp_path / "00000" / "e"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["metadata.tsv", "sprite.png", "tensors.tsv"]
        for name in ("metadata.tsv", "tensors.tsv"):
            assert archive.read(name) == (folder / name).read_bytes()
        assert np.array_equal(pixels(archive.read("sprite.png")), pixels((folder / "sprite.png").read_bytes()))
    assert media.metadata == {"points": 5, "dimensions": 3}


def test_a_graph(home: Path) -> None:
    media, content = one(home, lambda run: run.log_graph(torch.nn.Linear(3, 2), torch.rand(1, 3)))
    assert b"aten::linear" in content
    assert (media.name, media.kind, media.media_type) == ("graph", "graph", "text/x-protobuf")


WRONG: dict[str, Callable[[Experiment], None]] = {
    "image": lambda run: run.log_image("a", np.zeros((2, 2)), dataformats="CHW"),
    "formats": lambda run: run.log_image("a", np.zeros((2, 2)), dataformats="XY"),
    "no file": lambda run: run.log_image("a", "/nowhere.png"),
    "figure": lambda run: run.log_figure("a", "no figure"),
    "empty": lambda run: run.log_histogram("a", []),
    "audio": lambda run: run.log_audio("a", np.zeros((3, 4))),
    "video": lambda run: run.log_video("a", np.zeros((3, 4))),
    "embedding": lambda run: run.log_embedding("a", np.zeros((3, 4)), metadata=["one"]),
    "graph": lambda run: run.log_graph("no model"),
    "step": lambda run: run.log_text("a", "b", 10**200),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_said_once_and_never_raised(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    with runs.running(home) as run:
        WRONG[wrong](run)
        WRONG[wrong](run)
        run.log_text("fine", "x", 1)
    assert [media.name for media in logged(home)] == ["fine"]
    said = capfd.readouterr().err
    assert said.count("tracelet:") == 1
    assert "goes on without it" in said


def test_a_stopped_run_records_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with runs.running(home) as run:
        pass
    run.log_text("t", "x")
    assert logged(home) == []
    assert "is stopped" in capfd.readouterr().err


WITHOUT = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
import os, base64, tracelet
from pathlib import Path
from tests.support import runs
del os.environ["TRACELET_RAISE_INTERNAL"]
png = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
with runs.running(Path(os.environ["TRACELET_HOME"])) as run:
    assert set(run._frameworks) >= {{"pytorch"}}
    run.log_metric("a", 1.0, 0)
    run.log_text("text", "hello", 0)
    run.log_histogram("histogram", [1.0, 2.0, 2.0], 0)
    run.log_image("image", png, 0)
    run.log_image("array", [[0.0, 1.0]], 0, dataformats="HW")
    run.log_image("array", [[0.0, 1.0]], 1, dataformats="HW")
    run.log_graph(None)
assert not [name for name in {blocked!r} if name in sys.modules]
"""
ALWAYS = ["text", "histogram", "image"]


@pytest.mark.parametrize(
    ("blocked", "kinds"),
    [
        (("torch", "tensorboard", "tensorboardX"), [*ALWAYS, "array", "array"]),
        (("tensorboard", "tensorboardX"), [*ALWAYS, "array", "array"]),
        (("torch", "tensorboard", "tensorboardX", "numpy", "PIL"), ALWAYS),
    ],
    ids=["no torch", "no tensorboard", "nothing at all"],
)
def test_a_process_without_them_logs_through_experiment(home: Path, blocked: tuple[str, ...], kinds: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT.format(blocked=blocked))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [media.name for media in logged(home)] == kinds
    lines = done.stderr.splitlines()
    assert sum("graph graph is not recorded" in line and "pip install" in line for line in lines) == 1
    assert sum("image array is not recorded" in line for line in lines) == ("numpy" in blocked)
    assert len(lines) == 1 + ("numpy" in blocked)
