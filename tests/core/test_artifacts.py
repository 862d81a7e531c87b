"""log_artifact: what was there at the call arrives, under a path that is fit, whatever becomes of the file."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import runs
from tests.support.processes import until
from tests.support.spool_points import records_of
from tracelet.core import artifacts as artifacts_module
from tracelet.core import snapshot as snapshot_module
from tracelet.core.artifactpaths import artifact_path
from tracelet.core.metrics import Artifact, BlobRef, Gap, RunEnd
from tracelet.proto import codec
from tracelet.spoolfile import SpoolDirectory

LARGE = os.urandom(1 << 20)


def kept(home: Path) -> list[tuple[str, bytes]]:
    """Path and content of the artifacts, in the order of their records."""
    blobs = {path.name: path for spool in SpoolDirectory.under(home) for path in spool.blobs.glob("*")}
    found = []
    for artifact in records_of(Artifact, home):
        content = artifact.content
        if isinstance(content, BlobRef):
            raw = blobs[content.sha256].read_bytes()
            assert (hashlib.sha256(raw).hexdigest(), len(raw)) == (content.sha256, content.size)
            content = raw
        found.append((artifact.path, content))
    return found


def test_files_of_all_sizes_as_they_were_at_the_call(home: Path, tmp_path: Path) -> None:
    sizes = [0, 1, 4096, 4097, 100_000, 1 << 20]
    with runs.running(home) as run:
        for size in sizes:
            path = tmp_path / f"{size}.bin"
            path.write_bytes(LARGE[:size])
            run.log_artifact(path)
            if size % 2:
                path.write_bytes(b"overwritten")
            else:
                path.unlink()
    assert kept(home) == [(f"{size}.bin", LARGE[:size]) for size in sizes]
    assert not list(home.rglob("*.draft"))


def test_files_of_proc_which_say_that_they_are_empty(home: Path) -> None:
    with runs.running(home) as run:
        run.log_artifact("/proc/self/status")
        run.log_artifact("/proc/kallsyms")
    found = dict(kept(home))
    assert found["status"].startswith(b"Name:")
    assert len(found["kallsyms"]) > 4096


def test_type_metadata_and_media_type(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    with runs.running(home) as run:
        run.log_artifact(str(path), "config/", type="dataset", metadata={"rows": 3, "of": tmp_path})
    (artifact,) = records_of(Artifact, home)
    assert (artifact.path, artifact.content, artifact.media_type) == ("config/a.json", b"{}", "application/json")
    assert artifact.metadata == {"rows": 3, "of": str(tmp_path), "type": "dataset"}
    assert abs(artifact.wall_time - time.time()) < 60


def tree(root: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/er/c.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_a_folder_with_all_that_is_in_it(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "model"
    tree(root)
    (root / "empty").mkdir()
    (root / "loop").symlink_to(root)
    (root / "deep/up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "dead").symlink_to("nowhere")
    (root / "link.txt").symlink_to("a.txt")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root)
        server.bind("socket")
        os.chdir(here)
        with runs.running(home) as run:
            run.log_artifact(root)
            run.log_artifact(root / "deep", ".")
            run.log_artifact(f"{root}/deep/", "other/place")
    whole = ["a.txt", "b.txt", "link.txt", "deep/er/c.txt"]
    deep = ["er/c.txt", "up/a.txt", "up/b.txt", "up/link.txt"]
    expected = [*_below("model", whole), *deep, *_below("other/place", deep)]
    assert [path for path, _ in kept(home)] == expected
    assert dict(kept(home))["model/deep/er/c.txt"] == b"deep/er/c.txt"
    assert dict(kept(home))["model/link.txt"] == b"a.txt"
    said = capfd.readouterr().err
    for word in ("fifo is not recorded: it is no file", "socket is not recorded: it is no file"):
        assert said.count(word) >= 1
    assert "dead is not recorded: it is a link to nothing" in said
    assert "loop is a folder that is recorded already" in said


def test_a_folder_around_the_home_is_logged_without_the_home(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "credentials").mkdir(parents=True)
    (home / "credentials/mlflow.json").write_text("secret")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "also").symlink_to(home)
    with runs.running(home) as run:
        run.log_artifact(tmp_path, ".")
        run.log_artifact(home)
    assert kept(home) == [("a.txt", b"a")]
    assert "is tracelet's home: it is left out" in capfd.readouterr().err


def test_a_path_may_be_bytes(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with runs.running(home) as run:
        run.log_artifact(os.fsencode(tmp_path / "a.txt"), "as/")  # type: ignore[arg-type]
    assert kept(home) == [("as/a.txt", b"a")]


def _below(prefix: str, names: list[str]) -> list[str]:
    return [f"{prefix}/{name}" for name in names]


NAMES = {
    "plain/a.txt": "plain/a.txt",
    "./a//b.txt": "a/b.txt",
    "dots/...": "dots/...",
    "ünïcode 🎉.txt": "ünïcode 🎉.txt",
    "a~b": "a~b",
}
MADE_FIT = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    "..",
    "line\nbreak.txt",
    "tab\t\x1b[31mred",
    "back\\slash.pt",
    "x" * 300,
    "ü" * 300 + ".ckpt",
    "a" * 5 + "." + "s" * 300,
    "/".join(["folder"] * 300) + "/f.txt",
    "\udcff.txt",
    "\u202egpj.exe",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_fit_stay(name: str) -> None:
    assert artifact_path(name) == NAMES[name]


def test_names_that_are_not_fit_are_made_fit_and_told_apart(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    with runs.running(home) as run:
        for number, name in enumerate(MADE_FIT):
            path.write_text(str(number))
            run.log_artifact(path, name)
    found = kept(home)
    assert [content for _, content in found] == [str(number).encode() for number in range(len(MADE_FIT))]
    assert len({name for name, _ in found}) == len(MADE_FIT)
    for name, _ in found:
        assert codec.is_artifact_path(name)
        assert max(len(part.encode()) for part in name.split("/")) <= 255
        assert "~" in name
    assert dict(zip(MADE_FIT, found, strict=True))["../../etc/passwd"][0].startswith("etc/passwd~")
    assert dict(zip(MADE_FIT, found, strict=True))["back\\slash.pt"][0].endswith(".pt")
    assert capfd.readouterr().err.count("is kept as") == len(MADE_FIT)


@given(st.text(max_size=400) | st.lists(st.sampled_from(["..", ".", "", "a", "\\", "é" * 150, "\0"])).map("/".join))
def test_any_name_is_made_fit(name: str) -> None:
    path = artifact_path(name)
    assert codec.is_artifact_path(path)
    assert artifact_path(path) == path or "~" in path


def test_the_same_path_again_is_another_record(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with runs.running(home) as run:
        for number in range(3):
            path.write_text(str(number))
            run.log_artifact(path)
    assert kept(home) == [("best.pt", b"0"), ("best.pt", b"1"), ("best.pt", b"2")]


WRONG = {
    "missing": ("nothing.txt", "No such file"),
    "no path": ("", "No such file"),
    "a socket": ("/dev/null", "it is no file"),
    "through a file": ("/etc/passwd/x", "Not a directory"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("policy", ["now", "live"])
def test_what_is_not_there_costs_one_line(
    home: Path, capfd: pytest.CaptureFixture[str], wrong: str, policy: artifacts_module.Policy
) -> None:
    path, why = WRONG[wrong]
    with runs.running(home) as run:
        run.log_artifact(path, policy=policy)
    assert kept(home) == []
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert why in said
    assert path in said


def test_nonsense_is_said_and_not_raised(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACELET_RAISE_INTERNAL")
    with runs.running(home) as run:
        run.log_artifact(tmp_path, policy="sometimes")  # type: ignore[arg-type]
        run.log_artifact(None)  # type: ignore[arg-type]
        run.log_artifact("nul\0byte")
    assert kept(home) == []
    assert capfd.readouterr().err.count("\n") == 1


# -- large files


@pytest.fixture
def large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts_module, "_LARGE", 100_000)


@pytest.mark.usefixtures("large_is_small")
def test_large_files_are_copied_by_a_thread_and_stopping_waits_for_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    finish = snapshot_module.Snapshot.finish

    def slow(self: snapshot_module.Snapshot) -> bytes | BlobRef:
        if self.size > 100_000:
            until(go.exists, 20)
        return finish(self)

    monkeypatch.setattr(snapshot_module.Snapshot, "finish", slow)
    path = tmp_path / "model.pt"
    with runs.running(home) as run:
        run._forked = False  # of this process's own
        for number in range(3):
            path.write_bytes(bytes([number]) + LARGE)
            run.log_artifact(path, f"{number}.pt")
            path.unlink()  # or replaced: what was there is open
        run.log_artifact(__file__, "small.py")
        assert [name for name, _ in kept(home)] == ["small.py"], "the calls did not wait"
        go.touch()
    assert sorted(kept(home))[:3] == [(f"{number}.pt", bytes([number]) + LARGE) for number in range(3)]
    assert len(records_of(RunEnd, home)) == 1


@pytest.mark.usefixtures("large_is_small")
def test_a_file_that_is_written_to_while_it_is_copied_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(snapshot_module.Snapshot, "_clone", lambda self: False)
    path = tmp_path / "model.pt"
    path.write_bytes(LARGE)
    finish = snapshot_module.Snapshot.finish

    def late(self: snapshot_module.Snapshot) -> bytes | BlobRef:
        path.write_bytes(LARGE[:1000])
        return finish(self)

    monkeypatch.setattr(snapshot_module.Snapshot, "finish", late)
    with runs.running(home) as run:
        run._forked = False
        run.log_artifact(path)
    assert [name for name, _ in kept(home)] == ["model.pt"]
    assert "was written to while it was copied" in capfd.readouterr().err


def test_a_clone_is_taken_where_the_file_system_can(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's part is played: this file system may not be able to."""
    import fcntl

    asked: list[int] = []

    def clone(into: int, request: int, source: int) -> int:
        asked.append(request)
        os.write(into, os.pread(source, 1 << 30, 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(artifacts_module, "_LARGE", 100_000)
    path = tmp_path / "model.pt"
    path.write_bytes(LARGE)
    with runs.running(home) as run:
        run._forked = False
        run.log_artifact(path)
        path.write_bytes(b"written to at once")
    assert kept(home) == [("model.pt", LARGE)]
    assert asked == [0x40049409]


@pytest.mark.faults
def test_a_full_disk_is_said_and_counted(small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (small_disk / "home").mkdir()
    path = tmp_path / "model.pt"
    with runs.running(small_disk / "home") as run:
        for number in range(6):
            path.write_bytes(bytes([number]) + LARGE)
            run.log_artifact(path)
        spool = run._slot["recorder"].spool
        dropped = spool.dropped
    home = small_disk / "home"
    assert dropped > 0
    assert len(kept(home)) == 6 - dropped
    assert sum(gap.dropped for gap in records_of(Gap, home)) == dropped
    assert capfd.readouterr().err.count("no room; it is counted as dropped") == 1


def test_a_disk_is_not_filled_to_the_brim(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own checkpoints need room too."""
    path = tmp_path / "model.pt"
    path.write_bytes(LARGE)
    with runs.running(home) as run:
        blobs = run._slot["recorder"].spool.blobs
        with blobs.draft():
            blobs.need(1)
            disk = os.statvfs(home)
            with pytest.raises(OSError) as refused:
                blobs.need(disk.f_bavail * disk.f_frsize)
    assert refused.value.errno == errno.ENOSPC


# -- live


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts_module, "_LOOK_EVERY", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_live_file_is_kept_again_when_it_has_changed(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("1\n")
    with runs.running(home) as run:
        run.log_artifact(path, policy="live")
        with path.open("a") as file:
            file.write("2\n")
        until(lambda: len(kept(home)) == 2)
        path.unlink()
        (tmp_path / "next.log").write_text("3\n")
        (tmp_path / "next.log").rename(path)  # whole, whenever somebody looks
        until(lambda: len(kept(home)) == 3)
        path.unlink()
    assert kept(home) == [("train.log", b"1\n"), ("train.log", b"1\n2\n"), ("train.log", b"3\n")]


@pytest.mark.parametrize("folder", [False, True])
def test_a_live_file_is_looked_at_when_the_run_stops(home: Path, tmp_path: Path, folder: bool) -> None:
    root = tmp_path / "logs"
    root.mkdir()
    (root / "a.log").write_text("1")
    with runs.running(home) as run:
        run.log_artifact(root if folder else root / "a.log", policy="live")
        run.log_artifact(root / "a.log", "still.log")
        (root / "a.log").write_text("the end")
        (root / "new.log").write_text("new")
    expected = [("a.log", b"1"), ("still.log", b"1"), ("a.log", b"the end"), ("new.log", b"new")]
    prefix = "logs/" if folder else ""
    assert kept(home) == [
        (name if name == "still.log" else prefix + name, content)
        for name, content in expected
        if folder or name != "new.log"
    ]


# -- other processes


def test_a_forked_child_keeps_files_too(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts_module, "_LARGE", 100_000)
    path = tmp_path / "child.bin"
    path.write_bytes(LARGE)
    with runs.running(home) as run:
        run._forked = False
        run.log_artifact(path, "parent.bin")
        child = os.fork()
        if not child:
            run.log_artifact(path)
            path.unlink()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert sorted(kept(home)) == [("child.bin", LARGE), ("parent.bin", LARGE)]
