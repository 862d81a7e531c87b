"""What is printed is kept, live, in pieces, without secrets; and printing is as it was."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.provenance.support import files, gathered
from tests.support import runs
from tests.support.processes import until
from tests.support.spool_points import records
from tracelet import provenance
from tracelet.core.metrics import Artifact, RunStatus
from tracelet.core.options import Options
from tracelet.provenance import console
from tracelet.provenance.printed import Lines


@contextmanager
def streams(folder: Path) -> Iterator[None]:
    """Streams as Python makes them; nothing of ours is left on them. (No fixture: pytest sets its own between phases.)"""
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
        assert "write" not in vars(out)
        assert "write" not in vars(err)


def log(home: Path) -> str:
    return files(home).get("console/0001.log", "")


def test_what_is_printed_arrives_in_order_and_where_it_was_going(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True):
            print("one")
            print("two", "three", sep="-", file=sys.stderr)
            sys.stdout.writelines(["four\n", "five"])
            assert sys.stdout.write("six\n") == 4
            assert sys.stdout.fileno() > 2
            assert not sys.stdout.isatty()
            assert sys.stdout.encoding.lower().replace("-", "") == "utf8"
            sys.stdout.flush()
            sys.stdout.buffer.write(b"bytes are not seen\n")
        print("after")
        sys.stdout.flush()
        assert log(home) == "one\ntwo-three\nfour\nfivesix\n"
        assert (tmp_path / "out").read_text().startswith("one\nfour\nfivesix\n")
        assert (tmp_path / "out").read_text().endswith("after\n")


def test_it_is_live(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with streams(tmp_path):
        monkeypatch.setattr(console, "_EVERY", 0.01)
        with gathered(home, console=True):
            print("one")
            until(lambda: log(home) == "one\n", 30)
            print("two", end="")
            until(lambda: log(home) == "one\ntwo\n", 30)
        assert log(home) == "one\ntwo\n"
        paths = [record.path for record in records(home) if isinstance(record, Artifact)]
        assert paths == ["console/0001.log"] * 2, "nothing is told again that has not changed"


def test_much_that_is_printed_at_once(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True):
            for number in range(40_000):
                print(number)
        assert log(home) == "".join(f"{number}\n" for number in range(40_000))


def test_more_than_can_wait_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_MOST_WAITING", 100)
    monkeypatch.setattr(console.Console, "start", lambda self: None)
    with streams(tmp_path):
        with gathered(home, console=True):
            for number in range(200):
                sys.stdout.write(f"{number}\n")
        assert log(home) == "".join(f"{number}\n" for number in range(100, 200))
    assert "more is printed than can be kept" in (tmp_path / "err").read_text() + capfd.readouterr().err


def test_logging_handlers_and_whoever_holds_the_stream(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        handler = logging.StreamHandler()
        held = sys.stdout
        with gathered(home, console=True):
            handler.emit(logging.LogRecord("a", logging.INFO, "a.py", 1, "logged", None, None))
            held.write("held\n")
            with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
                print("redirected")
        assert elsewhere.getvalue() == "redirected\n"
        assert log(home) == "logged\nheld\n"


def test_a_progress_bar_is_its_last_state(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        from rich.console import Console as RichConsole
        from tqdm import tqdm

        with gathered(home, console=True):
            for _ in tqdm(range(50), file=sys.stderr, mininterval=0, ncols=60):
                pass
            RichConsole(file=sys.stdout, force_terminal=True).print("[bold red]red[/]")
        bar, red = log(home).splitlines()
        assert bar.startswith("100%|")
        assert "50/50" in bar
        assert red == "red"


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        (["a\nb"], ["a", "b"]),
        (["a", "b\n"], ["ab"]),
        (["a\r\nb\r\n"], ["a", "b"]),
        (["10%\r", "20%", "\r30%\n"], ["30%"]),
        (["\r10%", "\r20%"], ["20%"]),
        (["done\r\n"], ["done"]),
        (["\x1b[31mred\x1b[0m\x1b[K\n", "\x1b]8;;http://a\x07link\x1b]8;;\x07\n"], ["red", "link"]),
        (["  indented\n", "\n"], ["  indented", ""]),
    ],
)
def test_lines_as_a_terminal_leaves_them(printed: list[str], kept: list[str]) -> None:
    lines = Lines()
    whole = [line for text in printed for line in lines.add(text)]
    assert whole + ([lines.rest()] if lines.rest() else []) == kept


def test_a_private_key_that_is_being_printed() -> None:
    lines = Lines()
    assert lines.add("a\n-----BEGIN PRIVATE KEY-----\nMIIE\nabc") == ["a", "REDACTED"]
    assert lines.rest() == ""
    assert lines.add("d\n-----END PRIVATE KEY-----\nb") == []
    assert lines.rest() == "b"


def test_a_line_without_end_takes_no_memory() -> None:
    lines = Lines()
    for number in range(20_000):
        assert lines.add(f"\r{number:>20}") == []
    assert len(lines._open) < 70_000
    assert lines.rest().strip() == "19999"
    assert sum(len(line) for line in lines.add("x" * 200_000)) >= 200_000


def test_secrets_are_hidden(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with streams(tmp_path):
        monkeypatch.setenv("MY_API_KEY", "squirrel-7")
        with gathered(home, console=True):
            print("squirrel-7 hf_" + "aB3" * 10)
            print("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabcd\n-----END RSA PRIVATE KEY-----\nend")
        assert log(home) == "REDACTED REDACTED\nREDACTED\nend\n"


def test_pieces_of_a_mebibyte(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True):
            for number in range(3):
                print("\n".join([f"{number}" * 99] * 7000))
        kept = files(home)
        assert list(kept) == ["console/0001.log", "console/0002.log", "console/0003.log"]
        assert all(len(text) <= 2**20 for text in kept.values())
        assert "".join(kept.values()) == "".join(f"{str(number) * 99}\n" * 7000 for number in range(3))


def test_a_stream_that_fails_fails_as_without_it(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True):
            print("one")
            reader, writer = os.pipe()
            os.close(reader)
            with pytest.raises(BrokenPipeError), os.fdopen(writer, "w", buffering=1) as broken:
                with contextlib.redirect_stdout(broken):
                    print("two")
            with pytest.raises(TypeError):
                sys.stdout.write(1)  # type: ignore[arg-type]
            sys.stderr.close()
            with pytest.raises(ValueError, match="closed file"):
                sys.stderr.write("three")
        assert log(home) == "one\n"


def test_no_streams_and_streams_that_take_no_attributes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with streams(tmp_path):

        class Slotted:
            __slots__ = ()

            def write(self, text: str) -> int:
                return len(text)

        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            patch.setattr(sys, "stderr", Slotted())
            with gathered(home, console=True):
                print("lost", file=sys.stderr)
        assert log(home) == ""
        assert "what is printed to Slotted cannot be kept" in capfd.readouterr().err


def test_another_tool_on_top_stays_and_ours_is_silent(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        seen: list[str] = []
        with gathered(home, console=True):
            ours = sys.stdout.write
            sys.stdout.write = lambda text: (seen.append(text), ours(text))[1]  # type: ignore[method-assign,assignment]
            print("one")
        theirs = vars(sys.stdout)["write"]
        print("two")
        assert seen == ["one", "\n", "two", "\n"]
        assert log(home) == "one\n"
        assert vars(sys.stdout)["write"] is theirs
        del sys.stdout.write


def test_two_runs_at_once_and_one_after_the_other(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True) as first:
            with runs.running(home) as second:
                provenance.begin(second, Options().override(console=True, provenance=False, system_every=0))
                print("both")
            print("first")
        with gathered(home, console=True):
            print("third")
        kept = {record.path: record for record in records(home, second.id) if isinstance(record, Artifact)}
        assert kept["console/0001.log"].content == b"both\n"
        assert [r.content for r in records(home, first.id) if isinstance(r, Artifact)][-1] == b"both\nfirst\n"
        assert log(home) == "third\n"


def test_a_forked_child_prints_nothing_into_it(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True) as run:
            print("parent")
            sys.stdout.flush()
            if (child := os.fork()) == 0:
                print("child")
                run.stop(RunStatus.FINISHED, "", 0.0)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        assert log(home) == "parent\n"


def test_threads(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        with gathered(home, console=True):
            threads = [
                threading.Thread(target=lambda n=n: [print(f"{n}-{i}\n", end="") for i in range(200)]) for n in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(log(home).splitlines()) == sorted(f"{n}-{i}" for n in range(4) for i in range(200))


def test_a_stream_that_is_done_with_is_not_held(home: Path, tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as err, contextlib.redirect_stderr(err):
        out = (tmp_path / "out").open("w")
        with contextlib.redirect_stdout(out), gathered(home, console=True):
            print("one")
    gone = weakref.ref(out)
    del out  # which flushes it
    assert gone() is None
    assert (tmp_path / "out").read_text() == "one\n"


def test_it_is_opt_in(home: Path, tmp_path: Path) -> None:
    with streams(tmp_path):
        args = argparse.Namespace(x=1)
        with gathered(home, provenance=True):
            print("one", args.x)
        assert log(home) == ""
