"""What git is asked of a repository, whatever state that is in, and that asking runs nothing of a configuration's."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.provenance.support import Repository
from tests.support.processes import children_with
from tracelet.provenance import git
from tracelet.provenance.git import GitError, find


def test_a_clean_one(repository: Repository) -> None:
    found = find(str(repository.folder))
    assert (found.commit, found.branch, found.remote, found.bare) == (
        repository.git("rev-parse", "HEAD"),
        "main",
        "",
        False,
    )
    assert found.status() == (False, ())
    assert found.patch(100) == ("", False)


def test_changes_staged_and_not_and_files_that_git_does_not_know(repository: Repository) -> None:
    repository.commit({"a b.py": "1\n", "old.py": "x\n" * 9, "picture.bin": b"\0\1", ".gitignore": "*.log\n"})
    repository.write({"train.py": "lr = 0.2\n", "a b.py": "2\n", "picture.bin": b"\0\2", "new é.py": "", "x.log": ""})
    repository.git("add", "a b.py")
    repository.git("mv", "old.py", "moved.py")
    found = find(str(repository.folder))
    assert found.status() == (True, ("new é.py",))
    patch, cut = found.patch(2**20)
    assert not cut
    assert [line for line in patch.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "-1", "+2", "-lr = 0.1", "+lr = 0.2"
    ]  # fmt: skip
    assert "Binary files a/picture.bin and b/picture.bin differ\n" in patch


def test_a_patch_can_be_applied(repository: Repository) -> None:
    repository.write({"train.py": "lr = 0.2\n\n# ä\n"})
    patch, _ = find(str(repository.folder)).patch(2**20)
    repository.git("stash", "-q")
    repository.write({"changes.patch": patch})
    repository.git("apply", "changes.patch")
    assert (repository.folder / "train.py").read_text() == "lr = 0.2\n\n# ä\n"


def test_from_a_folder_below_it_all_of_it_is_seen(repository: Repository) -> None:
    repository.git("config", "diff.relative", "true")
    repository.git("config", "diff.noprefix", "true")
    repository.write({"train.py": "lr = 0.2\n"})
    (repository.folder / "below").mkdir()
    found = find(str(repository.folder / "below"))
    assert found.status()[0]
    assert "--- a/train.py\n+++ b/train.py\n" in found.patch(2**20)[0]


def test_a_patch_is_cut_at_a_line(repository: Repository) -> None:
    repository.write({"train.py": "x = 1\n" * 100_000})
    patch, cut = find(str(repository.folder)).patch(10_000)
    assert cut
    assert 9_990 < len(patch) <= 10_000
    assert patch.endswith("\n+x = 1\n")


def test_no_commit_yet(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "code", commit=False)
    found = find(str(repository.folder))
    assert (found.commit, found.branch) == ("", "main")
    repository.write({"a.py": "1\n"})
    repository.git("add", "a.py")
    assert found.status() == (True, ())
    assert found.patch(2**20)[0].endswith("+++ b/a.py\n@@ -0,0 +1 @@\n+1\n")


def test_a_detached_head(repository: Repository) -> None:
    repository.git("checkout", "-q", "--detach")
    found = find(str(repository.folder))
    assert (len(found.commit), found.branch) == (40, "")


def test_remotes(repository: Repository) -> None:
    repository.git("remote", "add", "fork", "git@host:fork.git")
    assert find(str(repository.folder)).remote == "git@host:fork.git"
    repository.git("remote", "add", "origin", "https://host/a.git")
    assert find(str(repository.folder)).remote == "https://host/a.git"


def test_a_bare_one_a_work_tree_and_the_folder_git_keeps(repository: Repository, tmp_path: Path) -> None:
    repository.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    found = find(str(tmp_path / "bare.git"))
    assert (found.bare, found.commit) == (True, repository.git("rev-parse", "HEAD"))
    repository.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    assert find(str(tmp_path / "side")).branch == "side"
    with pytest.raises(GitError, match=r"^$"):
        find(str(repository.folder / ".git"))


def test_a_submodule_with_changes_is_a_change(repository: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other")
    repository.git("submodule", "--quiet", "add", str(other.folder), "part")
    repository.git("commit", "-q", "-m", "part")
    found = find(str(repository.folder))
    assert found.status() == (False, ())
    (repository.folder / "part/train.py").write_text("changed\n")
    assert found.status() == (True, ())
    assert f"+Subproject commit {other.git('rev-parse', 'HEAD')}-dirty\n" in found.patch(2**20)[0]


def test_none_and_no_git_is_nothing_to_tell(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GitError, match=r"^$"):
        find(str(tmp_path))
    with pytest.raises(GitError, match=r"^$"):
        find(str(tmp_path / "gone"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match=r"^$"):
        find(str(repository.folder))


def test_where_the_script_reaps_all_children(repository: Repository, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert find(str(repository.folder)).status() == (False, ())
        with pytest.raises(GitError, match=r"^$"):
            find(str(tmp_path))
        (repository.folder / ".git/index").write_bytes(b"odd")
        with pytest.raises(GitError, match=r"fatal: .*index"):
            find(str(repository.folder)).status()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_broken_one_says_why(repository: Repository) -> None:
    (repository.folder / ".git/config").write_text("[core\n")
    with pytest.raises(GitError, match="bad config line 1"):
        find(str(repository.folder))


def test_somebody_elses_says_why(repository: Repository) -> None:
    if os.getuid() != 0:
        pytest.skip("needs another user")
    for folder in (repository.folder, repository.folder / ".git"):
        os.chown(folder, 12345, 12345)
    with pytest.raises(GitError, match="dubious ownership"):
        find(str(repository.folder))


def test_nothing_of_a_configuration_is_run(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/sprung\ncat\n')
    trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
    repository.commit({".gitattributes": "*.py diff=odd filter=odd\n"})
    for name in (
        "core.fsmonitor",
        "core.pager",
        "pager.diff",
        "diff.external",
        "diff.odd.command",
        "diff.odd.textconv",
    ):
        repository.git("config", name, str(trap))
    for name in ("filter.odd.clean", "filter.odd.smudge", "filter.odd.process", "core.sshCommand", "credential.helper"):
        repository.git("config", name, str(trap))
    repository.git("config", "filter.odd.required", "true")
    for name in ("GIT_EXTERNAL_DIFF", "GIT_PAGER", "GIT_ASKPASS", "GIT_SSH_COMMAND"):
        monkeypatch.setenv(name, str(trap))
    hooks = repository.folder / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "post-index-change").symlink_to(trap)
    (tmp_path / "sprung").unlink(missing_ok=True)
    repository.write({"train.py": "lr = 0.3\n"})
    index = (repository.folder / ".git/index").read_bytes()
    found = find(str(repository.folder))
    assert found.status()[0]
    assert "+lr = 0.3\n" in found.patch(2**20)[0]
    assert not (tmp_path / "sprung").exists()
    assert (repository.folder / ".git/index").read_bytes() == index


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin/git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nsleep 4711 & sleep 4711\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git, "_TIMEOUT", 0.2)
    with pytest.raises(GitError, match="did not answer within"):
        find(str(repository.folder))
    left = subprocess.run(["pgrep", "-f", "sleep 4711"], capture_output=True, text=True, check=False).stdout
    assert left == ""
    assert not children_with(os.getpid(), "sleep 4711")
