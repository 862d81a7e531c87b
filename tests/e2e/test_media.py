"""Everything but scalars of an untouched TensorBoard script, in MLflow: each kind once, as its exporter's page says."""

from __future__ import annotations

import io
import json
import re
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import tracelet
from tests.support.mlflow_store import MlflowStore
from tests.support.spine import Spine

SCRIPT = """
import matplotlib; matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

luck = np.random.default_rng(1)
writer = SummaryWriter("tb/run")
for step in range(3):
    writer.add_scalar("loss", 1 / (step + 1), step)
    writer.add_image("pictures/one", luck.random((3, 400, 500)).astype("float32"), step)   # a blob
    writer.add_image("pictures/tiny", luck.random((3, 8, 8)).astype("float32"), step)      # in its record
    writer.add_histogram("weights", luck.normal(2.0, 3.0, 10_000), step)
    writer.add_text("notes", f"epoch **{step}**", step)
figure, axes = plt.subplots()
axes.plot([1, 2, 3])
writer.add_figure("curve", figure, 1)
writer.add_audio("beep", torch.sin(torch.arange(16000) / 10).reshape(1, -1), 1, sample_rate=8000)
writer.add_video("moving", torch.rand(1, 4, 3, 16, 16), 1, fps=2)
writer.add_pr_curve("val", luck.integers(0, 2, 500), luck.random(500), 1)
writer.add_mesh("points", torch.rand(1, 50, 3), global_step=1)
writer.add_embedding(torch.rand(10, 4), metadata=list("abcdefghij"), global_step=1, tag="digits")
writer.add_graph(torch.nn.Linear(3, 2), torch.rand(1, 3))
writer.add_custom_scalars({"both": {"loss": ["Multiline", ["loss"]]}})
writer.close()
"""


@pytest.fixture
def spine(shared_spine: Spine) -> Spine:
    """What is told here is told of runs, wherever they are."""
    return shared_spine


@pytest.fixture
def files(spine: Spine) -> dict[str, bytes]:
    (spine.folder / "train.py").write_text(SCRIPT)
    done = tracelet("run", "--project", "media", "train.py", cwd=spine.folder, environment=spine.environment)
    assert done.returncode == 0, done.stderr
    (run,) = spine.settle().runs
    (backend,) = run.backends
    assert (backend.dead, backend.delivered) == (0, run.durable)
    root = MlflowStore(spine.database).artifacts()
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.timeout(480)
def test_every_kind_is_there_once(spine: Spine, files: dict[str, bytes]) -> None:
    store = MlflowStore(spine.database)
    expected = {
        *(f"histograms/weights/step_{step}.json" for step in range(3)),
        *(f"texts/notes/step_{step}.md" for step in range(3)),
        "audio/beep/step_1.wav",
        "videos/moving/step_1.gif",
        "pr_curves/val/step_1.json",
        "meshes/points/step_1.npz",
        "embeddings/digits/step_1.zip",
    }
    images = {path for path in files if path.startswith("images/")}
    others = {path for path in files if path.startswith(("graphs/", "layouts/"))}
    assert files.keys() - images - others - {path for path in files if path.startswith("metadata/")} == expected
    assert sorted(path.partition("/")[0] for path in others) == ["graphs", "layouts"]
    named = [
        re.match(r"images/(.+)\+step\+(\d)\+timestamp\+\d+\+[0-9a-f-]{36}(\+compressed)?\.", path) for path in images
    ]
    assert sorted((m[1], int(m[2]), bool(m[3])) for m in named if m) == sorted(
        [("curve", 1, small) for small in (False, True)]
        + [(f"pictures~{key}", step, small) for key in ("one", "tiny") for step in range(3) for small in (False, True)]
    )
    # Content that its readers read.
    for path in images:
        assert Image.open(io.BytesIO(files[path])).size[0] > 0
    assert "epoch **2**" in files["texts/notes/step_2.md"].decode()
    said = json.loads(files["histograms/weights/step_0.json"])
    assert said["num"] == sum(said["bucket"]) == 10_000
    assert np.load(io.BytesIO(files["meshes/points/step_1.npz"]))["vertices"].shape == (1, 50, 3)
    with wave.open(io.BytesIO(files["audio/beep/step_1.wav"])) as audio:
        assert (audio.getframerate(), audio.getnframes()) == (8000, 16000)
    assert "tensors.tsv" in zipfile.ZipFile(io.BytesIO(files["embeddings/digits/step_1.zip"])).namelist()
    assert json.loads(files["pr_curves/val/step_1.json"]).keys() >= {"precision", "recall", "thresholds"}
    means = [point.value for point in store.points("weights/mean")]
    assert len(means) == 3
    assert all(abs(mean - 2.0) < 0.2 for mean in means)
    assert store.tags()["mlflow.loggedImages"] == "True"
    assert store.run()["status"] == "FINISHED"
    assert not list((spine.home / "log" / "blobs" / "partial").iterdir())
    assert Path(spine.home / "log" / "blobs").is_dir()
