"""What the database itself refuses: to change a line of the audit trail, or to delete one before its time.

Called by the migrations and by `audit_tables`, in the transaction that makes the tables. As `dialect`, it may ask which
database it is on. A row of `audit` can't be updated; it can be deleted when it is older than the retention that
`audit_mark` holds (`keep`, in seconds; its check allows no less than `LEAST_SECONDS`), by the database's own clock.
"""

from __future__ import annotations

from sqlalchemy import Connection

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
    kept = f"coalesce((SELECT position FROM audit_mark WHERE name = 'keep'), {USUAL_SECONDS})"
    if connection.dialect.name == "postgresql":
        # Of the audit table's own schema, by name: a temporary table would be found before it.
        statements = [
            "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "DECLARE seconds double precision; BEGIN "
            "IF TG_OP = 'DELETE' THEN "
            "EXECUTE format('SELECT position FROM %I.audit_mark WHERE name = ''keep''', TG_TABLE_SCHEMA) INTO seconds; "
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


def _sqlite(table: str, verb: str, when: str = "") -> str:
    condition = f"WHEN {when} " if when else ""
    return (
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )
