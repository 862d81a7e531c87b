"""Dead letters and cursors that are put back, as the log's contract says: the account is right at every moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tracelet_collector.log.base import Append, BackendCursor, Chunk, DeadLetter, Progress
from tracelet_collector.log.sqlite import SqliteLog

from tests.support.batches import batch, opening, run_spec, writer_spec
from tracelet.proto import codec
from tracelet.proto.v1 import collector_pb2 as wire
from tracelet.proto.v1 import records_pb2 as pb

RUN = "r"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """A log with a run of 30 points in three batches, none delivered; only the first has the definition of their tag."""
    made = SqliteLog(tmp_path / "log" / "tracelet.db")
    stream = made.open_stream(run_spec("mlflow", run_id=RUN), writer_spec()).stream
    batches = [opening(11), batch(11, 10), batch(21, 10)]
    made.append([Append(stream, each.SerializeToString()) for each in batches])
    yield made
    made.close()


def letter(lsn: int, seq: int, error: str = "no", kind: str = "mlflow") -> DeadLetter:
    return DeadLetter(RUN, kind, lsn, seq, "loss", error, "{}")


def cursor(log: SqliteLog, kind: str = "mlflow") -> BackendCursor:
    """The cursor, once it is seen that its account is right."""
    (run,) = log.runs(RUN)
    (found,) = [each for each in log.cursors(RUN) if each.kind == kind]
    assert run.durable == found.delivered + found.collapsed + found.rerouted + found.dead + found.lag_points
    assert found.dead == log.count_dead_letters(RUN, kind) + found.forgotten
    return found


def deliver(log: SqliteLog, dead: Sequence[tuple[int, int]] = (), kind: str = "mlflow") -> None:
    """Deliver everything; some points are dead."""
    chunk = log.read(RUN, kind, 10**6, 10**9)
    assert chunk is not None
    letters = [letter(lsn, seq, kind=kind) for lsn, seq in dead]
    log.commit(RUN, kind, Progress(chunk.until, delivered=chunk.points - len(letters), dead=letters, epoch=chunk.epoch))


def records(chunk: Chunk) -> list[tuple[int, int]]:
    """What a worker makes of a chunk: lsn and position of the records that are meant."""
    names = {
        stream: {tag.id: tag for tag in map(pb.TagDef.FromString, definitions)}
        for stream, definitions in chunk.dictionaries.items()
    }
    decoded = [
        (stored.lsn, seq)
        for stored in chunk.batches
        for seq, _ in codec.decode(pb.Batch.FromString(stored.payload), names[stored.stream])
    ]
    return [place for place in decoded if not chunk.only or place in chunk.only]


DEAD = [(1, 3), (2, 15), (2, 17), (3, 30)]


def test_letters_are_tried_again_by_their_places(log: SqliteLog) -> None:
    deliver(log, DEAD)
    assert log.read_redriven(RUN, "mlflow", 100, 10**9) is None
    assert cursor(log).settled
    ids = [found.letter for found in log.dead_letters()]
    assert log.redrive([ids[1], ids[2], ids[3], 99]) == (3, 0)
    assert [found.redriven for found in log.dead_letters()] == [False, True, True, True]
    assert (cursor(log).redriven, cursor(log).settled, cursor(log).dead) == (3, False, 4)
    chunk = log.read_redriven(RUN, "mlflow", 100, 10**9)
    assert chunk is not None
    # The batch with the tag's definition is not among them: the dictionary has it.
    assert records(chunk) == list(chunk.only) == DEAD[1:]
    assert chunk.points == 3
    assert log.read(RUN, "mlflow", 100, 10**9) is None
    still = letter(2, 17, "still no")
    log.commit(RUN, "mlflow", Progress(chunk.until, 1, 0, 1, [still], '{"a": 1}', {1: 2}, chunk.epoch, chunk.only))
    now = cursor(log)
    assert (now.delivered, now.rerouted, now.dead, now.redriven, now.settled) == (27, 1, 2, 0, True)
    assert now.state == '{"a": 1}'
    assert log.recall(RUN, "mlflow", [1]) == {1: 2}
    assert [(found.letter, found.lsn, found.error) for found in log.dead_letters()] == [
        (ids[0], 1, "no"),
        (ids[2], 2, "still no"),
    ]
    assert log.read_redriven(RUN, "mlflow", 100, 10**9) is None


def test_they_come_in_bits(log: SqliteLog) -> None:
    deliver(log, DEAD)
    log.redrive([found.letter for found in log.dead_letters()])
    tried = []
    while (chunk := log.read_redriven(RUN, "mlflow", 3, 1)) is not None:
        assert len({lsn for lsn, _ in chunk.only}) == 1  # a byte is too little for two batches
        tried.append(records(chunk))
        log.commit(RUN, "mlflow", Progress(chunk.until, collapsed=chunk.points, epoch=chunk.epoch, only=chunk.only))
        assert cursor(log).collapsed == sum(map(len, tried))
    assert tried == [[(1, 3)], [(2, 15), (2, 17)], [(3, 30)]]
    assert cursor(log).dead == 0


def test_what_was_tried_is_accounted_for_whole(log: SqliteLog) -> None:
    deliver(log, DEAD)
    log.redrive([1, 2])
    chunk = log.read_redriven(RUN, "mlflow", 100, 10**9)
    assert chunk is not None
    for wrong in (
        Progress(chunk.until, 1, only=chunk.only),
        Progress(chunk.until, 3, only=chunk.only),
        Progress(chunk.until, 1, dead=[letter(3, 30)], only=chunk.only),
    ):
        with pytest.raises(ValueError, match=r"accounts for|were not tried"):
            log.commit(RUN, "mlflow", wrong)
    assert (cursor(log).dead, cursor(log).redriven) == (4, 2)


def test_dropped_letters_stay_dead_and_their_ids_are_not_given_again(log: SqliteLog) -> None:
    deliver(log, DEAD)
    assert log.forget([4, 4, 2, 77]) == 2
    assert (cursor(log).dead, cursor(log).forgotten) == (4, 2)
    assert [found.letter for found in log.dead_letters()] == [1, 3]
    stream = log.open_stream(run_spec("mlflow", run_id=RUN), writer_spec()).stream
    log.append([Append(stream, batch(31, 2).SerializeToString())])
    deliver(log, [(4, 31)])
    assert [found.letter for found in log.dead_letters()] == [1, 3, 5]


def test_one_that_is_dropped_while_it_is_tried(log: SqliteLog) -> None:
    deliver(log, DEAD)
    log.redrive([1, 2])
    chunk = log.read_redriven(RUN, "mlflow", 100, 10**9)
    assert chunk is not None
    assert log.forget([1, 2]) == 2
    assert cursor(log).settled
    log.commit(
        RUN, "mlflow", Progress(chunk.until, 1, dead=[letter(2, 15, "again")], epoch=chunk.epoch, only=chunk.only)
    )
    now = cursor(log)  # the first arrived all the same, the other one is dead without a letter
    assert (now.delivered, now.dead, now.forgotten) == (27, 3, 1)
    assert [found.letter for found in log.dead_letters()] == [3, 4]


def test_trying_again_may_come_to_nothing(log: SqliteLog) -> None:
    deliver(log, DEAD)
    log.redrive([1, 2])
    log.keep_dead(RUN, "mlflow", [(1, 3)], "the worker died")
    assert [(found.error, found.redriven) for found in log.dead_letters()[:2]] == [
        ("the worker died", False),
        ("no", True),
    ]
    assert cursor(log).dead == 4


def test_letters_are_found_by_run_backend_and_page(log: SqliteLog) -> None:
    log.add_backend(RUN, wire.BackendSpec(kind="mlflow", target="t", slot="mlflow@t"))
    deliver(log, DEAD)
    deliver(log, [(1, 5)], kind="mlflow@t")
    assert [found.letter for found in log.dead_letters(backend="mlflow@t")] == [5]
    assert [found.letter for found in log.dead_letters(RUN, "mlflow", after=1, limit=2)] == [2, 3]
    assert [found.letter for found in log.dead_letters(ids=[5, 2, 9])] == [2, 5]
    assert log.dead_letters("other") == log.dead_letters(ids=[]) == []
    assert (log.count_dead_letters(), log.count_dead_letters(RUN, "mlflow@t")) == (5, 1)


def test_a_chunk_of_before_a_rewind_comes_to_nothing(log: SqliteLog) -> None:
    first = log.read(RUN, "mlflow", 10, 10**9)
    assert first is not None
    log.commit(RUN, "mlflow", Progress(first.until, first.points, state='{"a": 1}', epoch=first.epoch))
    under_way = log.read(RUN, "mlflow", 10, 10**9)
    assert under_way is not None
    assert under_way.state == '{"a": 1}'
    assert log.rewind(RUN, "mlflow") == 30
    # It would fit: its points lie behind the cursor, now as well as then, when the next chunk begins where it began.
    log.commit(RUN, "mlflow", Progress(under_way.until, under_way.points, state='{"a": 2}', epoch=under_way.epoch))
    assert (cursor(log).lsn, cursor(log).delivered, cursor(log).state) == (0, 0, "")
    again = log.read(RUN, "mlflow", 10, 10**9)
    assert again is not None
    log.commit(RUN, "mlflow", Progress(again.until, again.points, epoch=again.epoch))
    # And now that the cursor stands where it stood when that chunk was read, it is still of another epoch.
    log.commit(RUN, "mlflow", Progress(under_way.until, under_way.points, state='{"a": 2}', epoch=under_way.epoch))
    assert (cursor(log).lsn, cursor(log).delivered, cursor(log).state) == (1, 10, "")


def test_letters_of_before_a_rewind_are_gone(log: SqliteLog) -> None:
    deliver(log, DEAD)
    log.forget([1])
    log.redrive([2])
    chunk = log.read_redriven(RUN, "mlflow", 10, 10**9)
    assert chunk is not None
    log.rewind(RUN, "mlflow")
    log.commit(RUN, "mlflow", Progress(chunk.until, 1, epoch=chunk.epoch, only=chunk.only))
    assert (cursor(log).dead, cursor(log).forgotten, cursor(log).lag_points) == (0, 0, 30)
    deliver(log, [(1, 3)])
    assert cursor(log).dead == 1


def test_a_backend_that_is_there_stays_as_it_is(log: SqliteLog) -> None:
    deliver(log)
    log.add_backend(RUN, wire.BackendSpec(kind="mlflow", target="elsewhere"))
    log.add_backend(RUN, wire.BackendSpec(kind="wandb", target="w"))
    (run,) = log.runs(RUN)
    assert [(known.kind, known.target) for known in run.spec.backends] == [
        ("mlflow", "sqlite:///mlflow.db"),
        ("wandb", "w"),
    ]
    assert cursor(log).lag_points == 0
    assert cursor(log, "wandb").lag_points == 30
    with pytest.raises(ValueError, match="no run"):
        log.add_backend("unknown", wire.BackendSpec(kind="wandb"))
    with pytest.raises(ValueError, match="no cursor"):
        log.rewind(RUN, "clearml")
