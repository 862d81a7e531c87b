"""A writer's stream: what is taken and acked, what is refused and how, and what a writer that vanishes leaves."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.support.batches import TAG, batch, ending, opening, run_spec, writer_spec
from tests.support.collector import CollectorProcess, WireStream
from tests.support.processes import until
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

Goodbye = wire.Goodbye


@pytest.fixture
def collector(shared: CollectorProcess) -> Iterator[CollectorProcess]:
    yield shared
    shared.hang_up()


def test_a_stream_is_welcomed_acked_and_ended(collector: CollectorProcess) -> None:
    run = run_spec()
    stream = collector.open(run, writer_spec())
    welcome = stream.welcome()
    assert (welcome.next_seq, welcome.credit >= 1000, welcome.wire.major) == (0, True, codec.WIRE_MAJOR)
    assert (welcome.max_batch_records, welcome.max_batch_bytes) == (codec.MAX_BATCH_RECORDS, codec.MAX_BATCH_BYTES)
    stream.send(opening(100), batch(100, 900))
    stream.acked_to(1000)
    (state,) = collector.status(run.run_id).runs
    assert (state.received, state.durable, state.status) == (999, 999, pb.RUN_STATUS_RUNNING)
    assert collector.status().streams == 1
    stream.send(ending(1000))
    stream.finish()
    stream.acked_to(1001)
    assert stream.next() is None
    (state,) = collector.status(run.run_id).runs
    assert (state.status, state.ended, state.name) == (pb.RUN_STATUS_FINISHED, 1.8e9, "a run")
    assert collector.kept(run.run_id) == list(range(1, 1000))


def test_a_writer_that_comes_back_goes_on_where_the_log_ends(collector: CollectorProcess) -> None:
    run = run_spec()
    first = collector.open(run, writer_spec())
    first.welcome()
    first.send(opening(100))
    first.acked_to(100)
    first.cancel()
    second = collector.open(run, writer_spec())
    assert second.welcome().next_seq == 100
    # It cuts its batches anew, and tells again what it is not sure of: the definition, too.
    second.send(opening(60), batch(60, 100), batch(120, 80))
    second.acked_to(200)
    assert collector.kept(run.run_id) == list(range(1, 200))


def test_a_second_stream_of_a_writer_takes_over(collector: CollectorProcess) -> None:
    run = run_spec()
    older = collector.open(run, writer_spec())
    older.welcome()
    older.send(opening(50))
    older.acked_to(50)
    newer = collector.open(run, writer_spec())
    assert newer.welcome().next_seq == 50
    said = older.goodbye()
    assert (said.code, said.next_seq) == (Goodbye.CODE_BUSY, 50)
    older.send(batch(50, 50))  # too late
    newer.send(batch(50, 10))
    newer.acked_to(60)
    assert until(lambda: collector.status().streams == 1)
    assert collector.kept(run.run_id) == list(range(1, 60))


def test_other_writers_and_epochs_are_streams_of_their_own(collector: CollectorProcess) -> None:
    run = run_spec()
    writers = [writer_spec(), writer_spec(epoch=2), writer_spec(writer_id="x"), writer_spec(epoch=2**64 - 1)]
    streams = [collector.open(run, writer) for writer in writers]
    for stream in streams:
        assert stream.welcome().next_seq == 0
        stream.send(opening(10))
    for stream in streams:
        stream.acked_to(10)
    assert collector.status().streams == len(writers)
    assert collector.status(run.run_id).runs[0].durable == 9 * len(writers)


def malformed() -> dict[str, bytes]:
    def frame(made: pb.Batch) -> bytes:
        return wire.ClientFrame(batch=made).SerializeToString()

    twice = pb.Event(offset=1, tag_def=TAG)
    return {
        "no frame": b"\xff\xfe\xfd" * 50,
        "an empty frame": b"",
        "a second Hello": wire.ClientFrame(hello=wire.Hello()).SerializeToString(),
        "columns of different length": frame(pb.Batch(first_seq=10, count=2, tag=[1, 1], step_delta=[1], value=[1.0])),
        "no positions": frame(pb.Batch(first_seq=10)),
        "positions that nothing fills": frame(pb.Batch(first_seq=10, count=3, void=[pb.Span(offset=0, count=2)])),
        "a tag that was never defined": frame(
            pb.Batch(first_seq=10, count=1, tag=[7], step_delta=[1], value=[1.0], wall_time=[1.0])
        ),
        "a tag that is defined twice": frame(
            pb.Batch(first_seq=10, count=2, events=[twice], void=[pb.Span(offset=0, count=1)])
        ),
        "an event of an unknown kind": frame(pb.Batch(first_seq=10, count=1, events=[pb.Event(offset=0)])),
        "too many records": frame(batch(10, codec.MAX_BATCH_RECORDS + 1)),
        "too many bytes": frame(
            batch(10, 1, events=[pb.Event(params=pb.Params(values={"p": pb.Value(text="x" * codec.MAX_BATCH_BYTES)}))])
        ),
    }


@pytest.mark.parametrize("name", malformed())
def test_a_malformed_frame_ends_the_stream_and_stores_nothing(collector: CollectorProcess, name: str) -> None:
    run = run_spec()
    stream = collector.open(run, writer_spec())
    stream.welcome()
    stream.send(opening(10))
    stream.raw(malformed()[name])
    stream.send(batch(10, 5))  # behind it: not taken either
    said = stream.goodbye()
    assert (said.code, said.next_seq) == (Goodbye.CODE_MALFORMED, 10)
    assert said.message
    again = collector.open(run, writer_spec())
    assert again.welcome().next_seq == 10
    again.send(batch(10, 5))
    again.acked_to(15)
    assert collector.kept(run.run_id) == list(range(1, 15))


def test_an_oversized_message_is_refused_by_the_transport(collector: CollectorProcess) -> None:
    stream = collector.open(run_spec(), writer_spec())
    stream.welcome()
    stream.raw(bytes(8 * 2**20))
    with pytest.raises(grpc.RpcError) as refused:
        stream.next()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    until(lambda: collector.status().streams == 0)


def test_skipped_positions_are_named(collector: CollectorProcess) -> None:
    run = run_spec()
    stream = collector.open(run, writer_spec())
    stream.welcome()
    stream.send(opening(10), batch(11, 5))
    said = stream.goodbye()
    assert (said.code, said.next_seq) == (Goodbye.CODE_OUT_OF_ORDER, 10)
    assert "11" in said.message
    assert collector.kept(run.run_id) == list(range(1, 10))


def test_random_bytes_never_hurt(collector: CollectorProcess) -> None:
    luck = random.Random(20)
    run = run_spec()
    good = wire.ClientFrame(batch=opening(20)).SerializeToString()
    for _ in range(60):
        stream = collector.open(run, writer_spec(epoch=5))
        stream.welcome()
        raw = bytearray(good)
        for _ in range(luck.randint(1, 8)):
            raw[luck.randrange(len(raw))] = luck.randrange(256)
        stream.raw(bytes(raw[: luck.randint(0, len(raw))]))
        stream.finish()
        while (frame := stream.next()) is not None:
            assert frame.WhichOneof("frame") in ("ack", "goodbye")
            if frame.WhichOneof("frame") == "goodbye":
                assert frame.goodbye.code in (Goodbye.CODE_MALFORMED, Goodbye.CODE_OUT_OF_ORDER)
    fresh = collector.open(run, writer_spec(epoch=6))
    fresh.welcome()
    fresh.send(opening(20))
    fresh.acked_to(20)
    assert all(line["level"] != "error" for line in collector.journal())


@pytest.mark.parametrize(
    ("major", "minor", "side"),
    [(codec.WIRE_MAJOR + 1, 0, "collector"), (codec.WIRE_MAJOR, codec.WIRE_MINOR + 1, "collector"), (0, 9, "training")],
)
def test_versions_that_do_not_go_together_say_which_side_to_upgrade(
    collector: CollectorProcess, major: int, minor: int, side: str
) -> None:
    run = run_spec()
    stream = collector.open(run, writer_spec(), major=major, minor=minor)
    said = stream.goodbye()
    assert said.code == Goodbye.CODE_VERSION
    assert f"upgrade the {side}" in said.message
    assert "pip install -U tracelet" in said.message
    assert f"{major}.{minor}" in said.message
    assert run.run_id not in [state.run_id for state in collector.status().runs]


@pytest.mark.parametrize("broken", ["no run", "no writer", "long", "control", "twice"])
def test_a_hello_must_say_who_comes(collector: CollectorProcess, broken: str) -> None:
    run, writer = run_spec("mlflow"), writer_spec()
    if broken == "no run":
        run.run_id = ""
    elif broken == "no writer":
        writer.writer_id = ""
    elif broken == "long":
        run.run_id = "r" * 1000
    elif broken == "control":
        run.name = "a\nb"
    else:
        run.backends.add(kind="mlflow")
    assert collector.open(run, writer).goodbye().code == Goodbye.CODE_MALFORMED
    assert run.run_id not in [state.run_id for state in collector.status().runs]


def test_batches_before_the_hello_are_refused(collector: CollectorProcess) -> None:
    stream = WireStream(collector.channel)
    stream.send(opening(10))
    assert stream.goodbye().code == Goodbye.CODE_MALFORMED


def test_a_writer_that_vanishes_frees_everything(collector: CollectorProcess) -> None:
    def threads() -> int:
        return len(list(Path(f"/proc/{collector.pid}/task").iterdir()))

    run = run_spec()
    for number in range(3):  # the pool's threads are there, then
        stream = collector.open(run, writer_spec(epoch=number))
        stream.welcome()
        stream.cancel()
    until(lambda: collector.status().streams == 0)
    before = threads()
    for number in range(100, 120):
        stream = collector.open(run, writer_spec(epoch=number))
        stream.welcome()
        stream.send(opening(1000))
        stream.cancel()
    until(lambda: collector.status().streams == 0)
    until(lambda: threads() <= before + 4, what="the readers have ended")
    # Whatever came of each is whole.
    for row in collector.status(run.run_id).runs:
        assert row.durable % 999 == 0


def test_a_slow_writer_of_much_does_not_fill_the_memory(collector: CollectorProcess) -> None:
    """More than the credit under way, unasked: the collector reads on only as the log takes it, and loses nothing."""
    run = run_spec()
    stream = collector.open(run, writer_spec())
    credit = stream.welcome().credit
    stream.send(opening(1000))
    stream.send(*(batch(1000 * number, 1000) for number in range(1, 4 * credit // 1000)))
    stream.acked_to(4 * credit)
    assert collector.kept(run.run_id) == list(range(1, 4 * credit))


def test_health_is_served(collector: CollectorProcess) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(collector.channel)
    for name in ("", "tracelet.proto.v1.Collector"):
        said = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
        assert said.status == health_pb2.HealthCheckResponse.SERVING


def test_who_connects_and_says_nothing_does_not_keep_a_thread(
    serve: Callable[..., CollectorProcess], tmp_path: Path
) -> None:
    program = tmp_path / "impatient.py"
    program.write_text(
        "import sys, tracelet_collector.stream as stream, tracelet_collector.__main__ as collector\n"
        "stream._HELLO_SECONDS = 0.3\n"
        "sys.exit(collector.main())\n"
    )
    said = WireStream(serve(program=[str(program)]).channel).goodbye()
    assert said.code == Goodbye.CODE_MALFORMED
    assert "no Hello" in said.message


def test_too_many_writers_are_refused_and_status_still_answers(
    serve: Callable[..., CollectorProcess], tmp_path: Path
) -> None:
    program = tmp_path / "small.py"
    program.write_text(
        "import sys, tracelet_collector.service as service, tracelet_collector.__main__ as collector\n"
        "service.MAX_STREAMS = 3\n"
        "sys.exit(collector.main())\n"
    )
    collector = serve(program=[str(program)])
    run = run_spec()
    streams = [collector.open(run, writer_spec(epoch=number)) for number in range(3)]
    for stream in streams:
        stream.welcome()
    with pytest.raises(grpc.RpcError) as refused:
        collector.open(run, writer_spec(epoch=9)).next()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "3 writers" in (refused.value.details() or "")
    assert collector.status().streams == 3
    streams[0].cancel()
    until(lambda: collector.status().streams == 2)
    collector.open(run, writer_spec(epoch=9)).welcome()
