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
from tracelet.frameworks.versions import reaches

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


# What a library says of itself, and when; how many of its points are recorded, and what is said of it.
VERSIONS = {
    "older": (
        "__version__ = '2.5.9'",
        0,
        "tensorboardX 2.5.9 is older than 2.6.2, the oldest that tracelet is made for: ",
    ),
    "newer": (
        "__version__ = '3.0rc1'",
        1,
        "tensorboardX 3.0rc1 is newer than what this tracelet is made for (before 3): ",
    ),
    "older, and says so last": (
        "",
        0,
        "tensorboardX 2.1.0 is older than 2.6.2, the oldest that tracelet is made for: ",
    ),
}
WRITER = """
class FileWriter:
    def __init__(self, logdir): pass
    def add_event(self, event, step=None, walltime=None): pass
    def add_summary(self, summary, global_step=None, walltime=None): pass
class SummaryWriter:
    def __init__(self, logdir=None): self.logdir = logdir
    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None): pass
    def add_scalars(self, main_tag, tag_scalar_dict, global_step=None, walltime=None): pass
    def add_hparams(self, hparam_dict, metric_dict): pass
"""


@pytest.mark.parametrize("name", VERSIONS)
def test_the_range_of_versions(home: Path, tmp_path: Path, name: str) -> None:
    first, recorded, line = VERSIONS[name]
    package = tmp_path / "tensorboardX"
    package.mkdir()
    last = "" if first else "__version__ = '2.1.0'"
    (package / "__init__.py").write_text(f"{first}\nfrom .writer import SummaryWriter\n{last}\n")
    (package / "writer.py").write_text(WRITER)
    if last:
        (tmp_path / "tensorboardx-2.1.0.dist-info").mkdir()
    script = (
        "import sys; from pathlib import Path; from tests.support import runs; from tests.support.spool_points import points\n"
        "with runs.running(Path(sys.argv[1])):\n"
        "    import tensorboardX\n"
        "    tensorboardX.SummaryWriter('x').add_scalar('a', 1.0, 0)\n"
        "with runs.running(Path(sys.argv[1])): pass\n"
        "print(len(points(Path(sys.argv[1]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'server'}"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{recorded}\n"), done.stderr
    (said,) = [said for said in done.stderr.splitlines() if "tensorboardX " in said]
    assert said.startswith(f"tracelet: {line}")


@pytest.mark.parametrize(
    ("version", "bound", "reached"),
    [
        ("2.6.2.2", (2, 6, 2), True),
        ("2.6", (2, 6, 0), True),
        ("4", (4, 0), True),
        ("4.0.0", (4,), True),
        ("2.13.0+cpu", (2, 2), True),
        ("3.0rc1", (3,), True),
        ("2.10", (2, 9), True),
        ("2.9.9", (2, 10), False),
        ("unknown version", (1,), None),
        ("", (1,), None),
    ],
)
def test_versions_are_compared_number_by_number(version: str, bound: tuple[int, ...], reached: bool | None) -> None:
    assert reaches(version, bound) is reached


def test_the_setting_that_switches_capture_off_counts_for_both_writers(home: Path, tmp_path: Path) -> None:
    import tensorboardX
    from torch.utils.tensorboard import SummaryWriter

    with runs.running(home) as run:
        table.install_all(run, replace(Options(), pytorch=PyTorchOptions(patch_tensorboard=False)))
        for kind in (SummaryWriter, tensorboardX.SummaryWriter):
            kind(str(tmp_path)).add_scalar("a", 1.0, 0)
        assert [run._frameworks[name].captures for name in ("pytorch", "tensorboardX")] == [False, False]
    assert points(home) == []
