"""The sitecustomize that reaches a command's children: chained, cheap, and never in the way of an import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tracelet.launch
from tests.support.commands import run

INJECT = Path(tracelet.launch.__file__).parent / "inject"
TARGET = "torch.utils.tensorboard.writer"
# What has to be there of the real one to be intercepted.
WRITER = """
class SummaryWriter:
    def __init__(self, log_dir=None): self.log_dir = log_dir or "here"
    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None): pass
    def add_scalars(self, main_tag, tag_scalar_dict, global_step=None, walltime=None): pass
    def add_hparams(self, hparam_dict, metric_dict): pass
"""


@pytest.fixture
def variables(home: Path) -> dict[str, str]:
    """What the child of a command finds in its environment."""
    return {
        "PYTHONPATH": str(INJECT),
        "TRACELET_RUN_ID": "0" * 32,
        "TRACELET_RUN_OWNER": "1",
        "TRACELET_MODULES": TARGET,
        "TRACELET_PYTHON": "{}.{}".format(*sys.version_info[:2]),
        "TRACELET_HOME": str(home),
    }


def child(code: str, variables: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", code, cwd=folder, environment=variables)


def library(folder: Path, writer: str = WRITER) -> Path:
    """A torch of which only the intercepted module is there."""
    package = folder / "lib" / "torch" / "utils" / "tensorboard"
    package.mkdir(parents=True)
    for path in (package, package.parent, package.parent.parent):
        (path / "__init__.py").write_text("")
    (package / "writer.py").write_text(writer)
    return folder / "lib"


def behind(variables: dict[str, str], *folders: Path) -> dict[str, str]:
    return variables | {"PYTHONPATH": os.pathsep.join([variables["PYTHONPATH"], *map(str, folders)])}


def test_it_is_alone_in_its_folder_and_in_the_oldest_syntax() -> None:
    assert [path.name for path in INJECT.iterdir() if path.name != "__pycache__"] == ["sitecustomize.py"]
    source = (INJECT / "sitecustomize.py").read_text()
    tree = ast.parse(source, feature_version=(3, 4))
    # What Python 2.7 lacks and the parser lets pass.
    nodes = list(ast.walk(tree))
    assert not [
        node for node in nodes if isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.Nonlocal | ast.YieldFrom)
    ]
    for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
        arguments = function.args
        assert function.returns is None
        assert not arguments.kwonlyargs
        assert not [argument for argument in arguments.args if argument.annotation]
    assert not [node for node in nodes if isinstance(node, ast.Raise) and node.cause]
    source.encode("ascii")


def test_a_child_loads_nothing_for_it(tmp_path: Path, variables: dict[str, str]) -> None:
    code = "import sys; print(*sorted(sys.modules)); print(*sys.path); print(len(sys.meta_path))"
    plain = run(sys.executable, "-c", code, cwd=tmp_path).stdout.splitlines()
    ours = child(code, variables, tmp_path).stdout.splitlines()
    assert set(ours[0].split()) - set(plain[0].split()) == {"sitecustomize"}
    assert [entry for entry in ours[1].split() if entry != str(INJECT)] == plain[1].split()
    assert int(ours[2]) == int(plain[2]) + 1


@pytest.mark.parametrize("change", [{"TRACELET_PYTHON": "2.7"}, {"TRACELET_RUN_ID": ""}, {"TRACELET_MODULES": ""}])
def test_it_waits_for_nothing_elsewhere(tmp_path: Path, variables: dict[str, str], change: dict[str, str]) -> None:
    code = (
        "import sys; print([type(finder).__name__ for finder in sys.meta_path if hasattr(finder, 'tracelet_launch')])"
    )
    assert child(code, variables, tmp_path).stdout == "['_Finder']\n"
    done = child(code, variables | change, tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "import sys; print('mine', __name__, __file__); sys.path.insert(0, 'added'); sys.mine = sys.modules[__name__]",
        "import sys; sys.path = [*sys.path, 'added']",
        "raise ValueError('mine')",
        "import nowhere_at_all",
        "def broken(:",
    ],
)
def test_the_users_sitecustomize_runs_as_ever(tmp_path: Path, variables: dict[str, str], text: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "sitecustomize.py").write_text(text)
    code = (
        "import sys; print([entry for entry in sys.path if not entry.endswith('inject')]);"
        "print(getattr(sys, 'mine', None) is sys.modules.get('sitecustomize'))"
    )
    plain = run(sys.executable, "-c", code, cwd=tmp_path, environment={"PYTHONPATH": str(mine)})
    for change in ({}, {"TRACELET_PYTHON": "2.7"}):
        ours = child(code, behind(variables, mine) | change, tmp_path)
        assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, plain.returncode)


def test_tracelet_comes_with_the_library(tmp_path: Path, variables: dict[str, str]) -> None:
    lib = library(tmp_path)
    code = (
        "import inspect, sys\n"
        f"before = 'tracelet' in sys.modules\nimport {TARGET} as writer\n"
        "print(before, 'tracelet.interface' in sys.modules, hasattr(writer.SummaryWriter.add_scalar, '__wrapped__'))\n"
        "print(type(writer.__loader__).__name__, writer.__spec__.loader is writer.__loader__)\n"
        "print(inspect.getsource(writer).strip().startswith('class'))\n"
        "print([finder for finder in sys.meta_path if hasattr(finder, 'tracelet_launch')])\n"
        "import importlib; importlib.reload(writer)\n"
    )
    done = child(code, behind(variables, lib), tmp_path)
    assert done.stdout.splitlines() == ["False True True", "SourceFileLoader True", "True", "[]"]
    assert done.stderr == ""


def test_an_import_that_fails_fails_as_ever_and_may_succeed_later(tmp_path: Path, variables: dict[str, str]) -> None:
    lib = library(tmp_path, "import os\nif not os.path.exists('ready'): raise ImportError('not yet')\n" + WRITER)
    code = (
        "import importlib, pathlib, sys, traceback\n"
        "try:\n"
        f"    import {TARGET}\n"
        "except ImportError as error:\n"
        "    print(error, [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1], 'tracelet' in sys.modules)\n"
        "pathlib.Path('ready').touch()\n"
        f"import {TARGET} as writer\n"
        "print(hasattr(writer.SummaryWriter.add_scalar, '__wrapped__'))\n"
    )
    done = child(code, behind(variables, lib), tmp_path)
    assert done.stdout.splitlines() == ["not yet <module> False", "True"]


def test_a_fault_of_ours_leaves_the_import_alone(tmp_path: Path, variables: dict[str, str]) -> None:
    broken = tmp_path / "broken" / "tracelet"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken installation')")
    done = child(f"import {TARGET}; print('imported')", behind(variables, broken.parent, library(tmp_path)), tmp_path)
    assert done.stdout == "imported\n"
    assert done.stderr.count("\n") == 1
    assert "are not recorded: RuntimeError: broken installation" in done.stderr


def test_another_finder_that_asks_everybody_again(tmp_path: Path, variables: dict[str, str]) -> None:
    code = (
        "import sys, wrapt\n"
        f"wrapt.register_post_import_hook(lambda module: print('theirs', module.__name__), {TARGET!r})\n"
        f"import {TARGET} as writer\n"
        "print(hasattr(writer.SummaryWriter.add_scalar, '__wrapped__'))\n"
    )
    done = child(code, behind(variables, library(tmp_path)), tmp_path)
    assert (done.stdout.splitlines(), done.stderr) == ([f"theirs {TARGET}", "True"], "")


def test_grandchildren_are_reached_too(tmp_path: Path, variables: dict[str, str]) -> None:
    inner = f"import {TARGET} as w; print(hasattr(w.SummaryWriter.add_scalar, '__wrapped__'))"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    done = child(outer, behind(variables, library(tmp_path)), tmp_path)
    assert (done.stdout, done.stderr) == ("True\n", "")
