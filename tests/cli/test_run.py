"""`tracelet run`: what it checks before the script starts, and what it leaves in the environment."""

from __future__ import annotations

import json
import os
import sys
import venv
from pathlib import Path

import pytest

import tracelet as package
from tests.support.commands import BIN, TRACELET, run, tracelet

ROOT = Path(__file__).parents[2]
SHOW = """
import json, os, sys
names = [name for name in os.environ if name.startswith("TRACELET_") or name == "PYTHONPATH"]
print(json.dumps({name: os.environ[name] for name in names} | {"pid": str(os.getpid()), "prefix": sys.prefix}))
"""


@pytest.fixture(autouse=True)
def _home(home: Path, tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW)


def shown(folder: Path, *words: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    done = tracelet("run", *words, cwd=folder, environment=environment)
    assert (done.stderr, done.returncode) == ("", 0)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def environment_without_packages(folder: Path, *paths: Path | str) -> Path:
    """A virtual environment that sees nothing but these folders; its Python."""
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "paths.pth").write_text("".join(f"{path}\n" for path in paths))
    return folder / "env" / "bin" / "python"


def test_the_run_is_in_the_environment(tmp_path: Path) -> None:
    plain = shown(tmp_path, "show.py")
    assert plain["TRACELET_RUN_OWNER"] == plain["pid"]
    assert plain["TRACELET_RUN_NAME"].startswith("show-")
    assert plain["TRACELET_PYTHON"] == "{}.{}".format(*sys.version_info[:2])
    assert not plain.keys() & {"TRACELET_RUN_NAME_GIVEN", "TRACELET_PROJECT", "TRACELET_BACKEND", "TRACELET_WAIT"}
    told = shown(tmp_path, "--name", "first try", "--project=p", "--backend", "mlflow", "show.py", "--name", "x")
    assert told["TRACELET_RUN_ID"] != plain["TRACELET_RUN_ID"]
    assert (told["TRACELET_RUN_NAME"], told["TRACELET_RUN_NAME_GIVEN"]) == ("first try", "1")
    assert (told["TRACELET_PROJECT"], told["TRACELET_BACKEND"]) == ("p", "mlflow")


def test_settings_of_the_user_stay(tmp_path: Path) -> None:
    given = {
        "TRACELET_RUN_NAME": "mine",
        "TRACELET_PROJECT": "p",
        "TRACELET_HOME": "state",
        "PYTHONPATH": f"{os.pathsep}there",
        "TRACELET_RUN_ID": "of nobody",
    }
    told = shown(tmp_path, "show.py", environment=given)
    assert (told["TRACELET_RUN_NAME"], told["TRACELET_RUN_NAME_GIVEN"], told["TRACELET_PROJECT"]) == ("mine", "1", "p")
    assert told["TRACELET_HOME"] == str(tmp_path / "state")
    inject, *rest = told["PYTHONPATH"].split(os.pathsep)
    assert inject.endswith("inject")
    assert rest == ["", "there"]
    assert told["TRACELET_RUN_ID"] != "of nobody"


def test_a_setting_in_a_file_is_found_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"TRACELET_HOME={tmp_path / 'state'}\n")
    told = shown(tmp_path, "show.py", environment={"TRACELET_HOME": ""})
    assert told["TRACELET_HOME"] == str(tmp_path / "state")


def test_nested_it_is_one_run(tmp_path: Path) -> None:
    told = shown(tmp_path, "--project", "outer", TRACELET, "run", "--name", "inner", "show.py")
    assert told["TRACELET_RUN_OWNER"] == told["pid"]
    assert (told["TRACELET_RUN_NAME"], told["TRACELET_PROJECT"]) == ("inner", "outer")
    assert told["PYTHONPATH"].count("inject") == 1


def test_started_by_a_command_it_is_a_run_of_its_own(tmp_path: Path) -> None:
    code = f"{BIN}/python show.py; {TRACELET} run show.py; {TRACELET} run show.py"
    done = tracelet("run", "--name", "sweep", "sh", "-c", code, cwd=tmp_path)
    outer, first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert len({told["TRACELET_RUN_ID"] for told in (outer, first, second)}) == 3
    assert outer["TRACELET_RUN_NAME"] == "sweep"
    assert first["TRACELET_RUN_NAME"].startswith("show-")
    assert "TRACELET_RUN_NAME_GIVEN" not in first


def test_disabled_it_is_nothing(tmp_path: Path) -> None:
    disabled = {"TRACELET_DISABLED": "1"}
    told = shown(tmp_path, "show.py", environment=disabled)
    assert "TRACELET_RUN_ID" not in told
    assert "inject" not in told.get("PYTHONPATH", "")
    for words in (["python", "-m", "show"], ["python", "-c", SHOW], ["sh", "-c", "python show.py"]):
        assert "TRACELET_RUN_ID" not in shown(tmp_path, *words, environment=disabled)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.py"], "nowhere.py"),
        (["python", "-u", "nowhere.py"], "nowhere.py"),
        (["no-such-command-anywhere"], "no such script or command"),
        (["--backend", "trackio", "show.py"], "trackio"),
        (["--backend", "mlflow,", "--wiat", "show.py"], "no such option: --wiat"),
        ([], "nothing to run"),
        (["--name"], "needs a value"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(tmp_path: Path, words: list[str], says: str) -> None:
    done = tracelet("run", *words, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith("tracelet: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tracelet("run", "show.py", cwd=tmp_path, environment={"TRACELET_HOME": "file/home"})
    assert (done.stdout, done.returncode) == ("", 2)
    assert "Set TRACELET_HOME to a directory you can write to" in done.stderr


def test_a_setting_that_makes_no_sense(tmp_path: Path) -> None:
    done = tracelet("run", "show.py", cwd=tmp_path, environment={"TRACELET_DISABLED": "perhaps"})
    assert (done.stdout, done.returncode) == ("", 2)
    assert "TRACELET_DISABLED" in done.stderr


def test_a_python_without_tracelet(tmp_path: Path) -> None:
    python = environment_without_packages(tmp_path)
    done = tracelet("run", str(python), "show.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert f"{python} has no tracelet" in done.stderr


def test_a_python_without_the_backend(tmp_path: Path) -> None:
    python = environment_without_packages(tmp_path, ROOT)
    done = tracelet("run", str(python), "show.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert str(package.errors.BackendNotInstalledError("mlflow", "mlflow", str(python))) in done.stderr
    # The same, of the Python that tracelet itself runs in.
    start = "import sys; from tracelet.cli import main; sys.argv[1:] = ['run', 'show.py']; sys.exit(main())"
    own = run(python, "-c", start, cwd=tmp_path)
    assert (own.stdout, own.returncode) == ("", 2)
    assert "-m pip install 'tracelet[mlflow]'" in own.stderr


def test_another_python_runs_the_script_with_its_own_tracelet(tmp_path: Path) -> None:
    python = environment_without_packages(tmp_path, *(path for path in sys.path if path and Path(path).is_dir()))
    assert shown(tmp_path, str(python), "show.py")["prefix"] == str(tmp_path / "env")


def test_no_python_at_all(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 'broken interpreter' >&2; exit 1\n")
    python.chmod(0o755)
    done = tracelet("run", "./python3", "show.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert "broken interpreter" in done.stderr


@pytest.mark.parametrize("flag", ["-E", "-I", "-uE"])
def test_a_python_that_ignores_pythonpath_is_said(tmp_path: Path, flag: str) -> None:
    (tmp_path / "who.py").write_text(
        "import sys; print(sys.flags.ignore_environment, 'tracelet.interface' in sys.modules)"
    )
    done = tracelet("run", "python", flag, "who.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("1 True\n", 0)
    assert done.stderr.count("\n") == 1
    assert "ignores PYTHONPATH: the script is recorded, but not the Python processes" in done.stderr
    bare = tracelet("run", "python", flag, "-", cwd=tmp_path, given="print('input')")
    assert (bare.stdout, bare.returncode) == ("input\n", 0)
    assert "nothing that it runs" in bare.stderr


def test_version_and_help(tmp_path: Path) -> None:
    assert tracelet("--version", cwd=tmp_path).stdout == f"tracelet {package.__version__}\n"
    for words in (["--help"], ["run", "--help"], ["run", "--wait", "--help"], ["wait", "--help"]):
        done = tracelet(*words, cwd=tmp_path)
        assert done.returncode == 0
        assert "Usage: tracelet" in done.stdout
    assert tracelet("nosuch", cwd=tmp_path).returncode == 2


def test_starting_a_script_imports_little(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "os.execve = lambda *_: print(*{name.split('.')[0] for name in sys.modules}) or os._exit(0)\n"
        "from tracelet.cli import main; sys.argv[1:] = ['run', 'show.py']; main()\n"
    )
    done = run(sys.executable, "-uc", code, cwd=tmp_path)
    assert "tracelet" in done.stdout.split()
    assert not set(done.stdout.split()) & {"asyncio", "google", "grpc", "pydantic", "rich", "torch", "typer", "wrapt"}
