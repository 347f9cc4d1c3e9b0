"""The tables are the sum of the migrations, and a schema that isn't ours is refused by name."""

from __future__ import annotations

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from relaypacs.errors import JobsError, SchemaTooNew
from relaypacs.jobs.migrations import REVISIONS
from relaypacs.jobs.schema import metadata
from relaypacs.jobs.store import JobStore


def schema_of(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'")
        return {name: _in_order(" ".join((sql or "").split())) for name, sql in rows}


def _in_order(sql: str) -> str:
    """A table's columns and constraints in alphabetical order: a column that was added later stands last."""
    if not sql.startswith("CREATE TABLE"):
        return sql
    head, _, body = sql.rpartition(")")[0].partition("(")
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", body)]
    return f"{head}({', '.join(sorted(parts))})"


def test_the_schema_is_the_sum_of_the_migrations(tmp_path: Path) -> None:
    migrated, created = tmp_path / "migrated.sqlite", tmp_path / "created.sqlite"
    store = JobStore.open(f"sqlite:///{migrated}")
    store.migrate()
    store.close()
    engine = create_engine(f"sqlite:///{created}")
    metadata.create_all(engine)
    engine.dispose()
    assert schema_of(migrated) == schema_of(created)
    assert len(schema_of(created)) > 30

    engine = create_engine(f"sqlite:///{migrated}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_list_of_revisions_is_that_of_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", "relaypacs.jobs:migrations")
    walked = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(walked)) == REVISIONS


def test_an_empty_database_wants_migrating(tmp_path: Path) -> None:
    store = JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite")
    with pytest.raises(JobsError, match="relaypacs db migrate"):
        store.check_schema()
    store.migrate()
    store.check_schema()
    store.migrate()
    store.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = JobStore.open(f"sqlite:///{path}")
    store.migrate()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for use in (store.check_schema, store.migrate):
        with pytest.raises(SchemaTooNew, match="newer RelayPACS"):
            use()
    store.close()


def test_many_may_migrate_at_once(tmp_path: Path) -> None:
    stores = [JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite") for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(JobStore.migrate, stores))
    for store in stores:
        store.check_schema()
        store.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tally (in_the_way)")
    connection.close()
    store = JobStore.open(f"sqlite:///{path}")
    with pytest.raises(JobsError, match="tally"):
        store.migrate()
    assert set(schema_of(path)) == {"table tally"}
    store.close()


@pytest.mark.parametrize(
    "url", ["nonsense", "", "sqlite://", "sqlite:///:memory:", "mysql://x/y", "sqlite:////no/such/folder/j"]
)
def test_a_url_that_is_no_job_table(url: str) -> None:
    with pytest.raises(JobsError):
        JobStore.open(url).migrate()
