"""What was typed, understood."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from tracelet.errors import ConfigurationError
from tracelet.launch.arguments import OPTIONS, Asked, read
from tracelet.launch.command import Command, Kind, understand

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "train.py").write_text("")


def program(name: str, text: str) -> str:
    path = Path(name)
    path.write_text(text)
    path.chmod(0o755)
    return f"./{name}"


@pytest.mark.parametrize(
    ("typed", "kind", "flags", "target", "arguments"),
    [
        ("train.py --name x -- -m", Kind.SCRIPT, "", "train.py", "--name x -- -m"),
        ("-m pkg.train -m", Kind.MODULE, "", "pkg.train", "-m"),
        ("-c pass -c", Kind.CODE, "", "pass", "-c"),
        ("python train.py", Kind.SCRIPT, "", "train.py", ""),
        ("python -u -W ignore -Xdev train.py -u", Kind.SCRIPT, "-u -Wignore -Xdev", "train.py", "-u"),
        ("python -uBm pkg -B", Kind.MODULE, "-uB", "pkg", "-B"),
        ("python -mpkg", Kind.MODULE, "", "pkg", ""),
        ("python -Ocpass", Kind.CODE, "-O", "pass", ""),
        (
            "python --check-hash-based-pycs always train.py",
            Kind.SCRIPT,
            "--check-hash-based-pycs always",
            "train.py",
            "",
        ),
        ("python -- train.py", Kind.SCRIPT, "", "train.py", ""),
        ("python", Kind.BARE, "", "", ""),
        ("python -u", Kind.BARE, "", "", "-u"),
        ("python - x", Kind.BARE, "", "", "- x"),
        ("python -m", Kind.BARE, "", "", "-m"),
        ("python --version", Kind.BARE, "", "", "--version"),
        ("python -xu train.py", Kind.BARE, "", "", "-xu train.py"),
        ("sh -c true", Kind.PROGRAM, "", "", "-c true"),
    ],
)
def test_forms(typed: str, kind: Kind, flags: str, target: str, arguments: str) -> None:
    command = understand(typed.split())
    assert (command.kind, command.target) == (kind, target)
    assert (" ".join(command.flags), " ".join(command.arguments)) == (flags, arguments)
    assert os.path.isabs(command.program)


def test_the_python_is_the_one_that_was_typed() -> None:
    assert understand(["train.py"]).program == sys.executable
    assert understand(["python", "train.py"]).program == str(BIN / "python")
    other = program("python3.11", "#!/bin/sh\n")
    assert understand([other, "train.py"]) == Command(Kind.SCRIPT, other, other, target="train.py")


@pytest.mark.parametrize(
    ("flags", "ignores"), [("-E", True), ("-uI", True), ("-Wdefault::ImportWarning", False), ("-s", False)]
)
def test_a_python_that_ignores_the_environment(flags: str, ignores: bool) -> None:
    assert understand(["python", flags, "train.py"]).ignores_environment is ignores


@pytest.mark.parametrize(
    "first_lines",
    [
        f"#!{BIN}/python\n",
        f"#!{BIN}/python -u\n",
        "#!/usr/bin/env python\n",
        "#!/usr/bin/env -S python -u\n",
        f"#!/bin/sh\n'''exec' \"{BIN}/python\" \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_a_program_written_in_python(first_lines: str) -> None:
    name = program("torchrun", first_lines)
    command = understand([name, "--nproc", "2", "train.py"])
    assert command == Command(
        Kind.SCRIPT,
        str(BIN / "python"),
        "python" if "/env " in first_lines else str(BIN / "python"),
        ("-u",) if "-u" in first_lines else (),
        name,
        ("--nproc", "2", "train.py"),
        frozenset("u") if "-u" in first_lines else frozenset(),
    )
    assert command.title == "torchrun"


@pytest.mark.parametrize(
    "first_lines", ["#!/bin/sh\n", "#!/usr/bin/env bash\n", "", "#!", "\x7fELF", "#!/bin/sh\n'''exec' \"\n"]
)
def test_a_program_that_is_not(first_lines: str) -> None:
    assert understand([program("train", first_lines)]).kind is Kind.PROGRAM


def test_folder_and_archive_with_a_main() -> None:
    Path("app").mkdir()
    with zipfile.ZipFile("app.pyz", "w") as archive:
        archive.writestr("__main__.py", "")
    for words in (["./app"], ["python", "app"], ["app.pyz"], ["./app.pyz", "x"]):
        assert understand(words).kind is Kind.ARCHIVE


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "nothing to run"),
        ("--nmae x train.py", "no such option: --nmae"),
        ("nowhere.py", "nowhere.py"),
        ("python -u nowhere.py", "nowhere.py"),
        ("no-such-command-anywhere", "no such script or command"),
        ("./notes", "type:  python ./notes"),
    ],
)
def test_what_cannot_be_started(typed: str, says: str) -> None:
    Path("notes").write_text("")
    with pytest.raises(ConfigurationError, match=says):
        understand(typed.split())


def test_options_end_where_the_command_begins() -> None:
    assert read(["train.py", "--name", "x", "--wait"]) == (["train.py", "--name", "x", "--wait"], Asked())
    assert read(["--project=p", "--name", "n", "--wait", "-m", "pkg", "--project", "q"]) == (
        ["-m", "pkg", "--project", "q"],
        Asked(project="p", name="n", wait=True),
    )
    assert read(["--backend", "mlflow", "--", "--odd"]) == (["--odd"], Asked(backend="mlflow"))
    assert read(["--name", "--wait", "x"]) == (["x"], Asked(name="--wait"))
    assert read(["--name=", "x"]) == (["x"], Asked(name=""))
    assert read(["--wait", "--help"]) is None
    assert read(["train.py", "--help"]) is not None


@pytest.mark.parametrize("words", [["--name"], ["--wait=yes", "x"]])
def test_options_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        read(words)


def test_help_shows_the_options_that_are_read() -> None:
    from typer.main import get_command

    from tracelet.commands.app import app

    shown = {
        option: not parameter.is_flag
        for parameter in get_command(app).commands["run"].params  # type: ignore[attr-defined]
        for option in parameter.opts
        if option.startswith("--")
    }
    assert shown == OPTIONS
