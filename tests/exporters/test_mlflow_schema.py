"""MLflow stores of another version: left as they are, with the line that helps, and used as soon as somebody ran it."""

from __future__ import annotations

import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from sqlalchemy import create_engine
from tracelet_collector.exporters.base import Paused, Run
from tracelet_collector.exporters.mlflow import MlflowExporter
from tracelet_collector.exporters.mlflow_schema import _revisions

from tests.support.delivering import Desk, Writer, run_spec
from tests.support.exporting import Courier
from tests.support.mlflow_store import MlflowStore
from tracelet.core.metrics import Metric

T0 = 1_700_000_000.0


def courier_to(store: MlflowStore) -> Courier:
    return Courier(MlflowExporter, Run("r-1", "a run", "a project", store.uri, T0))


def set_version(store: MlflowStore, version: str) -> str:
    with closing(sqlite3.connect(store.path)) as db, db:
        (before,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
        db.execute("UPDATE alembic_version SET version_num = ?", (version,))
    return str(before)


def schema(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(row[0] or "" for row in db.execute("SELECT sql FROM sqlite_master"))


def test_a_newer_store_is_left_to_a_newer_mlflow(tmp_path: Path) -> None:
    store = MlflowStore.fresh(tmp_path / "store")
    version = set_version(store, "ffffffffffff")
    courier = courier_to(store)
    with pytest.raises(Paused, match=r"a newer MLflow made it\. .*pip install -U mlflow"):
        courier.deliver(Metric("a", 1.0, 0, T0))
    set_version(store, version)
    courier.deliver(Metric("a", 1.0, 0, T0))
    assert courier.delivered == 1


def test_a_store_that_changes_while_it_is_open(tmp_path: Path) -> None:
    store = MlflowStore.fresh(tmp_path / "store")
    courier = courier_to(store)
    courier.deliver(Metric("a", 1.0, 0, T0))
    version = set_version(store, "ffffffffffff")
    with pytest.raises(Paused, match="a newer MLflow"):
        courier.deliver(Metric("a", 2.0, 1, T0))
    set_version(store, version)
    courier.deliver(Metric("a", 2.0, 1, T0))
    assert len(store.points()) == 2


def test_delivery_pauses_and_goes_on_by_itself(tmp_path: Path) -> None:
    store = MlflowStore.fresh(tmp_path / "store")
    version = set_version(store, _revisions()[3])
    with Desk(tmp_path / "home") as desk:
        Writer(desk.log, run_spec("r1", store.uri)).write([Metric("a", float(n), n, T0) for n in range(100)])
        desk.delivery.wake("r1")
        live = desk.until_state("r1", "paused")
        assert f"mlflow db upgrade {store.uri}" in live.last_error
        assert (desk.cursor("r1").lag_points, desk.log.dead_letters("r1")) == (100, [])
        set_version(store, version)
        desk.until_settled("r1")
        assert desk.cursor("r1").delivered == len(store.points()) == 100


@pytest.mark.torture
@pytest.mark.timeout(300)
def test_an_older_store_is_not_migrated_behind_its_owners_back(tmp_path: Path) -> None:
    """A real one, of some versions ago: MLflow itself would migrate it when it opens it."""
    store = MlflowStore(tmp_path / "mlflow.db")
    engine = create_engine(store.uri)
    InitialBase.metadata.create_all(engine)
    engine.dispose()
    command.upgrade(_get_alembic_config(store.uri), _revisions()[20])
    before = schema(store.path)
    courier = courier_to(store)
    with pytest.raises(Paused) as paused:
        courier.deliver(Metric("a", 1.0, 0, T0))
    assert schema(store.path) == before
    said = str(paused.value)
    line = said.partition("then run:  ")[2]
    assert line == f"{sys.executable} -m mlflow db upgrade {store.uri}", said
    subprocess.run(shlex.split(line), check=True, capture_output=True, timeout=240, cwd=tmp_path)
    courier.deliver(Metric("a", 1.0, 0, T0))
    assert len(store.points()) == 1
