"""A large artifact whose collector is killed in the middle, more than once: one intact copy in the store, and one in MLflow."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from tracelet_collector.blobs import blob_path
from tracelet_collector.home import blobs_path

from tests.support.batches import batch, ending, writer_spec
from tests.support.collector import CollectorProcess
from tests.support.delivering import run_spec
from tests.support.mlflow_store import MlflowStore
from tests.support.processes import until
from tests.support.spine import Spine
from tests.support.uploading import upload_file
from tracelet.proto.v1 import records_pb2 as pb

MIB = 1024 * 1024


def make(path: Path, size: int, seed: int) -> str:
    """A file of random bytes; its hash."""
    luck, digest = random.Random(seed), hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(0, size, MIB):
            piece = luck.randbytes(MIB)
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def peak_memory(pid: int) -> int:
    """Bytes of memory that a process had at most."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def kill_in_the_middle(collector: CollectorProcess, file: Path, sha256: str, after: int) -> None:
    """Upload, and kill the collector when so many bytes have come."""
    partial = blobs_path(collector.home) / "partial" / sha256
    broke: list[grpc.RpcError] = []

    def upload() -> None:
        try:
            upload_file(collector.channel, file, sha256)
        except grpc.RpcError as error:
            broke.append(error)

    writer = threading.Thread(target=upload)
    writer.start()
    until(lambda: partial.exists() and partial.stat().st_size >= after, 60, "a part has come")
    os.kill(collector.pid, 9)
    writer.join(60)
    collector.kill()
    assert broke, "the upload was over before the collector was killed"


def upload_and_deliver(home: Path, folder: Path, size: int, seed: int) -> tuple[int, int]:
    """Returns the peak memory of the collector and of its worker."""
    luck = random.Random(seed)
    store = MlflowStore.fresh(folder / "store")
    file = folder / "model.bin"
    sha256 = make(file, size, seed)
    run = run_spec("r1", store.uri)
    writer = writer_spec(writer_id="w-r1")
    for part in sorted(luck.uniform(0.05, 0.8) for _ in range(2)):
        kill_in_the_middle(CollectorProcess(home), file, sha256, round(part * size))
    collector = CollectorProcess(home)
    assert upload_file(collector.channel, file, sha256) > 0, "it began anew"
    blob = pb.BlobRef(sha256=bytes.fromhex(sha256), size=size)
    event = pb.Event(artifact=pb.Artifact(path="models/model.bin", blob=blob, wall_time=1.7e9))
    stream = collector.open(run, writer, minor=1)
    stream.welcome()
    stream.send(batch(0, 1, events=[event]), ending(1))
    stream.acked_to(2)

    def state() -> pb.RunStatus | None:
        (found,) = collector.status("r1").runs
        return found

    artifact = folder / "store" / "mlruns" / "1"
    # And in the middle of its delivery.
    until(lambda: list(artifact.rglob(".artifact.uploading.*")) or state().backends[0].settled, 60, "it is delivered")
    collector.kill()
    with CollectorProcess(home) as collector:
        until(lambda: collector.status("r1").runs[0].backends[0].settled, 120, "it is delivered")
        (backend,) = collector.status("r1").runs[0].backends
        assert (backend.delivered, backend.dead) == (1, 0)
        peaks = peak_memory(collector.pid), peak_memory(backend.worker_pid) if backend.worker_pid else 0
    (copy,) = [path for path in artifact.rglob("*") if path.is_file() and not path.name.startswith(".artifact.")]
    assert (copy.name, hash_of(copy)) == ("model.bin", sha256)
    blobs = [path for path in blobs_path(home).rglob("*") if path.is_file()]
    assert blobs == [blob_path(blobs_path(home), sha256)]
    assert hash_of(blobs[0]) == sha256
    assert store.run()["status"] == "FINISHED"
    return peaks


# Logs a file, spoils it right after the call, and ends.
SCRIPT = """
import sys, tracelet
path = sys.argv[1]
with tracelet.start_logging(exp_name="artifacts", project="faults") as run:
    run.log_artifact(path, "models/")
    if len(sys.argv) > 2:
        with open(path, "r+b") as file:
            file.write(b"overwritten")
    for step in range(100):
        run.log_metric("loss", 1 / (step + 1), step)
"""


def log_and_kill(spine: Spine, size: int, seed: int, *more: str) -> None:
    """The script's file, whose collector is killed twice while it comes, is in the store and in MLflow, once."""
    luck = random.Random(seed)
    file = spine.folder / "model.bin"
    sha256 = make(file, size, seed)
    (spine.folder / "train.py").write_text(SCRIPT)
    partial = blobs_path(spine.home) / "partial" / sha256
    with (spine.folder / "stderr").open("wb") as errors:
        script = subprocess.Popen(
            [sys.executable, "train.py", str(file), *more],
            cwd=spine.folder,
            env=os.environ | spine.environment,
            stderr=errors,
        )
    try:
        for part in sorted(luck.uniform(0.01, 0.5) for _ in range(2)):
            wanted = round(part * size)
            until(lambda wanted=wanted: size_of(partial) >= wanted or script.poll() is not None, 120)
            if script.poll() is None and size_of(partial) >= 0:
                spine.kill_collector()
        assert script.wait(300) == 0, (spine.folder / "stderr").read_text()
    finally:
        script.kill()
        script.wait(60)
    (run,) = spine.settle(300).runs
    assert (run.durable, run.dropped, run.status) == (101, 0, pb.RUN_STATUS_FINISHED)
    blobs = [path for path in blobs_path(spine.home).rglob("*") if path.is_file()]
    assert [path.name for path in blobs] == [sha256]
    assert hash_of(blobs[0]) == sha256
    root = MlflowStore(spine.database).artifacts()
    assert [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()] == ["models/model.bin"]
    assert hash_of(root / "models" / "model.bin") == sha256


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


@pytest.mark.timeout(480)
def test_a_script_logs_a_file_and_spoils_it(spine: Spine) -> None:
    log_and_kill(spine, 96 * MIB, 3, "spoil")


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_torture_a_script_logs_1_gib(spine: Spine, torture_seed: int) -> None:
    """A script logs a file of 1 GiB; kill -9 of the collector, twice, while it comes: one intact copy."""
    """A script logs a file of 1 GiB; the collector is killed in the middle: one intact copy in MLflow."""
    log_and_kill(spine, 1024 * MIB, torture_seed)


@pytest.mark.timeout(480)
def test_an_artifact_of_64_mib(home: Path, tmp_path: Path) -> None:
    upload_and_deliver(home, tmp_path, 64 * MIB, seed=1)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_torture_an_artifact_of_1_gib(home: Path, tmp_path: Path, torture_seed: int) -> None:
    """An upload of 1 GiB; kill -9 of the collector in the middle of it, twice, and of its delivery: one intact copy."""
    """A file of 1 GiB is never in the memory of those that it passes through."""
    for peak in upload_and_deliver(home, tmp_path, 1024 * MIB, torture_seed):
        assert peak < 700 * MIB, "the content was never in the memory"
