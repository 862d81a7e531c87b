"""Which folder event files go to: absolute, of this machine, and never one that a SummaryWriter chooses by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracelet.core import target_tensorboard, targets
from tracelet.errors import ConfigurationError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (None, "{here}/tracelet-tensorboard"),
        ("", "{here}/tracelet-tensorboard"),
        ("a b/c#d", "{here}/a b/c#d"),
        ("../up", "{above}/up"),
        ("/abs/x", "/abs/x"),
        ("~/x", str(Path.home() / "x")),
        ("file:///abs/a%20b", "/abs/a b"),
        ("file://localhost/abs", "/abs"),
        ("Größe µ 100%", "{here}/Größe µ 100%"),
    ],
)
@pytest.mark.parametrize("by", ["argument", "variable", ".env"])
def test_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, path: str, by: str) -> None:
    if by != "argument" and asked is not None:
        if by == ".env":
            (folder / ".env").write_text(f'TRACELET_TENSORBOARD_DIR="{asked}"\n')
        else:
            monkeypatch.setenv("TRACELET_TENSORBOARD_DIR", asked)
        asked = None
    expected = Path(path.format(here=folder, above=folder.parent))
    assert target_tensorboard.resolve(asked) == (expected.as_uri(), {})
    assert target_tensorboard.check(asked) == expected.as_uri()
    # What was resolved once is the same when it is resolved again.
    assert target_tensorboard.check(expected.as_uri()) == expected.as_uri()


def test_an_argument_goes_before_the_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_TENSORBOARD_DIR", "/variable")
    assert target_tensorboard.check("/argument") == "file:///argument"


@pytest.mark.parametrize("asked", ["http://host/x", "s3://bucket/x", "file://host/x", "a\0b", " "])
def test_what_is_no_folder_of_this_machine(asked: str) -> None:
    with pytest.raises(ConfigurationError, match="TRACELET_TENSORBOARD_DIR"):
        target_tensorboard.check(asked)


def test_a_file_is_no_folder(folder: Path) -> None:
    (folder / "taken").touch()
    with pytest.raises(ConfigurationError, match="is no folder"):
        target_tensorboard.check("taken")


def test_a_run_goes_there(folder: Path, home: Path) -> None:
    (backend,) = targets.resolve(["tensorboard"], home)
    assert (backend.kind, backend.target) == ("tensorboard", (folder / "tracelet-tensorboard").as_uri())
    assert targets.shown("tensorboard") == backend.target
    assert not (folder / "tracelet-tensorboard").exists()


def test_a_key_that_it_does_not_need_is_left_alone(home: Path) -> None:
    (backend,) = targets.resolve(["tensorboard"], home, api_key="secret")
    for path in home.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()
    assert backend.target
