"""Brings the schema up to date, and says when it is not.

`migrate` runs every missing revision in one transaction while other migrating processes wait; `check_schema` reads
one row. Alembic is imported only when there is something to migrate: it costs a tenth of a second.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from relaypacs.errors import JobsError, SchemaTooNew
from relaypacs.jobs.dialect import lock_for_migration
from relaypacs.jobs.migrations import REVISIONS


def revision_of(connection: Connection) -> str | None:
    """The schema's revision, or None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def check(revision: str | None) -> None:
    """Return if this program can work with the schema at `revision`; JobsError or SchemaTooNew if not."""
    _refuse_newer(revision)
    if revision != REVISIONS[-1]:
        raise JobsError("The job table is not up to date; run `relaypacs db migrate`.")


def migrate(connection: Connection) -> None:
    """Run the missing revisions in the transaction that is open on `connection`. SchemaTooNew if it is newer."""
    lock_for_migration(connection)
    revision = revision_of(connection)
    _refuse_newer(revision)
    if revision == REVISIONS[-1]:
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "relaypacs.jobs:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision not in REVISIONS:
        raise SchemaTooNew(
            "The job table was migrated by a newer RelayPACS; run that version, or restore the table's backup."
        )
