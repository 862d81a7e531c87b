"""Paths of a run's files: taken as they are where that can be, changed in one way where it cannot, never two for one place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tracelet_collector.exporters.artifact_paths import MAX_PART, Owner, Shelf, clean_path, folder_of, within


class Kept:
    """A memory."""

    def __init__(self) -> None:
        self.entries: dict[int, int] = {}

    def recall(self, keys: Sequence[int]) -> Mapping[int, int]:
        return {key: self.entries[key] for key in keys if key in self.entries}

    def working(self, seconds: float) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    "path", ["a", "model/weights.pt", "päö 日本/x.txt", ".hidden", "a b", "time 12:30.log", "a=b,c[0]"]
)
def test_what_is_fine_stays(path: str) -> None:
    assert clean_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["50%.txt", "a#b", "what?.txt", "%2e%2e/passwd", "c:/x", "file:x", ".artifact.uploading.x", "x" * 300,
     "語" * 300 + ".tar.gz", "/".join(["日本語日本語"] * 140)],
)  # fmt: skip
def test_what_is_not_is_changed_for_good(path: str, tmp_path: Path) -> None:
    clean = clean_path(path)
    assert clean == clean_path(path) != path
    assert clean_path(clean) == clean
    assert Path(clean).suffix == Path(path).suffix or len(Path(path).suffix) > 20
    assert all(len(os.fsencode(part)) <= 255 for part in clean.split("/"))
    (tmp_path / clean).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / clean).touch()


def test_two_that_look_alike_stay_two() -> None:
    paths = ["a#b.txt", "a%b.txt", "a?b.txt", "a_b.txt", "x" * 300 + "1.bin", "x" * 300 + "2.bin"]
    assert len({clean_path(path) for path in paths}) == len(paths)


def test_folders_of_keys() -> None:
    assert folder_of("train/sample") == "train/sample"
    keys = ["step_1.md", "_step_1.md", "__step_1.md", "a/step_1", "a/_step_1", "日" * 200, "日" * 201]
    folders = [folder_of(key) for key in keys]
    assert len(set(folders)) == len(keys)
    assert all(
        len(part.encode()) <= MAX_PART and not part.startswith("step_") for f in folders for part in f.split("/")
    )


def test_within() -> None:
    assert within("abc.txt", 7) == "abc.txt"
    long = within("x" * 400 + ".txt", 100)
    assert (len(long), long.endswith(".txt")) == (100, True)


class TestShelf:
    def claim(self, memory: Kept, *paths: tuple[str, Owner]) -> list[str]:
        """Claim, and commit."""
        shelf = Shelf(memory, b"run")
        found = [shelf.claim(path, owner) for path, owner in paths]
        memory.entries |= shelf.stamps
        return found

    def test_free_paths_are_given(self) -> None:
        memory = Kept()
        paths = [("a", Owner.FILE), ("b/c", Owner.FILE), ("b/d", Owner.FILE), ("texts/x/step_1.md", Owner.MEDIA)]
        assert self.claim(memory, *paths) == [path for path, _ in paths]
        assert self.claim(memory, *paths) == [path for path, _ in paths]

    def test_a_file_where_a_folder_is(self) -> None:
        memory = Kept()
        assert self.claim(memory, ("a/b", Owner.FILE)) == ["a/b"]
        (other,) = self.claim(memory, ("a", Owner.FILE))
        assert other.startswith("a-")
        assert self.claim(memory, ("a", Owner.FILE), ("a/b", Owner.FILE)) == [other, "a/b"]

    def test_folders_where_a_file_is(self) -> None:
        memory = Kept()
        found = self.claim(memory, ("a", Owner.FILE), ("a/b", Owner.FILE), ("a/c/d", Owner.FILE))
        assert found[0] == "a"
        folder = found[1].partition("/")[0]
        assert folder.startswith("a-")
        assert found[1:] == [f"{folder}/b", f"{folder}/c/d"]
        assert self.claim(memory, ("a/b", Owner.FILE)) == [found[1]]

    def test_the_users_file_does_not_take_the_place_of_media(self) -> None:
        memory = Kept()
        assert self.claim(memory, ("texts/x/step_1.md", Owner.MEDIA)) == ["texts/x/step_1.md"]
        (other,) = self.claim(memory, ("texts/x/step_1.md", Owner.FILE))
        assert other.startswith("texts/x/step_1-")
        assert other.endswith(".md")

    def test_the_same_claims_from_the_same_memory(self) -> None:
        memory = Kept()
        self.claim(memory, ("a", Owner.FILE))
        claims = [("a/b", Owner.FILE), ("b", Owner.FILE), ("b/c", Owner.MEDIA)]
        before = Kept()
        before.entries = dict(memory.entries)
        assert self.claim(memory, *claims) == self.claim(before, *claims)

    def test_runs_do_not_share(self) -> None:
        memory = Kept()
        for mark in (b"one", b"two"):
            shelf = Shelf(memory, mark)
            assert shelf.claim("a" if mark == b"one" else "a/b", Owner.FILE).startswith("a")
            memory.entries |= shelf.stamps
        shelf = Shelf(memory, b"two")
        assert shelf.claim("a/b", Owner.FILE) == "a/b"
