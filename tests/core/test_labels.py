"""Which label a writer gets and what its metrics are called, without any framework."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet import guard
from tracelet.core import labelstore
from tracelet.core.labels import LabelStore, LabelTable, WriterPrefix, label_of, normalise
from tracelet.core.labelstore import Decisions

RUN = "run1"


def names(table: LabelTable, *pairs: tuple[str, str]) -> list[str]:
    return [table.name(log_dir, tag) for log_dir, tag in pairs]


@pytest.mark.parametrize(
    ("log_dir", "label"),
    [
        ("/x/runs/train", "train"),
        ("/x/runs/Nov22_04-05-06_host-7.example.org", "runs"),
        ("/x/runs/Nov22_04-05-06_hostLR_0.1_BATCH_16", "runs"),
        ("/x/runs/févr.03_14-05-06_host", "runs"),
        ("/x/lightning_logs/version_12", "lightning_logs"),
        ("/x/ppo/3/", "ppo"),
        ("/x/exp/2024-11-22_04-05-06", "exp"),
        ("/x/exp/20241122-040506", "exp"),
        ("/x/exp/2024-11-22T04:05:06/version_0/1", "exp"),
        ("/x/lr/0.1", "0.1"),
        ("/x/version_a", "version_a"),
        ("/x/v2", "v2"),
        ("/x/fold 1", "fold 1"),
        ("/x//  /", "x"),
        ("/1/2", "2"),
        ("/", "writer"),
        ("s3://bucket/exp/version_0", "exp"),
        ("gs://bucket", "bucket"),
    ],
)
def test_label_of_a_log_dir(log_dir: str, label: str) -> None:
    assert label_of(log_dir) == label


def test_normalise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise("tb") == normalise("./x/../tb/") == normalise(tmp_path / "tb") == str(tmp_path / "tb")
    assert normalise("") == ""
    assert normalise("s3://bucket/tb/") == "s3://bucket/tb"


def test_one_writer_has_no_label() -> None:
    table = LabelTable("auto")
    table.seen("/x/train")
    table.seen("/x/train/")
    assert names(table, ("/x/train", "Loss"), ("/x/./train", "Acc")) == ["Loss", "Acc"]
    assert table.decisions() == {"/x/train": ""}


def test_two_that_are_known_before_the_first_point_both_have() -> None:
    table = LabelTable("auto")
    table.seen("/x/train")
    table.seen("/x/val")
    assert names(table, ("/x/val", "Loss"), ("/x/train", "Loss")) == ["val/Loss", "train/Loss"]


def test_later_ones_have_and_what_was_decided_stays() -> None:
    table = LabelTable("auto")
    assert table.name("/x/train", "Loss") == "Loss"
    table.seen("/x/val")
    table.seen("/y/val")
    pairs = (("/y/val", "Loss"), ("/x/val", "Loss"), ("/x/train", "Loss"), ("/z/train", "Loss"))
    expected = ["val/Loss", "val_2/Loss", "Loss", "train/Loss"]
    assert names(table, *pairs) == expected
    assert names(table, *pairs) == expected


def test_equal_labels_are_numbered_around_those_that_are_taken() -> None:
    table = LabelTable("always")
    got = [table.label(log_dir) for log_dir in ("/a/t", "/b/t_2", "/c/t", "/d/t")]
    assert got == ["t", "t_2", "t_3", "t_4"]


def test_policies() -> None:
    always, never = LabelTable("always"), LabelTable("never")
    assert always.name("/x/train", "Loss") == "train/Loss"
    assert never.name("/x/train", "Loss") == "Loss"
    other = never.name("/x/val", "Loss")
    assert other.startswith("Loss~")
    assert never.decisions() == {"/x/train": "", "/x/val": ""}


def test_what_no_writer_wrote_has_no_label_but_its_names_are_its_own() -> None:
    table = LabelTable("always")
    assert table.label("") == ""
    assert table.name("", "Loss") == "Loss"
    bare = LabelTable("auto")
    assert bare.name("/x/train", "Loss") == "Loss"
    assert bare.name("", "Loss").startswith("Loss~")
    assert bare.name("", "Acc") == "Acc"
    assert bare.decisions() == {"/x/train": ""}


def test_the_hash_is_stable_and_depends_on_writer_and_tag() -> None:
    def later(log_dir: str, tag: str) -> str:
        table = LabelTable("never")
        table.name("/first", tag)
        return table.name(log_dir, tag)

    assert later("/x", "Loss") == later("/x", "Loss")
    assert len(later("/x", "Loss")) == len("Loss~") + 4
    assert later("/x", "Loss") != later("/y", "Loss")
    assert later("/x", "a") != later("/x", "b")


def test_a_tag_that_looks_like_somebodys_hashed_name() -> None:
    table = LabelTable("never")
    table.name("/first", "Loss")
    hashed = table.name("/x", "Loss")
    again = LabelTable("never")
    assert names(again, ("/first", "Loss"), ("/first", hashed)) == ["Loss", hashed]
    longer = again.name("/x", "Loss")
    assert longer.startswith(hashed)
    assert len(longer) == len(hashed) + 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "/a/t", "/b/t", "/c/v", "/c/1", "/t"]), st.sampled_from(["L", "t/L", "t", "v/L"])
        ),
        max_size=40,
    ),
    st.sampled_from(["auto", "always", "never"]),
)
def test_a_name_belongs_to_one_writer_and_tag(calls: list[tuple[str, str]], policy: WriterPrefix) -> None:
    table = LabelTable(policy)
    given_names: dict[tuple[str, str], str] = {}
    for call in calls:
        name = table.name(*call)
        assert given_names.setdefault(call, name) == name
    assert len(set(given_names.values())) == len(given_names)


def test_many_threads_agree() -> None:
    table = LabelTable("auto")
    barrier = threading.Barrier(8, timeout=120)
    got: list[list[str]] = [[] for _ in range(8)]

    def ask(number: int) -> None:
        barrier.wait()
        for step in range(200):
            got[number].append(table.name(f"/{step}/train", "Loss"))

    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(answers == got[0] for answers in got)
    assert len(set(got[0])) == 200


# -- shared and kept


def store(home: Path) -> LabelStore:
    return LabelStore(home, RUN)


def test_decisions_are_found_again(tmp_path: Path) -> None:
    first = LabelTable("auto", store(tmp_path))
    calls = [("/x/train", "val/Loss"), ("/x/val", "Loss"), ("/y/val", "Loss"), ("", "val/Loss")]
    before = names(first, *calls)
    resumed = LabelTable("always", store(tmp_path))  # another policy does not rename what has a name
    assert names(resumed, *reversed(calls)) == before[::-1]
    assert resumed.decisions() == first.decisions()
    assert resumed.label("/z/val") == "val_3"
    assert not list((tmp_path / "runs" / RUN).glob("*.new"))


def test_a_resumed_run_goes_on_with_its_writers(tmp_path: Path) -> None:
    """Their folders have names that nobody chose, and others each time."""
    first = LabelTable("auto", store(tmp_path))
    fit = ["/x/logs/version_0", "/x/logs/version_1", "/x/logs/val"]
    assert names(first, *[(log_dir, "loss") for log_dir in fit], ("", "loss")) == [
        "loss",
        "logs/loss",
        "val/loss",
        "loss~eea8",
    ]
    for numbers in ((2, 3, 4), (5, 6, 7)):
        again = LabelTable("auto", store(tmp_path), resumed=True)
        for number in numbers:
            again.seen(f"/x/logs/version_{number}")  # in the order of their making
        later = [(f"/x/logs/version_{number}", "loss") for number in reversed(numbers)]
        # The first time the third one has nothing to go on with.
        assert names(again, *later) == ["logs_2/loss", "logs/loss", "loss"]
        assert names(again, ("/x/logs/val", "loss"), ("", "loss"), ("/x/logs/train", "loss")) == [
            "val/loss",
            "loss~eea8",
            "train/loss",
        ]


def test_a_writer_of_a_resumed_run_that_is_written_to_again_is_itself(tmp_path: Path) -> None:
    first = LabelTable("auto", store(tmp_path))
    assert names(first, ("/x/version_0", "loss"), ("/x/version_1", "loss")) == ["loss", "x/loss"]
    again = LabelTable("auto", store(tmp_path), resumed=True)
    calls = [("/x/version_1", "loss"), ("/x/version_2", "loss"), ("/x/version_0", "loss"), ("/x/version_3", "loss")]
    assert names(again, *calls[:1], *calls[2:]) == ["x/loss", "loss", "x_2/loss"]
    beside = LabelTable("auto", store(tmp_path))  # another process of the run
    assert names(beside, calls[1]) == ["x_3/loss"]


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    table = LabelTable("auto", store(tmp_path))
    table.seen("/x/train")
    table.name("", "Loss")
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_touched_for_points_of_known_writers(tmp_path: Path) -> None:
    table = LabelTable("auto", store(tmp_path))
    table.name("/x/train", "Loss")
    file = tmp_path / "runs" / RUN / "labels.json"
    before = file.stat().st_ino
    for number in range(5):
        table.name("/x/train", f"tag {number}")
    assert file.stat().st_ino == before
    table.name("/x/val", "Loss")
    assert file.stat().st_ino != before


def test_two_processes_of_a_run(tmp_path: Path) -> None:
    first, second = LabelTable("auto", store(tmp_path)), LabelTable("auto", store(tmp_path))
    assert first.name("/x/train", "Loss") == "Loss"
    assert second.name("/x/train", "Loss") == "Loss"
    assert second.name("/a/worker", "Loss") == "worker/Loss"
    assert first.name("/b/worker", "Loss") == "worker_2/Loss"
    assert second.name("/b/worker", "Loss") == "worker_2/Loss"


def _log(home: Path, number: int, answers: multiprocessing.SimpleQueue[dict[str, str]]) -> None:
    table = LabelTable("auto", store(home))
    for step in range(10):
        table.label(f"/{number}/{step}/train")
        table.label(f"/shared/{step}/train")
    answers.put({log_dir: table.label(log_dir) for log_dir in table.decisions()})


def test_processes_at_the_same_time_never_collide(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    children = [context.Process(target=_log, args=(tmp_path, n, answers), daemon=True) for n in range(4)]
    for child in children:
        child.start()
    decided: dict[str, str] = {}
    for _ in children:
        for log_dir, label in answers.get().items():
            assert decided.setdefault(log_dir, label) == label
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert len(decided) == 50
    assert len(set(decided.values())) == 50


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    monkeypatch.setattr(guard, "_said", {})
    return capfd


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "labels": [], "names": {}}', b"\xff", b'{"format": 9}'],
)
def test_a_damaged_or_newer_file_is_left_alone_and_told_once(
    tmp_path: Path, said: pytest.CaptureFixture[str], content: bytes
) -> None:
    file = tmp_path / "runs" / RUN / "labels.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    table = LabelTable("auto", store(tmp_path))
    assert names(table, ("/x/train", "Loss"), ("/x/val", "Loss")) == ["Loss", "val/Loss"]
    assert file.read_bytes() == content
    (line,) = said.readouterr().err.splitlines()
    assert "labels.json" in line


def test_a_home_that_cannot_be_written_is_told_once(tmp_path: Path, said: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    table = LabelTable("auto", store(tmp_path))
    assert names(table, ("/x/train", "Loss"), ("/x/val", "Loss")) == ["Loss", "val/Loss"]
    assert said.readouterr().err.count("\n") == 1


def test_a_lock_that_is_never_freed_is_waited_for_only_so_long(
    tmp_path: Path, said: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelstore, "_PATIENCE", 0.05)
    folder = tmp_path / "runs" / RUN
    folder.mkdir(parents=True)
    lock = os.open(folder / "labels.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        table = LabelTable("auto", store(tmp_path))
        assert table.name("/x/train", "Loss") == "Loss"
        assert said.readouterr().err.count("\n") == 1
    finally:
        os.close(lock)
    assert table.name("/x/val", "Loss") == "val/Loss"
    # With the lock free again, what had to be decided without the file is in it too.
    assert json.loads((folder / "labels.json").read_text())["labels"] == {"/x/train": "", "/x/val": "val"}


def test_a_call_out_of_the_middle_of_a_change_returns_and_is_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    decided = {"/a": "a"}

    def change(saved: Decisions) -> Decisions:
        if "/b" not in decided:  # a signal handler, say
            decided["/b"] = "b"
            kept.update(lambda _: pytest.fail("the outer call has the file"))
        return Decisions({**saved.labels, **decided}, {})

    def late(saved: Decisions) -> Decisions:
        now = change(saved)
        decided.setdefault("/c", "c")  # one that comes too late for this turn
        return now

    kept.update(late)
    assert kept.load().labels == {"/a": "a", "/b": "b", "/c": "c"}


def test_two_threads_do_not_deadlock(tmp_path: Path) -> None:
    kept = store(tmp_path)
    tables = [LabelTable("auto", kept) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda t=table: [t.label(f"/{n}/train") for n in range(30)], daemon=True)
        for table in tables
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert tables[0].decisions() == tables[1].decisions()
    assert len(set(kept.load().labels.values())) == 30
