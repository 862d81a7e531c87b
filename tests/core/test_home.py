"""Where things are kept: the folder that was asked for, or an error; by default one that works."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tracelet.core.home import default_home, usable_home
from tracelet.errors import HomeError, TraceletError


@pytest.fixture
def broken_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default home cannot be made; the folder for temporary files is the test's own."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"tracelet-{os.getuid()}"


def test_it_is_made_for_its_user_alone(tmp_path: Path) -> None:
    home = usable_home(tmp_path / "a" / "b")
    assert home == tmp_path / "a" / "b"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert list(home.iterdir()) == []
    assert usable_home(str(home)) == home


def test_relative_and_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert usable_home("here") == tmp_path / "here"
    assert usable_home("~/there") == tmp_path / "me" / "there"


def test_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert usable_home(None) == default_home() == tmp_path / "tracelet"


def test_one_that_was_asked_for_and_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for asked in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(HomeError, match="Set TRACELET_HOME") as error:
            usable_home(asked)
        assert isinstance(error.value, OSError | TraceletError)
        assert error.value.home == asked


def test_one_of_another_user(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(HomeError, match="belongs to another user"):
        usable_home(tmp_path)


def test_one_that_is_read_only(tmp_path: Path) -> None:
    """As a user to whom that means something: root may write everywhere."""
    tmp_path.chmod(0o555)
    code = "import os, sys; from tracelet.core.home import usable_home; {}usable_home(sys.argv[1])"
    change = ""
    if os.getuid() == 0:
        change = "os.setuid(65534); "
        os.chown(tmp_path, 65534, 65534)
        for folder in tmp_path.parents:
            if folder.stat().st_mode & 0o001 == 0:
                folder.chmod(folder.stat().st_mode | 0o011)
    command = [sys.executable, "-c", code.format(change), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert f"HomeError: cannot use {tmp_path} to keep records: Permission denied" in done.stderr


def test_instead_of_a_default_that_does_not_work(broken_default: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A private folder for temporary files, in which the collector's socket may lie too; told once."""
    before = os.umask(0)
    try:
        assert usable_home(None) == usable_home(None) == broken_default / "home"
    finally:
        os.umask(before)
    assert stat.S_IMODE(broken_default.stat().st_mode) == 0o700
    assert stat.S_IMODE((broken_default / "home").stat().st_mode) == 0o700
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "may not survive a reboot" in said.err


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file", "another user's"])
def test_a_folder_that_somebody_put_there_is_not_used(broken_default: Path, tmp_path: Path, trap: str) -> None:
    if trap == "a file":
        broken_default.write_text("")
    elif trap == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        broken_default.symlink_to(tmp_path / "theirs")
    else:
        broken_default.mkdir(mode=0o700)
        if trap == "open to others":
            broken_default.chmod(0o777)
        elif os.getuid() == 0:
            os.chown(broken_default, 65534, 65534)
        else:
            pytest.skip("only root can give a folder away")
    with pytest.raises(HomeError, match="neither can"):
        usable_home(None)
