"""What of the audit trail differs between databases; as `dialect`, it may ask which one it is on.

The database itself refuses to change a row of `audit`, and to delete one that is not older, by its own clock, than the
retention that `audit_mark` holds (`keep`, in seconds; its check allows no less than `LEAST_SECONDS`).
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select

_AUDIT_LOCK = 0x41554449  # "AUDI"
DAY_SECONDS = 86400
LEAST_SECONDS = 90 * DAY_SECONDS
USUAL_SECONDS = 2192 * DAY_SECONDS
"""Six years (45 CFR 164.316(b)(2)(i)): what is in force while `audit_mark` holds nothing else."""


def make_append_only(connection: Connection, table: str) -> None:
    """Make the database refuse to change or delete a row of `table`, whose transaction this is."""
    if connection.dialect.name == "postgresql":
        statements = [
            f"CREATE FUNCTION {table}_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$",
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"EXECUTE FUNCTION {table}_is_append_only()",
        ]
    else:
        statements = [_sqlite(table, "UPDATE"), _sqlite(table, "DELETE")]
    for statement in statements:
        connection.exec_driver_sql(statement)


def keep_for_its_time(connection: Connection) -> None:
    """Make the database refuse to change a row of `audit`, and to delete one that is not past the retention."""
    kept = f"coalesce((SELECT position FROM audit_mark WHERE mark = 'keep'), {USUAL_SECONDS})"
    if connection.dialect.name == "postgresql":
        # Of the audit table's own schema, by name: a temporary table would be found before it.
        statements = [
            "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "DECLARE seconds double precision; BEGIN "
            "IF TG_OP = 'DELETE' THEN "
            "EXECUTE format('SELECT position FROM %I.audit_mark WHERE mark = ''keep''', TG_TABLE_SCHEMA) INTO seconds; "
            f"seconds := greatest(coalesce(seconds, {USUAL_SECONDS}), {LEAST_SECONDS}); "
            "IF OLD.at < extract(epoch FROM clock_timestamp()) - seconds THEN RETURN OLD; END IF; "
            "END IF; "
            "RAISE EXCEPTION 'audit is append-only'; END $$",
            "CREATE TRIGGER audit_append_only BEFORE UPDATE OR TRUNCATE ON audit "
            "EXECUTE FUNCTION audit_is_append_only()",
            "CREATE TRIGGER audit_kept BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_append_only()",
        ]
    else:
        # SQLite's max of several values is a scalar function.
        young = f"OLD.at >= strftime('%s', 'now') - max({kept}, {LEAST_SECONDS})"
        statements = [_sqlite("audit", "UPDATE"), _sqlite("audit", "DELETE", young)]
    for statement in statements:
        # A bare `%` would be a parameter to one driver.
        connection.exec_driver_sql(
            statement.replace("%", "%%") if connection.dialect.paramstyle == "pyformat" else statement
        )


def replace_nothing(connection: Connection) -> None:
    """Make SQLite refuse `INSERT OR REPLACE` into `audit`: it deletes the row of that id without asking the trigger."""
    if connection.dialect.name == "sqlite":
        # The sequence is counted on when the statement has ended, and new ids begin behind it.
        used = "NEW.id <= (SELECT seq FROM sqlite_sequence WHERE name = 'audit')"
        connection.exec_driver_sql(_sqlite("audit", "INSERT", used, moment="AFTER"))


def _sqlite(table: str, verb: str, when: str = "", moment: str = "BEFORE") -> str:
    condition = f"WHEN {when} " if when else ""
    return (
        f"CREATE TRIGGER {table}_no_{verb.lower()} {moment} {verb} ON {table} {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )


def lock_for_audit(connection: Connection) -> None:
    """Make others who add to the audit trail wait until this transaction ends. On SQLite they do anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_AUDIT_LOCK)))


def writers(connection: Connection) -> tuple[int, int]:
    """The oldest transaction that writes now (or the next, if none does), and the next that will.

    What has the number of an earlier one has been committed, or never is. On SQLite nobody writes while it is read.
    """
    if connection.dialect.name != "postgresql":
        return 0, 0
    row = connection.exec_driver_sql(
        "SELECT pg_snapshot_xmin(one)::text::bigint, pg_snapshot_xmax(one)::text::bigint FROM pg_current_snapshot() one"
    ).one()
    return int(row[0]), int(row[1])
