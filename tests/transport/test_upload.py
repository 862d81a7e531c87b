"""Content that is too large for a record comes to the collector before the record, once, whatever breaks in between."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tracelet_collector.blobs import blob_path
from tracelet_collector.home import blobs_path

from tests.support.clients import Client, client
from tests.support.processes import collector_pid, until, wait_gone
from tests.support.spool_writers import writer
from tests.support.stage import Scene, Stage
from tracelet.core.experiment import Experiment, RunPlan
from tracelet.core.metrics import Artifact, BlobRef, Media, RunStatus
from tracelet.core.recorder import Recorder
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.transport import blobs as blobs_module
from tracelet.transport.blobs import Blobs

LARGE = 5 * codec.UPLOAD_CHUNK + 77


@contextmanager
def running(home: Path) -> Iterator[Experiment]:
    """A run with a sender. Its sender is gone afterwards."""
    run = Experiment(RunPlan(uuid.uuid4().hex, "run", "default", (), home, flush_interval=0.01))
    run.begin()
    try:
        yield run
    finally:
        run.stop(RunStatus.FINISHED, "", 0.0)
        thread = getattr(run._sender, "_thread", None)
        until(lambda: thread is None or not thread.is_alive(), 30, "the sender ends")


def recorder(run: Experiment) -> Recorder:
    return run._slot["recorder"]


def log(run: Experiment, content: bytes, step: int = 0) -> None:
    recorder(run).media("", "picture", "image", content, "image/png", step, 1.0, {})


def arrived(stage: Stage) -> list[bytes]:
    found = []
    for record in stage.records:
        if isinstance(record, Media):
            content = record.content
            found.append(stage.blobs[content.sha256] if isinstance(content, BlobRef) else content)
    return found


def blob_files(run: Experiment) -> list[Path]:
    folder = recorder(run).spool.directory.blobs
    return sorted(folder.iterdir()) if folder.exists() else []


def test_content_of_all_sizes(home: Path) -> None:
    contents = [os.urandom(size) for size in (0, 1, 4096, 4097, 16384, 16385, 100_000, codec.UPLOAD_CHUNK, LARGE)]
    with Stage(home) as stage, running(home) as run:
        for step, content in enumerate(contents):
            log(run, content, step)
            run.log_metric("a", step, step)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert arrived(stage) == contents
        assert stage.steps == list(range(len(contents)))
        assert stage.lost == 0


BROKEN = {
    "in the middle": [Scene(uploads=(3 * codec.UPLOAD_CHUNK, codec.UPLOAD_CHUNK + 5))],
    "at the start": [Scene(uploads=(0, 0))],
    "refused": [Scene(uploads=(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED))],
    "a collector that knows none": [Scene(uploads=(grpc.StatusCode.UNIMPLEMENTED,))],
    "the stream breaks after it": [Scene(batches=1)] * 2,
}


@pytest.mark.parametrize("trouble", BROKEN)
def test_a_broken_upload_is_resumed(home: Path, capfd: pytest.CaptureFixture[str], trouble: str) -> None:
    content = os.urandom(LARGE)
    with Stage(home, *BROKEN[trouble], Scene()) as stage, running(home) as run:
        run.log_metric("a", 0.0, 0)
        log(run, content)
        run.log_metric("a", 1.0, 1)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert arrived(stage) == [content]
        assert stage.steps == [0, 1]
        assert sum(size for _, size in stage.chunks) == LARGE, "no byte is sent twice"
    assert capfd.readouterr() == ("", "")


def test_a_collector_that_misses_a_blob_gets_it_again(home: Path) -> None:
    content = os.urandom(LARGE)
    with Stage(home, Scene(uploads=(LARGE - 1,)), Scene()) as stage, running(home) as run:
        log(run, content)
        until(lambda: stage.chunks)
        run.log_metric("a", 1.0, 1)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert arrived(stage) == [content]


def test_a_goodbye_for_a_missing_blob_is_answered_by_an_upload(home: Path) -> None:
    """The collector had said that it has it, and then has it no more."""
    content = os.urandom(LARGE)

    class Forgetful(Stage):
        forgets = 2

        def Upload(self, frames: Iterator[wire.UploadFrame], context: object) -> Iterator[wire.UploadReply]:
            for reply in super().Upload(frames, context):
                if reply.done and self.forgets:
                    self.forgets -= 1
                    self.blobs.clear()
                yield reply

    with Forgetful(home) as stage, running(home) as run:
        log(run, content)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert arrived(stage) == [content]
        assert len(stage.hellos) == 3


def test_equal_content_is_uploaded_once_and_its_file_goes_with_the_last_record(home: Path) -> None:
    content, other = os.urandom(50_000), os.urandom(50_000)
    with Stage(home, Scene(credit=4)) as stage, running(home) as run:
        for step in range(20):
            log(run, content, step)
        log(run, other)
        until(
            lambda: run.progress()[0] == run.progress()[1] and not blob_files(run), 30, "all is durable and let go of"
        )
        assert len(stage.chunks) == 2
        log(run, content, 99)
        until(lambda: len(arrived(stage)) == 22 and not blob_files(run), 30, "it comes again, and goes again")
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert arrived(stage) == [content] * 20 + [other, content]


@pytest.mark.parametrize("fault", ["missing", "damaged", "cut", "longer"])
def test_a_blob_that_is_gone_or_damaged_costs_its_records_alone(
    home: Path, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    good, bad = os.urandom(LARGE), os.urandom(LARGE)
    path = home / "endpoint.json"
    with Stage(home) as stage:
        said = path.read_text()
        path.unlink()  # nobody takes anything yet
        with running(home) as run:
            recorder(run).spool.prepare()
            log(run, good, 0)
            log(run, bad, 1)
            log(run, bad, 2)
            run.log_metric("a", 3.0, 3)
            file = recorder(run).spool.blobs.path(hashlib.sha256(bad).hexdigest())
            if fault == "missing":
                file.unlink()
            elif fault == "damaged":
                file.write_bytes(bad[:1000] + b"?" + bad[1001:])
            else:
                file.write_bytes(bad[:-1] if fault == "cut" else bad + b"?")
            path.write_text(said)
            assert run.stop(RunStatus.FINISHED, "", 30.0).durable
            assert arrived(stage) == [good]
            assert stage.steps == [3]
            assert stage.lost == 2
            assert len(stage.hellos) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "2 record(s) with that content are lost" in err


def test_a_collector_that_forgot_its_blobs_hears_what_is_gone(home: Path) -> None:
    """Records whose segment is still here come again; their content is not here any more."""
    with Stage(home, Scene(), Scene(forget=True)) as stage, running(home) as run:
        log(run, os.urandom(50_000))
        run.log_metric("a", 1.0, 1)
        until(lambda: run.progress()[0] == run.progress()[1] and not blob_files(run), 30)
        stage.cut()
        until(lambda: len(stage.hellos) == 2, 30)
        assert run.stop(RunStatus.FINISHED, "", 30.0).durable
        assert stage.steps == [1]
        assert stage.lost == 1


def test_stopping_does_not_wait_for_an_upload_that_hangs(home: Path) -> None:
    hangs = threading.Event()

    class Hanging(Stage):
        def Upload(self, frames: Iterator[wire.UploadFrame], context: object) -> Iterator[wire.UploadReply]:
            next(frames)
            hangs.wait(60)
            yield wire.UploadReply()

    content = os.urandom(LARGE)
    with Hanging(home), running(home) as run:
        log(run, content)
        report = run.stop(RunStatus.FINISHED, "", 0.3)
        assert not report.durable
        assert report.kept_in is not None
        assert [file.read_bytes() for file in (report.kept_in / "blobs").iterdir()] == [content]
        hangs.set()


def test_no_room_for_content_is_counted_and_said_once(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spool = writer(small_disk)
    records = Recorder(spool, lambda log_dir, tag: tag, {})
    content = os.urandom(1024 * 1024)
    for step in range(20):
        records.media("", "picture", "image", content + bytes([step]), "image/png", step, 1.0, {})
    kept = len(list(spool.directory.blobs.iterdir()))
    assert 0 < kept < 20
    assert spool.dropped == 20 - kept
    assert capfd.readouterr().err.count("\n") == 1
    assert not list(spool.directory.blobs.glob("*.draft"))


def test_content_that_is_kept_while_it_is_let_go_of_stays(tmp_path: Path) -> None:
    """Two threads, one file: as long as a record names it, it is there."""
    blobs, content = Blobs(tmp_path / "blobs"), b"x" * 10
    name = hashlib.sha256(content).hexdigest()
    kept: list[None] = []
    problems = []
    end = threading.Event()

    def keep() -> None:
        while not end.is_set():
            blobs.keep_bytes(name, content)
            if not blobs.path(name).exists():
                problems.append("gone")
            kept.append(None)

    thread = threading.Thread(target=keep)
    thread.start()
    for _ in range(3000):
        until(lambda: kept, 10)
        kept.pop()
        blobs.let_go(name)
    end.set()
    thread.join(60)
    while kept:
        assert blobs.path(name).exists()
        kept.pop()
        blobs.let_go(name)
    assert not problems
    assert not blobs.path(name).exists()
    assert blobs_module._WAIT > 0


# -- with a real collector


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with client() as one:
        yield one


def stored(home: Path, record: Media | Artifact) -> bytes:
    if isinstance(record.content, bytes):
        return record.content
    return blob_path(blobs_path(home), record.content.sha256).read_bytes()


def test_a_script_with_media_and_artifacts_and_a_child_that_was_forked(shared: Client, tmp_path: Path) -> None:
    large = os.urandom(LARGE)
    (tmp_path / "model.pt").write_bytes(large)
    script = f"""
run = tracelet.start_logging(exp_name="media")
path = {str(tmp_path / "model.pt")!r}
run.log_metric("a", 1.0, 0)
run.log_text("note", "x" * 50_000, 1)
run.log_artifact(path, "weights/model.pt")
pid = os.fork()
if not pid:
    run.log_text("note", "y" * 50_000, 2)
    run.log_artifact(path, "weights/of_child.pt")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
os.unlink(path)
run.log_metric("a", 2.0, 1)
"""
    done = shared.run(script)
    assert (done.code, done.err) == (0, "")
    assert shared.status("media") == "finished"
    texts = {record.step: stored(shared.home, record) for record in shared.records("media", Media)}
    assert texts == {1: b"x" * 50_000, 2: b"y" * 50_000}
    files = {record.path: stored(shared.home, record) for record in shared.records("media", Artifact)}
    assert files == {"weights/model.pt": large, "weights/of_child.pt": large}
    assert shared.points("media", "a") == [(0, 1.0), (1, 2.0)]
    state = shared.state("media")
    assert state is not None
    assert (state.durable, state.dropped) == (6, 0)


def killed_in_the_middle(home: Path, folder: Path, size: int, kills: int) -> None:
    """An artifact while its collector is killed again and again: one intact copy in the store, and nothing else lost."""
    path = folder / "model.pt"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            piece = os.urandom(1 << 20)
            digest.update(piece)
            file.write(piece)
    here, go = Client(home, folder), folder / "go"
    script = here.start(
        f"""
run = tracelet.start_logging(exp_name="killed")
run.log_metric("a", 1.0, 0)
tell(0)
run.log_artifact({str(path)!r})
run.log_metric("a", 2.0, 1)
tell(1)
while not os.path.exists({str(go)!r}): time.sleep(0.01)
""",
        TRACELET_STOP_TIMEOUT="60",
    )
    partial = blobs_path(home) / "partial" / digest.hexdigest()
    whole = blob_path(blobs_path(home), digest.hexdigest())
    for kill in range(kills):
        least = size * (kill + 1) // (kills + 2)
        until(lambda least=least: whole.exists() or (partial.exists() and partial.stat().st_size >= least), 60)  # type: ignore[misc]
        pid = until(lambda: collector_pid(home), 30)
        os.kill(pid, signal.SIGKILL)
        assert wait_gone(pid, 10)
    go.touch()
    assert script.finish(120).code == 0
    assert here.status("killed") == "finished"
    (artifact,) = here.records("killed", Artifact)
    assert isinstance(artifact.content, BlobRef)
    assert (artifact.content.sha256, artifact.content.size) == (digest.hexdigest(), size)
    with whole.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
    assert not partial.exists()
    assert here.points("killed", "a") == [(0, 1.0), (1, 2.0)]


@pytest.mark.faults
def test_an_artifact_while_its_collector_is_killed(home: Path, tmp_path: Path) -> None:
    killed_in_the_middle(home, tmp_path, 32 << 20, 2)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_torture_a_gibibyte_while_its_collector_is_killed(home: Path, tmp_path: Path) -> None:
    """A file of 1 GiB on its way to the collector, which is killed in the middle, three times."""
    killed_in_the_middle(home, tmp_path, 1 << 30, 3)
