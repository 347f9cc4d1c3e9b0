"""Every database the job table runs on, each empty and migrated: one contract, all adapters."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs import postgres

Sql = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a running PostgreSQL, without a database name; its database `migrated` is one to copy."""
    installed = postgres.binaries()
    if installed is None:
        pytest.skip("needs the package postgresql")
    with postgres.server(installed) as url:
        postgres.create_database(url, "migrated", copy_of="template1")
        template = JobStore.open(f"{url}/migrated")
        template.migrate()
        template.close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database of this test's own, without rows."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.sqlite"
    server = request.getfixturevalue("postgres_server")
    database = f"jobs_{uuid.uuid4().hex}"
    postgres.create_database(server, database, copy_of="migrated")
    return f"{server}/{database}"


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
