"""Which file system a home is on; one that is not this machine's own is exchanged, and said once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import PRELUDE
from tests.support.fuse import fuse
from tests.support.processes import stop_collector
from tracelet.core import home as homes
from tracelet.core.filesystem import file_system
from tracelet.core.home import usable_home

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
tmpfs /home/me/scratch tmpfs rw 0 0
o2ib:/fs /lustre lustre rw 0 0
bucket /mnt/my\\040bucket fuse.s3fs rw 0 0
overlay /pod fuse.fuse-overlayfs rw 0 0
share /twice ext4 rw 0 0
//server/share /twice cifs rw 0 0
host /home2 virtiofs rw 0 0
odd line
"""


@pytest.mark.parametrize(
    ("path", "kind", "own"),
    [
        ("/etc", "ext4", True),
        ("/", "ext4", True),
        ("/home", "nfs4", False),
        ("/home/me/.local/state/tracelet", "nfs4", False),
        ("/home/me/scratch/x", "tmpfs", True),
        ("/homestead", "ext4", True),
        ("/lustre/a/b", "lustre", False),
        ("/mnt/my bucket/x", "fuse.s3fs", False),
        ("/pod/state", "fuse.fuse-overlayfs", True),
        ("/twice/x", "cifs", False),
        ("/home2/x", "virtiofs", True),
    ],
)
def test_the_nearest_mount_says_it(tmp_path: Path, path: str, kind: str, own: bool) -> None:
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)
    found = file_system(Path(path), table)
    assert found is not None
    assert (found.kind, found.own) == (kind, own)


def test_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert file_system(tmp_path, tmp_path / "missing") is None
    (tmp_path / "empty").write_text("")
    assert file_system(tmp_path, tmp_path / "empty") is None


def test_a_link_counts_as_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    found = file_system(tmp_path / "link" / "self")
    assert found is not None
    assert (found.kind, found.own) == ("proc", True)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Path]:
    with fuse(tmp_path / "remote") as folder:
        yield folder


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /var/tmp."""
    place = tmp_path / "var-tmp"
    place.mkdir()
    monkeypatch.setattr(homes, "_LOCAL", place)
    return place / f"tracelet-{os.getuid()}"


def test_a_home_on_the_network_is_exchanged(remote: Path, near: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = usable_home(remote / "state")
    assert first.parent == near
    assert stat.S_IMODE(near.stat().st_mode) == stat.S_IMODE(first.stat().st_mode) == 0o700
    assert usable_home(remote / "state") == first
    assert usable_home(remote / "other") != first
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count(f"{remote / 'state'} is on a network file system (fuse at {remote})") == 1
    assert f"records are kept in {first}" in said.err


def test_below_tracelet_run_it_was_said(
    remote: Path, near: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACELET_RUN_ID", "r")
    assert usable_home(remote).parent == near
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("trap", ["remote too", "open to others"])
def test_a_place_that_will_not_do_is_passed_over(
    remote: Path, near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    if trap == "remote too":
        monkeypatch.setattr(homes, "_LOCAL", remote)
    else:
        near.mkdir()
        near.chmod(0o777)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert usable_home(remote).parent.parent == tmp_path / "tmp"


def test_a_script_whose_home_is_on_the_network(remote: Path, tmp_path: Path) -> None:
    """Nothing of it comes to the network; one line says where it is."""
    script = (
        PRELUDE + "from tracelet.core import home\n"
        "from pathlib import Path\n"
        f"home._LOCAL = Path({str(tmp_path)!r})\n"
        "run = tracelet.start_logging()\n"
        "run.log_metric('loss', 1.0, 0)\n"
        "tracelet.stop_logging()\n"
        "print(run.plan.home)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TRACELET_HOME": str(remote / "state")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    home = Path(done.stdout.strip())
    try:
        assert home.parent == tmp_path / f"tracelet-{os.getuid()}"
        assert (home / "log" / "tracelet.db").exists()
        assert done.stderr.count("\n") == 1
        assert f"records are kept in {home}" in done.stderr
    finally:
        stop_collector(home)
