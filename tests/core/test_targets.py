"""Where a run is delivered to: what MLflow itself would choose, absolute and without secrets."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tracelet.core import target_mlflow, targets
from tracelet.errors import BackendNotInstalledError, ConfigurationError, UnknownBackendError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; MLFLOW_TRACKING_URI is not set."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        (None, "sqlite:///{here}/mlflow.db"),
        ("", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a.db", "sqlite:///{here}/a.db"),
        ("sqlite:///b/../a.db", "sqlite:///{here}/b/../a.db"),
        ("sqlite:////abs/a.db", "sqlite:////abs/a.db"),
        ("sqlite:///a.db?timeout=5", "sqlite:///{here}/a.db?timeout=5"),
        ("sqlite+pysqlite:///a.db", "sqlite+pysqlite:///{here}/a.db"),
        ("sqlite:///Größe µ/a b.db", "sqlite:///{here}/Größe µ/a b.db"),
        ("http://host:5000", "http://host:5000"),
        ("https://host/path?x=1", "https://host/path?x=1"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
    ],
)
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_the_address(folder: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, target: str, by: str) -> None:
    if by == "variable" and asked is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", asked)
        asked = None
    assert target_mlflow.mlflow_target(asked) == target.replace("{here}", str(folder))


def test_an_argument_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert target_mlflow.mlflow_target("http://host") == "http://host"


def test_all_processes_of_a_launched_run_go_to_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_RUN_DIR", "/where/it/was/launched")
    assert target_mlflow.mlflow_target(None) == "sqlite:////where/it/was/launched/mlflow.db"


def test_it_is_what_mlflow_itself_would_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow.set_tracking_uri` in the script counts, too."""
    import mlflow

    before = mlflow.get_tracking_uri()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://before")
        mlflow.set_tracking_uri("http://host:5000")
        assert target_mlflow.mlflow_target(None) == "http://host:5000"
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_makes_no_sense(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="give a file"):
        target_mlflow.mlflow_target(uri)


def test_mlflow_skinny_has_no_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sqlalchemy" else find(name))
    monkeypatch.delitem(sys.modules, "sqlalchemy", raising=False)
    with pytest.raises(BackendNotInstalledError, match=r"tracelet\[mlflow\]"):
        target_mlflow.mlflow_target("sqlite:///mlflow.db")
    assert target_mlflow.mlflow_target("http://host") == "http://host"


def test_unknown_and_missing_ones(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownBackendError, match="'mlfow'; choose from: mlflow"):
        targets.resolve(["mlfow"], home)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BackendNotInstalledError) as error:
        targets.resolve(["mlflow"], home)
    assert (error.value.backend, error.value.interpreter) == ("mlflow", sys.executable)
    assert isinstance(error.value, ImportError)


def test_an_address_for_each_of_several(home: Path, folder: Path) -> None:
    addresses = {"mlflow": "http://host:5000", "wandb": f"offline:{folder}/w", "clearml": "http://elsewhere:8008"}
    found = targets.resolve(["mlflow", "wandb", "tensorboard"], home, addresses | {"tensorboard": folder / "tb"})
    assert [backend.target for backend in found] == [
        "http://host:5000",
        f"offline:{folder}/w",
        (folder / "tb").as_uri(),
    ]
    with pytest.raises(UnknownBackendError, match="'wnadb'"):
        targets.resolve(["mlflow", "wandb"], home, {"wnadb": "offline"})
    for given in ({"mlflow": 3}, ["http://host"], 3):
        with pytest.raises(ConfigurationError, match=r"backend_url=.*give an address"):
            targets.resolve(["mlflow"], home, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("arguments", "says"), [({"api_key": "x"}, "dict"), ({"backend_url": "http://x"}, "variable")])
def test_one_for_several(home: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], says: str) -> None:
    mlflow = targets.TRACKERS["mlflow"]
    monkeypatch.setattr(targets, "TRACKERS", {"mlflow": mlflow, "other": dataclasses.replace(mlflow, module="json")})
    monkeypatch.setattr(targets, "KNOWN", ("mlflow", "other"))
    with pytest.raises(ConfigurationError, match=says):
        targets.resolve(["mlflow", "other"], home, **arguments)


@pytest.mark.parametrize("asked", ["mlruns", "./mlruns", "/abs/mlruns", "file:///abs/ml%20runs", "file:mlruns"])
def test_a_file_store_is_refused_with_what_to_do(home: Path, folder: Path, asked: str) -> None:
    with pytest.raises(ConfigurationError, match=r"MLflow's file store.* MLFLOW_TRACKING_URI=sqlite:///") as error:
        targets.resolve(["mlflow"], home, asked)
    if asked.startswith("file:///"):
        assert "--source '/abs/ml runs' --target sqlite:////abs/mlflow.db" in str(error.value)
    with pytest.raises(ConfigurationError):
        targets.resolve(["mlflow", "mlflow"], home, folder / "mlruns")  # type: ignore[arg-type]
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:p%40s%2Fs@host:5432/db?sslmode=require",
        "mysql+pymysql://me:plain@host/db",
        "postgresql+psycopg2://:only@host/db",
    ],
)
def test_a_databases_password_goes_by_the_credentials(home: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """What the client takes out of an address, the exporter puts back."""
    from tracelet_collector.exporters.mlflow_target import with_password

    (target,) = targets.resolve(["mlflow"], home, uri)
    kept = json.loads((home / "credentials" / f"{target.credentials}.json").read_text())["env"]
    assert kept["MLFLOW_STORE_PASSWORD"] not in target.target
    monkeypatch.setenv("MLFLOW_STORE_PASSWORD", kept["MLFLOW_STORE_PASSWORD"])
    assert with_password(target.target) == uri
    assert with_password("http://host:5000") == "http://host:5000"
    monkeypatch.delenv("MLFLOW_STORE_PASSWORD")
    assert with_password(target.target) == target.target
