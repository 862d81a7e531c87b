"""An untouched TensorBoard script, re-emitted: a second folder of event files that says what the first one says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.commands import tracelet
from tests.support.spine import Spine
from tests.support.tensorboard_folder import TensorBoardFolder

SCRIPT = """
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

luck = np.random.default_rng(1)
writers = [SummaryWriter("runs/train"), SummaryWriter("runs/validation")]
for writer in writers:
    for step in [*range(30), 3, 2, 2]:
        writer.add_scalar("loss", luck.random(), step)
        writer.add_scalar("acc/top1", luck.random(), step, walltime=1e9 + step)
    writer.add_image("pictures/one", luck.random((3, 40, 50)).astype("float32"), 1)
    writer.add_histogram("weights", luck.normal(2.0, 3.0, 10_000), 1)
    writer.add_text("notes", "epoch **1** ü", 1)
    writer.add_audio("beep", torch.sin(torch.arange(16000) / 10).reshape(1, -1), 1, sample_rate=8000)
    writer.add_video("moving", torch.rand(1, 4, 3, 16, 16), 1, fps=2)
    writer.add_pr_curve("val", luck.integers(0, 2, 500), luck.random(500), 1)
    writer.add_mesh("points", torch.rand(1, 50, 3), global_step=1, config_dict={"a": 1})
    writer.add_embedding(torch.rand(10, 4), metadata=list("abcdefghij"), label_img=torch.rand(10, 3, 8, 8),
                         global_step=1, tag="digits")
    writer.add_graph(torch.nn.Linear(3, 2), torch.rand(1, 3))
    writer.add_custom_scalars({"both": {"loss": ["Multiline", ["loss"]]}})
    writer.close()
"""


def summaries(folder: Path) -> Counter[bytes]:
    """All that a folder's events say, but for the times that its user did not give."""
    found: Counter[bytes] = Counter()
    for event in TensorBoardFolder(folder).events():
        if event.graph_def:
            found[b"graph"] += 1
        for value in event.summary.value:
            # SummaryWriter makes a GIF where moviepy is installed, else a value with nothing in it.
            if value.tag == "moving":
                found[b"a video"] += 1
                assert value.image.encoded_image_string.startswith(b"GIF") or not value.HasField("image")
            elif not value.tag.startswith("_hparams_/"):
                value.ClearField("node_name")
                found[str(event.step).encode() + b" " + value.SerializeToString(deterministic=True)] += 1
    return found


def reader(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), dict.fromkeys(("scalars", "histograms", "images", "audio"), 0))
    accumulator.Reload()
    return accumulator


def video_of(folder: Path) -> bytes:
    (image,) = reader(folder).Images("moving")
    raw: bytes = image.encoded_image_string
    return raw


@pytest.mark.timeout(480)
def test_it_says_what_the_script_said(shared_spine: Spine) -> None:
    spine = shared_spine
    (spine.folder / "train.py").write_text(SCRIPT)
    backend = ["--backend", "tensorboard"]
    environment = {"TRACELET_HOME": str(spine.home)}
    done = tracelet("run", "--project", "again", *backend, "train.py", cwd=spine.folder, environment=environment)
    assert done.returncode == 0, done.stderr
    (run,) = spine.settle().runs
    (backend_state,) = run.backends
    assert (backend_state.kind, backend_state.dead, backend_state.rerouted) == ("tensorboard", 0, 0)
    assert backend_state.delivered == run.durable == 2 * (33 * 2 + 10)
    folder = TensorBoardFolder(spine.folder / "tracelet-tensorboard")
    (root,) = folder.runs()
    assert [path.name for path in folder.event_folders()] == ["train", "validation"]
    assert [card["status"] for card in folder.cards()] == ["finished"]
    for label in ("train", "validation"):
        assert summaries(root / label) == summaries(spine.folder / "runs" / label)  # to the last byte
        first, second = reader(spine.folder / "runs" / label), reader(root / label)
        for tag in ("loss", "acc/top1"):
            said, again = first.Scalars(tag), second.Scalars(tag)
            assert [(event.step, event.value) for event in said] == [(event.step, event.value) for event in again]
            # The call's own time, which the event file has from a moment later.
            assert [event.wall_time for event in again] == pytest.approx([event.wall_time for event in said], abs=1)
        assert video_of(root / label).startswith(b"GIF8")
        config = (root / label / "projector_config.pbtxt").read_text()
        assert "single_image_dim: 8" in config
        (tensors,) = (root / label).rglob("tensors.tsv")
        (before,) = (spine.folder / "runs" / label).rglob("tensors.tsv")
        assert tensors.read_bytes() == before.read_bytes()
