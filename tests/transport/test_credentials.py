"""Secrets for delivery: which variables, and how they are kept."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from tracelet.transport import credentials

TAKEN = {
    "MLFLOW_TRACKING_TOKEN": "a",
    "MLFLOW_TRACKING_USERNAME": "b",
    "WANDB_API_KEY": "c",
    "CLEARML_API_SECRET_KEY": "d",
    "AWS_SECRET_ACCESS_KEY": "e",
    "GOOGLE_APPLICATION_CREDENTIALS": "f",
    "AZURE_STORAGE_CONNECTION_STRING": "g",
    "DATABRICKS_TOKEN": "h",
    "SSL_CERT_FILE": "i",
    "HTTPS_PROXY": "j",
    "no_proxy": "k",
    "PROXY": "l",
    "REQUESTS_CA_BUNDLE": "m",
}
LEFT = {
    "PATH": "x",
    "PYTHONPATH": "x",
    "LD_PRELOAD": "x",
    "SECRET": "x",
    "MY_MLFLOW_TOKEN": "x",
    "MLFLOW_lower": "x",
    "MLFLOW_RUN_ID": "x",
    "MLFLOW_TRACKING_URI": "http://me:s3cret@host",
    "WANDB_RUN_ID": "x",
}


def test_which_variables_are_taken() -> None:
    assert credentials.collect({**TAKEN, **LEFT}, {"MLFLOW_TRACKING_TOKEN": "given"}) == {
        **TAKEN,
        "MLFLOW_TRACKING_TOKEN": "given",
    }


def test_nothing_to_keep_is_no_entry(home: Path) -> None:
    assert credentials.keep(home, {}) == ""
    assert list(home.iterdir()) == []


def test_an_entry_is_closed_to_others_and_named_by_what_it_holds(home: Path) -> None:
    before = os.umask(0)
    try:
        name = credentials.keep(home, {"B": "2", "A": "ü\n"})
    finally:
        os.umask(before)
    assert credentials.keep(home, {"A": "ü\n", "B": "2"}) == name
    assert credentials.keep(home, {"A": "other"}) != name
    path = home / "credentials" / f"{name}.json"
    assert json.loads(path.read_text()) == {"env": {"A": "ü\n", "B": "2"}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut off", "open to others", "binary", "a link"])
def test_a_damaged_entry_is_made_again(home: Path, damage: str) -> None:
    name = credentials.keep(home, {"A": "1"})
    path = home / "credentials" / f"{name}.json"
    if damage == "cut off":
        path.write_text("")
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe")
    elif damage == "open to others":
        path.chmod(0o644)
    else:
        path.rename(home / "elsewhere")
        path.symlink_to(home / "elsewhere")
        (home / "elsewhere").chmod(0o644)
    assert credentials.keep(home, {"A": "1"}) == name
    assert json.loads(path.read_text()) == {"env": {"A": "1"}}
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600


def test_many_threads_at_once(home: Path) -> None:
    """Trials that start together keep the same secrets at the same moment."""
    failed: list[BaseException] = []
    for attempt in range(20):
        gate = threading.Barrier(6)

        def keep(attempt: int = attempt, gate: threading.Barrier = gate) -> None:
            gate.wait(60)
            try:
                credentials.keep(home, {"A": str(attempt)})
            except OSError as error:
                failed.append(error)

        threads = [threading.Thread(target=keep) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failed == []
    assert len(list((home / "credentials").iterdir())) == 20


def test_no_room(home: Path) -> None:
    (home / "credentials").write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        credentials.keep(home, {"A": "1"})
