"""What the run was, as it arrives: tags and artifacts, once, also of a run that is over at once; and what never arrives."""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.provenance.support import Repository, files, gathered, here, params, said, tags
from tests.support import runs
from tests.support.spool_points import points, records, records_of
from tracelet import provenance
from tracelet.core import active
from tracelet.core.metrics import Artifact, Params, RunStatus, Tags
from tracelet.core.options import Options
from tracelet.launch.command import understand
from tracelet.provenance import facts, gathering, git


@pytest.fixture(autouse=True)
def _command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a script that is no file."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "train.py", "--lr", "0.1"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)


def test_tags_and_files_of_a_run_that_is_over_at_once(home: Path, repository: Repository) -> None:
    repository.git("remote", "add", "origin", "https://me:pw@host/a.git")
    repository.write({"train.py": "lr = 0.2\n", "notes.txt": ""})
    with here(repository.folder), gathered(home):
        pass
    told = tags(home)
    assert told.pop("cpu").startswith(f"{os.cpu_count()} x ")
    assert platform.release() in told.pop("os")
    told.pop("user.name", None)
    told.pop("gpu", None)
    assert told == {
        "command": "python3 train.py --lr 0.1",
        "git.branch": "main",
        "git.commit": repository.git("rev-parse", "HEAD"),
        "git.dirty": "true",
        "git.repository": "https://REDACTED@host/a.git",
        "host.name": socket.gethostname(),
        "python.version": platform.python_version(),
    }
    kept = files(home)
    assert list(kept) == [
        f"provenance/{name}"
        for name in ("environment.json", "packages.txt", "untracked.txt", "changes.patch", "command.json")
    ]
    assert kept["provenance/untracked.txt"] == "notes.txt\n"
    assert "-lr = 0.1\n+lr = 0.2\n" in kept["provenance/changes.patch"]
    command = json.loads(kept["provenance/command.json"])
    assert command["arguments"] == ["python3", "train.py", "--lr", "0.1"]
    assert (command["directory"], command["executable"]) == (str(repository.folder), sys.executable)


def test_the_script_of_launchers_and_programs_is_the_file_that_they_were_given(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = sys.modules["__main__"]
    with here(repository.folder):
        monkeypatch.setattr(main, "__file__", "train.py")
        assert (facts.script(), facts.script_path()) == ("train.py", str(repository.folder / "train.py"))
        monkeypatch.setattr(sys, "argv", ["/opt/torchrun", "--nproc-per-node", "2", "train.py", "--lr", "1"])
        monkeypatch.setattr(main, "__file__", f"{sys.prefix}/bin/torchrun")
        assert facts.script() == "train.py"
        monkeypatch.setattr(sys, "argv", ["/opt/torchrun", "-m", "train"])
        assert facts.script() == ""
        monkeypatch.setattr(facts, "_command", ["sh", "-c", "python train.py --api-key k"])
        assert facts.script() == ""
        assert facts.command_line() == ["sh", "-c", "python train.py --api-key REDACTED"]
        monkeypatch.setattr(facts, "_command", ["python", "train.py"])
        assert facts.script() == "train.py"
    monkeypatch.setattr(facts, "_command", [])
    monkeypatch.setattr(main, "__file__", "/elsewhere/train.py")
    assert facts.script() == "/elsewhere/train.py"


def test_the_script_of_a_run_that_ends_as_the_interpreter_does(
    home: Path, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_SOON", 60.0)
    with here(tmp_path):
        monkeypatch.setattr(sys.modules["__main__"], "__file__", str(repository.folder / "train.py"))
        with gathered(home):
            monkeypatch.delattr(sys.modules["__main__"], "__file__")  # so does Python
    assert (tags(home)["script"], tags(home)["git.branch"]) == ("code/train.py", "main")


def test_the_default_name_of_a_run_has_no_arguments() -> None:
    for words in (["-c", "login('k')"], ["sh", "-c", "echo k"], [sys.executable, "-c", "k"]):
        assert understand(words).title in (Path(sys.executable).stem, "sh", Path(sys.executable).resolve().stem)


def test_packages_are_those_of_importlib(home: Path) -> None:
    with gathered(home):
        pass
    lines = files(home)["provenance/packages.txt"].splitlines()
    expected = {each.metadata["Name"].lower(): each.version for each in reversed(list(metadata.distributions()))}
    found = dict(line.lower().split("==") for line in lines)
    assert found == {name: version.lower() for name, version in expected.items()}
    assert f"torch=={metadata.version('torch')}" in lines
    assert [line.partition("==")[0].lower().replace("_", "-").replace(".", "-") for line in lines] == sorted(
        line.partition("==")[0].lower().replace("_", "-").replace(".", "-") for line in lines
    )


def test_the_environment_is_what_the_list_and_the_setting_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "MY_A": "https://a:b@h/",
        "MY_TOKEN": "s3cret-1",
        "OTHER": "o",
        "NCCL_X": "1",
    }
    for name, value in given_.items():
        monkeypatch.setenv(name, value)
    for name in set(facts.ENVIRONMENT) - set(given_):
        monkeypatch.delenv(name, raising=False)
    with gathered(home, environment=["MY_*", "NCCL_X", "MY_TOKEN"], provenance=True):
        pass
    told = json.loads(files(home)["provenance/environment.json"])
    assert told == {"CUDA_VISIBLE_DEVICES": "0,1", "MY_A": "https://REDACTED@h/", "NCCL_X": "1"}
    assert "s3cret-1" not in said(home)


def test_what_the_script_says_goes_before_and_is_not_doubled(home: Path) -> None:
    args = argparse.Namespace(lr=0.1, layers=[1, 2], name=None)
    with gathered(home) as run:
        run.log_params({"lr": 0.5})
        run.set_tags({"cpu": "mine"})
        assert args.layers
    assert params(home) == {"lr": 0.5, "layers": "[1, 2]", "name": "None"}
    assert tags(home)["cpu"] == "mine"


def test_a_secret_that_only_a_late_parser_knows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    monkeypatch.setattr(git, "find", lambda folder: asked.set() or None)
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "-k", "squirrel-7"])
    monkeypatch.setattr(sys, "argv", ["train.py", "-k", "squirrel-7"])
    with gathered(home):
        assert asked.wait(30)
        parser = argparse.ArgumentParser()
        parser.add_argument("-k", "--api-key")
        with monkeypatch.context() as patch:
            patch.setattr("tracelet.provenance.arguments._is_anothers", lambda frame: False)
            parser.parse_args()
    assert tags(home)["command"] == "python train.py -k REDACTED"
    assert "squirrel-7" not in said(home)


def test_a_nested_run_has_the_tags_and_its_own_parameters(
    home: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = git._git
    monkeypatch.setattr(git, "_git", lambda folder, words, *most: asked.extend(words) or ask(folder, words, *most))
    repository.write({"train.py": "lr = 0.2\n"})
    options = Options(system_every=60)
    nested: list[str] = []
    with here(repository.folder), runs.running(home) as outer:
        active.begin(outer, options=options)
        provenance.begin(outer, options)
        for number in range(3):
            args = argparse.Namespace(number=number)
            with runs.running(home) as inner:
                active.begin(inner, outer, options)
                provenance.begin(inner, options)
                nested.append(inner.id)
                assert args.number == number
    assert asked.count("status") <= 2, "an inner one may have come before the outer one, and has told the others"
    told = merged(home, outer.id)
    assert {"host.name", "command", "git.commit", "git.dirty"} <= told.keys()
    for number, run_id in enumerate(nested):
        assert merged(home, run_id) == told
        assert [record.values for record in records_of(Params, home, run_id)] == [{"number": number}]
        assert records_of(Artifact, home, run_id) == points(home, run_id) == []
    assert {"provenance/changes.patch", "provenance/command.json"} <= files(home).keys()
    assert "system/memory_percent" in {point.name for point in points(home, outer.id)}


def test_a_run_below_a_process_that_records_asks_for_its_tags(home: Path, repository: Repository) -> None:
    with here(repository.folder), runs.running(home) as run:
        provenance.begin(run, Options(system_every=60), below=True)
    assert tags(home)["git.dirty"] == "false"
    assert files(home) == {}
    assert points(home) == []


def merged(home: Path, run_id: str) -> dict[str, str]:
    """The tags of a run."""
    return {name: value for record in records_of(Tags, home, run_id) for name, value in record.values.items()}


def test_tags_of_the_start_go_before(home: Path) -> None:
    with runs.running(home) as run:
        object.__setattr__(run.plan, "tags", {"cpu": "mine"})
        provenance.begin(run, Options(system_every=0))
    assert "cpu" not in tags(home)


def test_parameters_come_by_themselves_after_a_while(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_HOLD", 0.01)
    arrived = threading.Event()
    args = argparse.Namespace(lr=0.1)
    with gathered(home) as run:
        found = run.found_params
        run.found_params = lambda values: (found(values), arrived.set())  # type: ignore[method-assign,assignment]
        assert arrived.wait(30)
        assert params(home) == {"lr": args.lr}
    assert params(home) == {"lr": 0.1}


def test_what_takes_too_long_is_said_and_the_run_ends_with_the_rest(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun, over = threading.Event(), threading.Event()

    def slow(folder: str) -> git.Repository:
        begun.set()
        over.wait(60)
        raise git.GitError("too late")

    monkeypatch.setattr(git, "find", slow)
    monkeypatch.setattr("tracelet.provenance.beginning._AT_END", 0.1)
    args = argparse.Namespace(lr=0.1)
    with gathered(home) as run:
        assert begun.wait(30)
    over.set()
    assert params(home) == vars(args)
    assert "host.name" in tags(home)
    assert "packages.txt" in " ".join(files(home))
    assert not any("git" in name for name in tags(home))
    assert f"run {run.name}: it ends without its git commit and changes" in capfd.readouterr().err


def test_a_git_that_fails_is_said_in_a_line(
    home: Path, repository: Repository, capfd: pytest.CaptureFixture[str]
) -> None:
    (repository.folder / ".git/config").write_text("[core\n")
    with here(repository.folder), gathered(home):
        pass
    (line,) = capfd.readouterr().err.splitlines()
    assert "the state of its code is not recorded: fatal: bad config line 1" in line
    assert "host.name" in tags(home)


def test_a_working_directory_that_is_gone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    with here(tmp_path / "gone"):
        (tmp_path / "gone").rmdir()
        with gathered(home):
            pass
    assert json.loads(files(home)["provenance/command.json"])["directory"] == ""


def test_a_script_that_deletes_its_command_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "argv")
    monkeypatch.setattr(sys, "orig_argv", None)
    with gathered(home):
        pass
    assert (tags(home)["command"], tags(home)["host.name"]) == (sys.executable.split("/")[-1], socket.gethostname())


def test_a_patch_that_is_too_long_is_cut_and_said(
    home: Path, repository: Repository, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelet.provenance.parts._MOST_PATCH", 2**20)
    repository.write({"train.py": "x = 1\n" * 200_000})
    with here(repository.folder), gathered(home):
        pass
    patch = files(home)["provenance/changes.patch"]
    assert patch.endswith("+x = 1\n\\ cut here: there is more of it\n")
    assert 2**20 - 100 < len(patch) < 2**20 + 100
    assert "more than 1 MiB" in capfd.readouterr().err


def test_only_the_process_that_began_the_run(home: Path) -> None:
    with runs.running(home) as run:
        provenance.begin(run, Options(system_every=0))
        args = argparse.Namespace(lr=0.1)
        if (child := os.fork()) == 0:
            run.log_metric("child", float(args.lr), 0)
            run.stop(RunStatus.FINISHED, "", 0.0)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    hosts = [record for record in records_of(Tags, home) if "host.name" in record.values]
    assert len(hosts) == 1


def test_switched_off_nothing_is_begun(home: Path) -> None:
    threads = threading.enumerate()
    with gathered(home, provenance=False):
        assert threading.enumerate() == threads
    assert records(home)[:-1] == []


SECRETS = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789_-.", min_size=10, max_size=40).filter(
    lambda text: any(letter.isdigit() for letter in text) and text[0].isalnum() and text[-1].isalnum()
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=SECRETS, place=st.sampled_from(["option", "option=", "hydra", "header", "url"]))
def test_a_secret_that_is_planted_anywhere_is_nowhere_in_what_is_kept(
    secret: str, place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("planted")
        patch.setattr("tracelet.provenance.secrets._known", {})
        repository = Repository(folder / "code")
        repository.git("remote", "add", "origin", f"https://me:{secret}@host/a.git")
        repository.write({"train.py": f"lr = 1\nAPI_KEY = '{secret}'\n", ".env": f"TOKEN={secret}\n"})
        repository.git("add", ".env")
        words = {
            "option": ["--api-key", secret],
            "option=": [f"--password={secret}"],
            "hydra": [f"+model.auth_token={secret}"],
            "header": ["-H", f"Authorization: Bearer {secret}"],
            "url": [f"--store=https://me:{secret}@host/db"],
        }[place]
        patch.setattr(sys, "orig_argv", ["python", "train.py", *words])
        patch.setenv("MY_SECRET", secret)
        patch.setenv("MY_URL", f"https://host/?token={secret}")
        args = argparse.Namespace(password=secret, store=f"https://me:{secret}@host/", note=f"it is {secret}")
        with (
            here(repository.folder),
            gathered(folder / "home", provenance=True, console=True, environment=["MY_*"]) as run,
        ):
            print(f"the key is {secret}")
            assert args.password
            run.log_metric("a", 1.0, 0)
        everything = said(folder / "home")
        assert secret not in everything
        assert "the key is REDACTED" in everything
        assert {word for word in ("changes.patch", "MY_URL", "git.repository") if word not in everything} == set()
