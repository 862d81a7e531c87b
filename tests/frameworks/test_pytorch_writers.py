"""Several writers in a run: what their metrics are called, across calls, processes and resumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from tests.support import runs
from tests.support.spool_points import points, records_of
from tracelet.core.metrics import WriterSeen


def names(home: Path) -> list[str]:
    return [p.name for p in points(home)]


def labels(home: Path) -> dict[str, str]:
    return {Path(seen.log_dir).name: seen.label for seen in records_of(WriterSeen, home)}


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], SummaryWriter]:
    return lambda name: SummaryWriter(str(tmp_path / "runs" / name))


def test_two_writers_made_before_the_first_point_both_carry_labels(
    home: Path, made: Callable[[str], SummaryWriter]
) -> None:
    with runs.running(home):
        train, val = made("train"), made("validation")
        train.add_scalar("Loss", 1.0, 1)
        val.add_scalar("Loss", 2.0, 1)
    assert names(home) == ["train/Loss", "validation/Loss"]
    assert labels(home) == {"train": "train", "validation": "validation"}
    assert [p.tag for p in points(home)] == ["Loss", "Loss"]


def test_a_writer_that_comes_later_carries_a_label_and_the_first_none(
    home: Path, made: Callable[[str], SummaryWriter]
) -> None:
    with runs.running(home):
        made("train").add_scalar("Loss", 1.0, 1)
        made("validation").add_scalar("Loss", 2.0, 1)
        made("train").add_scalar("Loss", 3.0, 2)
    assert names(home) == ["Loss", "validation/Loss", "Loss"]
    assert labels(home) == {"train": "", "validation": "validation"}


def test_writers_from_before_the_start_count_when_they_write(home: Path, made: Callable[[str], SummaryWriter]) -> None:
    train, val = made("train"), made("validation")
    with runs.running(home):
        train.add_scalar("Loss", 1.0, 1)
        val.add_scalar("Loss", 2.0, 1)
    assert names(home) == ["Loss", "validation/Loss"]


def test_generated_parts_and_equal_labels(home: Path, tmp_path: Path) -> None:
    with runs.running(home):
        writers = [SummaryWriter(str(tmp_path / name / "version_0")) for name in ("a", "b")]
        writers += [SummaryWriter(str(tmp_path / "other" / "b" / "2"))]
        for writer in writers:
            writer.add_scalar("Loss", 1.0, 1)
    assert names(home) == ["a/Loss", "b/Loss", "b_2/Loss"]


def test_default_folders(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with runs.running(home):
        SummaryWriter().add_scalar("Loss", 1.0, 1)
        SummaryWriter(comment="_second").add_scalar("Loss", 2.0, 1)
    assert names(home) == ["Loss", "runs/Loss"]


def test_one_folder_written_in_several_ways_is_one_writer(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with runs.running(home):
        relative = SummaryWriter("tb")
        relative.add_scalar("a", 1.0, 1)
        SummaryWriter(log_dir=tmp_path / "tb").add_scalar("a", 1.0, 2)  # type: ignore[arg-type]
        SummaryWriter(str(tmp_path / "x" / ".." / "tb") + "/").add_scalar("a", 1.0, 3)
        relative.close()  # its thread may not have written yet
        monkeypatch.chdir("/")
        SummaryWriter(str(tmp_path / "tb")).add_scalar("a", 1.0, 4)
    assert names(home) == ["a"] * 4
    assert {p.log_dir for p in points(home)} == {str(tmp_path / "tb")}


@pytest.mark.parametrize(("policy", "expected"), [("always", ["train/Loss"] * 2), ("never", ["Loss"] * 2)])
def test_policies(home: Path, made: Callable[[str], SummaryWriter], policy: str, expected: list[str]) -> None:
    with runs.running(home, writer_prefix=policy):
        made("train").add_scalar("Loss", 1.0, 1)
        made("train").add_scalar("Loss", 1.0, 2)
    assert names(home) == expected


def test_no_two_writers_share_a_name(home: Path, made: Callable[[str], SummaryWriter]) -> None:
    with runs.running(home) as run:
        first = made("first")
        first.add_scalar("train/Loss", 1.0, 1)
        made("train").add_scalar("Loss", 2.0, 1)
        run.log_metric("train/Loss", 3.0, 1)
        first.add_scalar("train/Loss", 4.0, 2)
    got = names(home)
    assert got[0] == got[3] == "train/Loss"
    assert len(set(got)) == 3
    assert all(name.startswith("train/Loss~") for name in got[1:3])


def test_a_resumed_run_finds_its_names_again(home: Path, made: Callable[[str], SummaryWriter]) -> None:
    with runs.running(home) as run:
        made("first").add_scalar("train/Loss", 1.0, 1)
        made("train").add_scalar("Loss", 2.0, 1)
        made("val").add_scalar("Loss", 3.0, 1)
    before = names(home)
    with runs.running(home, run_id=run.id):
        made("val").add_scalar("Loss", 3.0, 2)
        made("train").add_scalar("Loss", 2.0, 2)
        made("first").add_scalar("train/Loss", 1.0, 2)
    assert names(home)[3:] == before[::-1]


def test_a_forked_child_with_another_folder_and_with_the_same(home: Path, made: Callable[[str], SummaryWriter]) -> None:
    with runs.running(home / "earlier") as earlier:
        made("train").add_scalar("Loss", 0.5, 0)
    assert not earlier.active  # it is over, and somebody still holds it: the fork must not mind
    with runs.running(home):
        made("train").add_scalar("Loss", 1.0, 1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                made("train").add_scalar("Loss", 1.0, 2)
                made("worker").add_scalar("Loss", 2.0, 1)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        made("other").add_scalar("Loss", 3.0, 1)
    assert sorted(names(home)) == ["Loss", "Loss", "other/Loss", "worker/Loss"]
    assert labels(home) == {"train": "", "worker": "worker", "other": "other"}
