"""Blobs: into the store whole or not at all, from writers and from spools, through crashes; and batches that name them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tracelet_collector.blobs import BlobStore, blob_path
from tracelet_collector.partial import BlobBusy, BlobDamaged, NoRoom

from tests.support.batches import batch, run_spec, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.processes import until
from tests.support.uploading import CHUNK, Upload, content, digest, upload_all
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

MIB = 1024 * 1024
DATA_LOSS, ABORTED = grpc.StatusCode.DATA_LOSS, grpc.StatusCode.ABORTED


def stored(home: Path, data: bytes) -> bool:
    path = blob_path(home / "log" / "blobs", digest(data))
    return path.exists() and path.read_bytes() == data


def partial(home: Path, data: bytes) -> int:
    path = home / "log" / "blobs" / "partial" / digest(data)
    return path.stat().st_size if path.exists() else -1


def artifact(data: bytes) -> pb.Event:
    blob = pb.BlobRef(sha256=bytes.fromhex(digest(data)), size=len(data))
    return pb.Event(artifact=pb.Artifact(path="model.bin", blob=blob, wall_time=1.7e9))


class TestUpload:
    @pytest.fixture
    def collector(self, shared: CollectorProcess) -> Iterator[CollectorProcess]:
        yield shared
        shared.hang_up()

    @pytest.mark.parametrize("size", [0, 1, CHUNK, 9 * MIB + 1])
    def test_what_is_uploaded_is_in_the_store(self, collector: CollectorProcess, size: int) -> None:
        data = content(size, seed=size)
        assert upload_all(collector.channel, data) == 0
        assert stored(collector.home, data)
        assert partial(collector.home, data) == -1

    def test_what_is_there_is_not_sent_again(self, collector: CollectorProcess) -> None:
        data = content(100_000, seed=2)
        upload_all(collector.channel, data)
        upload = Upload(collector.channel, digest(data), len(data))
        reply = upload.reply()
        assert (reply.done, reply.offset) == (True, len(data))
        upload.finish()

    def test_an_upload_that_broke_off_goes_on(self, collector: CollectorProcess) -> None:
        data = content(3 * MIB, seed=3)
        first = Upload(collector.channel, digest(data), len(data))
        assert first.reply().offset == 0
        first.send(data[:MIB])
        until(lambda: partial(collector.home, data) == MIB)
        first.cancel()
        assert upload_all(collector.channel, data) == MIB
        assert stored(collector.home, data)

    def test_a_writer_that_stops_early_hears_how_far_it_came(self, collector: CollectorProcess) -> None:
        data = content(MIB, seed=4)
        upload = Upload(collector.channel, digest(data), len(data))
        upload.send(data[:CHUNK])
        upload.finish()
        error = upload.refused()
        assert (error.code(), str(CHUNK) in error.details()) == (ABORTED, True)
        assert upload_all(collector.channel, data) == CHUNK

    def test_content_of_another_hash_is_thrown_away(self, collector: CollectorProcess) -> None:
        data = content(MIB, seed=5)
        upload = Upload(collector.channel, digest(data), len(data))
        upload.send(data[:-1] + b"?")
        assert upload.refused().code() is DATA_LOSS
        assert partial(collector.home, data) == -1
        assert not stored(collector.home, data)
        assert upload_all(collector.channel, data) == 0
        assert stored(collector.home, data)

    def test_a_lying_beginning_does_not_spoil_it_for_good(self, collector: CollectorProcess) -> None:
        data = content(MIB, seed=6)
        liar = Upload(collector.channel, digest(data), len(data))
        liar.send(bytes(CHUNK))
        liar.finish()
        assert liar.refused().code() is ABORTED
        honest = Upload(collector.channel, digest(data), len(data))
        offset = honest.reply().offset
        honest.send(data[offset:])
        assert honest.refused().code() is DATA_LOSS
        assert upload_all(collector.channel, data) == 0
        assert stored(collector.home, data)

    def test_more_than_was_announced_is_thrown_away(self, collector: CollectorProcess) -> None:
        data = content(CHUNK, seed=7)
        upload = Upload(collector.channel, digest(data), len(data))
        upload.send(data + b"more", chunk=CHUNK + 4)
        assert upload.refused().code() is DATA_LOSS
        assert partial(collector.home, data) == -1

    @pytest.mark.parametrize("broken", ["no open", "no hash", "too large", "no run", "twice", "an empty chunk"])
    def test_a_call_that_breaks_the_contract(self, collector: CollectorProcess, broken: str) -> None:
        data = content(CHUNK, seed=8)
        said = wire.UploadFrame.Open(sha256=bytes.fromhex(digest(data)), size=len(data), run_id="r")
        opening = wire.UploadFrame(open=said)
        if broken == "no hash":
            opening.open.sha256 = b"short"
        elif broken == "too large":
            opening.open.size = 2**50
        elif broken == "no run":
            opening.open.run_id = ""
        frames = [opening]
        if broken == "no open":
            frames = [wire.UploadFrame(chunk=data)]
        elif broken == "twice":
            frames.append(opening)
        elif broken == "an empty chunk":
            frames.append(wire.UploadFrame(chunk=b""))
        with pytest.raises(grpc.RpcError) as refused:
            list(collector.stub.Upload(iter(frames), timeout=60))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def test_a_second_upload_waits_for_the_first(self, collector: CollectorProcess) -> None:
        data = content(2 * MIB, seed=9)
        first = Upload(collector.channel, digest(data), len(data))
        assert first.reply().offset == 0
        first.send(data[:MIB])
        second = Upload(collector.channel, digest(data), len(data))
        first.send(data[MIB:])
        first.done()
        assert second.reply().done
        second.finish()
        assert stored(collector.home, data)

    def test_an_upload_whose_writer_stands_still_is_taken_over(self, collector: CollectorProcess) -> None:
        data = content(2 * MIB, seed=10)
        first = Upload(collector.channel, digest(data), len(data))
        assert first.reply().offset == 0
        first.send(data[:MIB])
        until(lambda: partial(collector.home, data) == MIB)
        assert upload_all(collector.channel, data) == MIB  # after two seconds of silence
        first.send(bytes(MIB))
        assert first.refused().code() is ABORTED
        assert stored(collector.home, data)

    def test_many_at_once_of_the_same_content(self, collector: CollectorProcess) -> None:
        data = content(4 * MIB, seed=11)
        uploads = [Upload(collector.channel, digest(data), len(data)) for _ in range(5)]
        for upload in uploads:  # whichever is the first to write, the others hear that it is there
            upload.send(data)
        for upload in uploads:
            upload.finish()
        until(lambda: stored(collector.home, data))
        assert upload_all(collector.channel, data) == len(data)

    def test_uploads_leave_nothing_running(self, collector: CollectorProcess) -> None:
        until(lambda: collector.status().streams == 0)
        assert [line for line in collector.journal() if line["level"] == "error"] == []


class TestBatches:
    def test_a_batch_that_names_a_blob_waits_for_it(self, shared: CollectorProcess) -> None:
        data, run = content(50_000, seed=20), run_spec()
        stream = shared.open(run, writer_spec(), minor=1)
        stream.welcome()
        stream.send(batch(0, 1, events=[artifact(data)]))
        said = stream.goodbye()
        assert (said.code, said.next_seq) == (wire.Goodbye.CODE_MISSING_BLOB, 0)
        assert digest(data) in said.message
        assert shared.status(run.run_id).runs[0].durable == 0
        upload_all(shared.channel, data, run.run_id)
        again = shared.open(run, writer_spec(), minor=1)
        again.welcome()
        again.send(batch(0, 1, events=[artifact(data)]))
        again.acked_to(1)
        assert shared.status(run.run_id).runs[0].durable == 1  # an artifact is a point

    def test_the_size_must_be_that_of_the_blob(self, shared: CollectorProcess) -> None:
        data, run = content(50_000, seed=21), run_spec()
        upload_all(shared.channel, data)
        event = artifact(data)
        event.artifact.blob.size += 1
        stream = shared.open(run, writer_spec(), minor=1)
        stream.welcome()
        stream.send(batch(0, 1, events=[event]))
        assert stream.goodbye().code == wire.Goodbye.CODE_MISSING_BLOB


def test_a_collector_killed_in_the_middle_again_and_again(serve: Callable[..., CollectorProcess]) -> None:
    luck, data = random.Random(7), content(24 * MIB, seed=30)
    came = 0

    def more(home: Path) -> bool:
        return partial(home, data) > came

    for _ in range(4):
        collector = serve()
        upload = Upload(collector.channel, digest(data), len(data))
        assert upload.reply().offset == max(came, 0)
        upload.send(data[came : came + luck.randrange(3 * MIB, 6 * MIB)])
        until(lambda home=collector.home: more(home))
        collector.kill()
        came = partial(collector.home, data)
        upload.cancel()
    collector = serve()
    assert upload_all(collector.channel, data) == came > 0
    assert stored(collector.home, data)
    assert list((collector.home / "log" / "blobs" / "partial").iterdir()) == []


def test_a_full_disk_refuses_blobs_and_goes_on_by_itself(
    serve: Callable[..., CollectorProcess], disk_of_64_mib: Path
) -> None:
    collector = serve(at=disk_of_64_mib / "home")
    data = content(2 * MIB, seed=40)
    filler = disk_of_64_mib / "filler"
    with filler.open("wb") as file:
        disk = os.statvfs(disk_of_64_mib)
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - 25 * MIB)
    error = Upload(collector.channel, digest(data), len(data)).refused()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "is full" in error.details()
    # Points are still taken: they have the first claim to what is left.
    stream = collector.open(run_spec(), writer_spec())
    stream.welcome()
    stream.send(batch(0, 1, events=[pb.Event(gap=pb.Gap(dropped=1, reason="x"))]))
    stream.acked_to(1)
    filler.unlink()
    assert upload_all(collector.channel, data) == 0
    assert stored(collector.home, data)


class TestStore:
    def test_a_file_is_adopted_and_stays(self, tmp_path: Path) -> None:
        data = content(3 * MIB, seed=50)
        (tmp_path / "it").write_bytes(data)
        store = BlobStore(tmp_path / "home" / "blobs")
        store.adopt(tmp_path / "it", digest(data), len(data))
        store.adopt(tmp_path / "it", digest(data), len(data))
        assert store.has(digest(data), len(data))
        assert (tmp_path / "it").read_bytes() == data
        assert list(store.drafts.iterdir()) == []

    def test_what_an_upload_left_goes_when_the_content_comes_otherwise(self, tmp_path: Path) -> None:
        data = content(MIB, seed=53)
        (tmp_path / "it").write_bytes(data)
        store = BlobStore(tmp_path / "blobs")
        with store.begin(digest(data), len(data)) as upload:  # type: ignore[union-attr]
            upload.write(data[:CHUNK])
        store.adopt(tmp_path / "it", digest(data), len(data))
        assert list(store.drafts.iterdir()) == []
        assert store.begin(digest(data), len(data)) is None

    def test_after_a_sync_that_failed_the_content_is_written_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = content(MIB, seed=55)
        source = tmp_path / "it"
        source.write_bytes(data)
        store = BlobStore(tmp_path / "blobs")

        def broken(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("tracelet_collector.blobs.sync", broken)
            with pytest.raises(OSError, match="Input/output"):
                store.adopt(source, digest(data), len(data))
        assert not store.has(digest(data), len(data))
        store.adopt(source, digest(data), len(data))
        path = blob_path(store.root, digest(data))
        assert path.read_bytes() == data
        assert path.stat().st_ino != source.stat().st_ino, "the same pages would only seem to be synced"

    def test_an_upload_whose_sync_fails_begins_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = content(CHUNK, seed=56)
        store = BlobStore(tmp_path / "blobs")

        def broken(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("tracelet_collector.partial.sync", broken)
            with store.begin(digest(data), len(data)) as upload:  # type: ignore[union-attr]
                upload.write(data)
                with pytest.raises(OSError, match="Input/output"):
                    upload.complete()
        assert list(store.drafts.iterdir()) == []
        with store.begin(digest(data), len(data)) as upload:  # type: ignore[union-attr]
            assert upload.offset == 0
            upload.write(data)
            upload.complete()
        assert store.has(digest(data), len(data))

    def test_an_adoption_beside_an_upload(self, tmp_path: Path) -> None:
        data = content(MIB, seed=54)
        (tmp_path / "it").write_bytes(data)
        store = BlobStore(tmp_path / "blobs")
        with store.begin(digest(data), len(data)) as upload:  # type: ignore[union-attr]
            upload.write(data[:CHUNK])
            store.adopt(tmp_path / "it", digest(data), len(data))
            upload.write(data[CHUNK:])
            upload.complete()
        assert list(store.drafts.iterdir()) == []
        assert blob_path(store.root, digest(data)).read_bytes() == data

    def test_from_another_file_system(self, tmp_path: Path) -> None:
        data = content(MIB, seed=51)
        shared_memory = Path("/dev/shm")
        if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is no other file system to adopt from")
        source = shared_memory / f"tracelet-test-{os.getpid()}"
        try:
            source.write_bytes(data)
            store = BlobStore(tmp_path / "blobs")
            store.adopt(source, digest(data), len(data))
        finally:
            source.unlink()
        assert blob_path(store.root, digest(data)).read_bytes() == data

    @pytest.mark.parametrize("damage", ["gone", "short", "other", "link", "folder"])
    def test_what_is_not_what_its_name_says_is_refused(self, tmp_path: Path, damage: str) -> None:
        data = content(CHUNK, seed=52)
        source = tmp_path / "it"
        if damage == "short":
            source.write_bytes(data[:-1])
        elif damage == "other":
            source.write_bytes(bytes(CHUNK))
        elif damage == "link":
            (tmp_path / "real").write_bytes(data)
            source.symlink_to(tmp_path / "real")
        elif damage == "folder":
            source.mkdir()
        store = BlobStore(tmp_path / "blobs")
        with pytest.raises(BlobDamaged):
            store.adopt(source, digest(data), len(data))
        assert not store.has(digest(data), len(data))
        assert list(store.drafts.iterdir()) == []

    def test_no_room(self, tmp_path: Path) -> None:
        store = BlobStore(tmp_path / "blobs", left_free=2**62)
        with pytest.raises(NoRoom):
            store.begin("a" * 64, 10)
        with pytest.raises(NoRoom):
            store.begin("a" * 64, 10, patience=0.0)

    def test_one_upload_at_a_time(self, tmp_path: Path) -> None:
        store = BlobStore(tmp_path / "blobs")
        first = store.begin("a" * 64, 10)
        assert first is not None
        with first:
            with pytest.raises(BlobBusy):
                store.begin("a" * 64, 10, patience=0.0)
            first.write(b"12345")
        second = store.begin("a" * 64, 10, patience=0.0)
        assert second is not None
        assert second.offset == 5
        with second:
            pass

    def test_what_nobody_goes_on_with_is_forgotten(self, tmp_path: Path) -> None:
        store = BlobStore(tmp_path / "blobs")
        for name in ("a" * 64, "b" * 64):
            (store.drafts / name).write_bytes(b"1")
        long_ago = time.time() - 30 * 24 * 3600
        os.utime(store.drafts / ("a" * 64), (long_ago, long_ago))
        (store.drafts / f"{'c' * 64}.1").write_bytes(b"an adoption that was cut short")
        again = BlobStore(tmp_path / "blobs")
        assert [path.name for path in again.drafts.iterdir()] == ["b" * 64]
