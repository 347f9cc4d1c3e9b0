"""Every database the job table runs on, each empty and migrated: one contract, all adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from relaypacs.jobs.store import JobStore

Sql = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    assert request.param == "sqlite"
    return f"sqlite:///{tmp_path}/jobs.sqlite"


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    """The job table, migrated and empty."""
    store = JobStore.open(url)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def sql(url: str) -> Iterator[Sql]:
    """Runs a statement behind the store's back and returns its rows."""
    engine = create_engine(url)

    def run(statement: str, **values: object) -> list[tuple[object, ...]]:
        with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    engine.dispose()
