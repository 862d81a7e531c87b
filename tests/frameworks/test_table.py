"""A framework that cannot be installed costs one line; the run and the other frameworks are as they would be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import runs
from tests.support.spool_points import points
from tracelet.core.options import Options, PyTorchOptions
from tracelet.frameworks import table

ROOT = Path(__file__).parents[2]


def test_a_framework_that_cannot_be_loaded_costs_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    broken = {"broken": ("tracelet.frameworks.nowhere", "Nothing"), "odd": ("tracelet.frameworks.base", "Framework")}
    known = table.FRAMEWORKS
    monkeypatch.setattr(table, "FRAMEWORKS", {**broken, **known})
    with runs.running(home) as run:
        assert list(run._frameworks) == list(known)
        run.log_metric("a", 1.0, 0)
    assert [point.name for point in points(home)] == ["a"]
    said = capfd.readouterr().err
    assert said.count("intercepting broken failed") == said.count("intercepting odd failed") == 1
    assert said.count("\n") == 2


def test_start_logging_works_where_a_library_is_broken(home: Path, tmp_path: Path) -> None:
    """Its import hook meets a module that is none."""
    (tmp_path / "tensorboardX").mkdir()
    (tmp_path / "tensorboardX/__init__.py").write_text("__version__ = '2.6.5'\n")
    (tmp_path / "tensorboardX/writer.py").write_text("FileWriter = None\n")
    script = (
        "import tracelet; from tracelet.core import targets; targets.resolve = lambda *a, **k: ()\n"
        "run = tracelet.start_logging(exp_name='odd')\n"
        "import tensorboardX.writer\n"
        "from tracelet.frameworks.table import FRAMEWORKS\n"
        "assert set(run._frameworks) == set(FRAMEWORKS)\n"
        "run._frameworks['tensorboardX'].log_metric('a', 1.0, 0)\n"
        "tracelet.stop_logging()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'server'}", "TRACELET_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert "intercepting tensorboardX failed" in done.stderr


def test_the_setting_that_switches_capture_off_counts_for_both_writers(home: Path, tmp_path: Path) -> None:
    import tensorboardX
    from torch.utils.tensorboard import SummaryWriter

    with runs.running(home) as run:
        table.install_all(run, replace(Options(), pytorch=PyTorchOptions(patch_tensorboard=False)))
        for kind in (SummaryWriter, tensorboardX.SummaryWriter):
            kind(str(tmp_path)).add_scalar("a", 1.0, 0)
        assert [run._frameworks[name].captures for name in ("pytorch", "tensorboardX")] == [False, False]
    assert points(home) == []
