"""How rows get into a table, as fast as each database takes them. With `dialect`, all that tells databases apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, func, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, object]],
    *,
    replace: Sequence[str] = (),
    add: Sequence[str] = (),
    not_below: str = "",
) -> None:
    """Insert `rows`; where the primary key exists, overwrite the columns `replace` and increase `add` by the new value.

    With neither, existing rows stay as they are; also where the column `not_below` has a higher value than the new one.
    """
    if rows:
        connection.execute(_upsert(connection.dialect.name, table, tuple(replace), tuple(add), not_below), list(rows))


@cache
def _upsert(
    database: str, table: Table, replace: tuple[str, ...], add: tuple[str, ...], not_below: str
) -> postgresql.Insert | sqlite.Insert:
    make = postgresql.insert if database == "postgresql" else sqlite.insert
    statement = make(table)
    changes: dict[str, ColumnElement[Any]] = {name: statement.excluded[name] for name in replace}
    changes |= {name: table.c[name] + statement.excluded[name] for name in add}
    key = [column.name for column in table.primary_key]
    if not changes:
        return statement.on_conflict_do_nothing(index_elements=key)
    newer = statement.excluded[not_below] >= table.c[not_below] if not_below else None
    return statement.on_conflict_do_update(index_elements=key, set_=changes, where=newer)


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert `rows`, all with the same columns: COPY on PostgreSQL."""
    if not rows:
        return
    columns = tuple(rows[0])
    if connection.dialect.name != "postgresql":
        connection.exec_driver_sql(_insert_text(table, columns), [_values(row, columns) for row in rows])
        return
    driver: Any = connection.connection.driver_connection
    quote = connection.dialect.identifier_preparer.quote
    with driver.cursor() as cursor:
        names = ", ".join(map(quote, columns))
        with cursor.copy(f"COPY {quote(table.name)} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(_values(row, columns))


def insert_numbered(connection: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> list[int]:
    """Insert `rows`, all with the same columns, and return the ids they were given, in order.

    SQLite gives none twice, and gives the next in order; who writes is alone there, so the ids are known before and
    nothing is inserted row by row to be told each. The list of sequences may be missing in a file that a tool has
    copied, so the rows are looked at too.
    """
    if not rows:
        return []
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(_insert_returning(table), list(rows)))
    last = max(connection.scalar(_LAST_ID, {"table": table.name}) or 0, connection.scalar(_highest_id(table)) or 0)
    ids = list(range(last + 1, last + 1 + len(rows)))
    insert_rows(connection, table, [{**row, "id": key} for key, row in zip(ids, rows, strict=True)])
    return ids


_LAST_ID = text("SELECT seq FROM sqlite_sequence WHERE name = :table")


@cache
def _insert_returning(table: Table) -> ReturningInsert[tuple[int]]:
    key: Column[int] = table.c.id
    return insert(table).returning(key, sort_by_parameter_order=True)


@cache
def _highest_id(table: Table) -> Select[Any]:
    return select(func.max(table.c.id))


@cache
def _insert_text(table: Table, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{one}"' for one in columns)
    return f'INSERT INTO "{table.name}" ({names}) VALUES ({", ".join("?" * len(columns))})'


def _values(row: Mapping[str, object], columns: Sequence[str]) -> tuple[object, ...]:
    """The values in the order of the columns; an enumeration's member goes as the text it is."""
    return tuple([str(one) if isinstance(one, StrEnum) else one for one in map(row.__getitem__, columns)])
