"""Where runs go in W&B: what wandb itself would choose, absolute and without the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tracelet.core import targets
from tracelet.core.links import Link
from tracelet.core.target_wandb import check, resolve
from tracelet.errors import ConfigurationError

CLOUD = "https://api.wandb.ai"
KEY = "k" * 40


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, and a home without settings."""
    import os

    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC", "TRACELET_RUN_DIR"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "variables", "target"),
    [
        (None, {}, CLOUD),
        (None, {"WANDB_ENTITY": "team"}, f"{CLOUD}/team"),
        (None, {"WANDB_BASE_URL": "http://host:8080/"}, "http://host:8080"),
        (None, {"WANDB_BASE_URL": "http://host:8080", "WANDB_ENTITY": "a b"}, "http://host:8080/a%20b"),
        (None, {"WANDB_BASE_URL": "https://host/wandb/"}, "https://host/wandb/"),
        (None, {"WANDB_BASE_URL": "https://host/wandb/", "WANDB_ENTITY": "team"}, "https://host/wandb/team"),
        (f"{CLOUD}/mine", {"WANDB_ENTITY": "team"}, f"{CLOUD}/mine"),
        ("http://host", {"WANDB_ENTITY": "team", "WANDB_MODE": "offline"}, "http://host/team"),
        (None, {"WANDB_MODE": "offline"}, "offline:{here}"),
        (None, {"WANDB_MODE": "dryrun", "WANDB_DIR": "/abs/dir"}, "offline:/abs/dir"),
        (None, {"WANDB_MODE": "offline", "WANDB_DIR": "below"}, "offline:{here}/below"),
        (None, {"WANDB_MODE": "offline", "TRACELET_RUN_DIR": "/launched"}, "offline:/launched"),
        (None, {"WANDB_MODE": "online"}, CLOUD),
        ("offline", {}, "offline:{here}"),
        ("offline:/abs/dir", {"WANDB_DIR": "/other"}, "offline:/abs/dir"),
        ("offline:below/../x", {}, "offline:{here}/x"),
    ],
)
def test_the_target(
    folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, variables: dict[str, str], target: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert resolve(asked)[0] == target.replace("{here}", str(folder))


@pytest.mark.parametrize(
    ("variables", "asked", "says"),
    [
        ({"WANDB_MODE": "disabled"}, None, "switches W&B off"),
        ({"WANDB_MODE": "sometimes"}, None, "sometimes"),
        ({}, "ftp://host", "no address"),
        ({}, "host:8080", "no address"),
        ({}, "https://wandb.ai/team", "not its server"),
        ({}, "https://app.wandb.ai", "not its server"),
        ({}, f"https://api:{KEY}@host", "holds a key"),
    ],
)
def test_what_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], asked: str | None, says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=says) as error:
        check(asked)
    assert KEY not in str(error.value)


def test_settings_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the folder goes before that of the user, a variable before both."""
    config = folder / "user/.config/wandb/settings"
    config.parent.mkdir(parents=True)
    config.write_text("[default]\nbase_url = https://host\nentity = team\n")
    assert resolve(None)[0] == "https://host/team"
    (folder / "wandb").mkdir()
    (folder / "wandb/settings").write_text("[default]\nentity = mine\nmode = offline\n")
    assert resolve(None)[0] == f"offline:{folder}"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert resolve(None)[0] == "https://host/mine"
    (folder / "wandb/settings").write_text("no settings\0")
    assert resolve(None)[0] == "https://host/team"


@pytest.mark.parametrize("machine", ["api.wandb.ai", "api.forge.coreweave.com"])
def test_the_key_of_the_netrc(folder: Path, home: Path, machine: str) -> None:
    """It goes to the credentials, and nowhere else."""
    (folder / "user/.netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    (folder / "user/.netrc").chmod(0o600)
    (backend,) = targets.resolve(["wandb"], home)
    assert backend.target == CLOUD
    stored = home / "credentials" / f"{backend.credentials}.json"
    assert json.loads(stored.read_text())["env"]["WANDB_API_KEY"] == KEY
    assert stored.stat().st_mode & 0o777 == 0o600


def test_the_keys_order(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "user/.netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    monkeypatch.setenv("WANDB_API_KEY", "of-the-environment")
    assert resolve(None)[1] == {"WANDB_API_KEY": "of-the-environment"}
    (backend,) = targets.resolve(["wandb"], home, api_key="given")
    kept = json.loads((home / "credentials" / f"{backend.credentials}.json").read_text())["env"]
    assert kept["WANDB_API_KEY"] == "given"


def test_no_key_is_said_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"wandb login.*WANDB_API_KEY.*api_key.*WANDB_MODE=offline"):
        targets.resolve(["wandb"], home)
    assert targets.resolve(["wandb"], home, api_key="given")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert targets.resolve(["wandb"], home)


def test_variables_of_one_run_make_no_worker_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (before,) = targets.resolve(["wandb"], home)
    for name in ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_SWEEP_ID", "WANDB_SERVICE", "WANDB_TAGS", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "of this one")
    (after,) = targets.resolve(["wandb"], home)
    assert after == before


@pytest.mark.parametrize(
    ("said", "shown", "attributes"),
    [
        (
            "https://wandb.ai/team/p/runs/r-1",
            "https://wandb.ai/team/p/runs/r-1",
            {"url": "https://wandb.ai/team/p/runs/r-1", "run": "r-1"},
        ),
        (
            "offline:/a b/wandb/offline-run-20260101_000000-r-1",
            "wandb sync '/a b/wandb/offline-run-20260101_000000-r-1'",
            {"url": None, "run": "r-1"},
        ),
    ],
)
def test_links(said: str, shown: str, attributes: dict[str, Any]) -> None:
    link = Link.read("wandb", said)
    assert str(link) == shown
    assert {name: getattr(link, name) for name in attributes} == attributes
