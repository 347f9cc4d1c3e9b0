"""On PostgreSQL too, the schema is the sum of the migrations, and many may migrate at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from relaypacs.errors import JobsError, SchemaTooNew
from relaypacs.jobs.schema import metadata
from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs.postgres import Postgres


def shape(url: str) -> list[tuple[str, ...]]:
    """Every index, constraint and trigger as the server writes them down."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version' "
                "UNION ALL "
                "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE connamespace = 'public'::regnamespace "
                "AND conrelid <> coalesce(to_regclass('alembic_version'), 0) "
                "UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
            )
        )
        found = sorted(tuple(row) for row in rows)
    engine.dispose()
    return found


@pytest.mark.parametrize("version", ["debian_server", "pypi_server"])
def test_many_migrate_at_once_to_what_the_code_says(request: pytest.FixtureRequest, version: str) -> None:
    server: Postgres = request.getfixturevalue(version)
    migrated, created = server.create_database("migrated"), server.create_database("created")
    stores = [JobStore.open(migrated) for _ in range(4)]
    with pytest.raises(JobsError, match="relaypacs db migrate"):
        stores[0].check_schema()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(JobStore.migrate, stores))
    for store in stores:
        store.check_schema()
    engine = create_engine(created)
    metadata.create_all(engine)
    engine.dispose()
    assert shape(migrated) == shape(created)
    assert len(shape(created)) > 50

    engine = create_engine(migrated)
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (stores[0].check_schema, stores[0].migrate):
        with pytest.raises(SchemaTooNew, match="newer RelayPACS"):
            use()
    for store in stores:
        store.close()
    engine.dispose()
