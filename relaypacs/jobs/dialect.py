"""Everything that differs between databases; beside `inserts` no other file of the job table asks which one it is on.

SQLite: WAL, `synchronous=FULL`, foreign keys on. One connection writes, so threads of a process queue for it in order
and its page cache stays warm; processes wait for each other by SQLite's own lock (`BEGIN IMMEDIATE`, busy timeout).
Readers have their own connections, can't write, and never wait for a writer. PostgreSQL: psycopg, no session state (a
transaction pooler may stand in front); readers see one moment (repeatable read, read only).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Integer,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from relaypacs.errors import JobsError
from relaypacs.jobs.timing import time_transactions

BUSY_SECONDS = 30.0
"""How long a writer waits for another process's (or thread's) transaction before it is an error."""
_READERS = 8
_WRITE = "write sqlite:///PATH or postgresql://USER@HOST/DATABASE (several hosts: HOST:PORT,HOST:PORT)"
_MIGRATION_LOCK = 0x52454C41  # "RELA"
_PURGING_LOCK = _MIGRATION_LOCK + 1
_CHECKPOINT_PAGES = 4000
"""The WAL is copied back after 16 MiB: four times SQLite's default, so a page that changes often is copied less."""
_CACHE_KIB = 32 * 1024
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING

_CONNECT = {
    "application_name": "relaypacs",
    "connect_timeout": 10,
    # A server that vanished without a word is given up within half a minute; the kernel's own answer is two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""What the URL does not say about connecting (libpq's names; the last in milliseconds)."""

BigInt = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere; SQLite gives rowids to INTEGER primary keys only."""


def open_engines(url: str) -> tuple[Engine, Engine]:
    """The engine to read through and the one to write through. JobsError if `url` names no database we know.

    Connects to nothing yet. Parameters never appear in an error's text: they hold UIDs.
    """
    try:
        parsed = _parsed(url)
    except (ArgumentError, ValueError):
        raise JobsError(f"The job table's URL can't be read; {_WRITE}.") from None
    if parsed.get_backend_name() == "sqlite":
        reader, writer = _sqlite_engines(parsed)
    elif parsed.get_backend_name() in ("postgresql", "postgres"):
        reader, writer = _postgresql_engines(parsed)
    else:
        raise JobsError(f"The job table can't be kept in {parsed.get_backend_name()}; {_WRITE}.")
    return time_transactions(reader, "read"), time_transactions(writer, "write")


def _parsed(url: str) -> URL:
    """`url` parsed; several hosts, as libpq takes them (`HOST:PORT,HOST:PORT`), become SQLAlchemy's `host` options."""
    scheme, _, rest = url.partition("://")
    place, _, database = rest.partition("/")
    user, _, hosts = place.rpartition("@")
    if "," not in hosts or scheme.startswith("sqlite"):
        return make_url(url)
    alone = make_url(f"{scheme}://{user}{'@' if user else ''}/{database}")
    return alone.update_query_pairs([("host", host if ":" in host else f"{host}:5432") for host in hosts.split(",")])


def _postgresql_engines(url: URL) -> tuple[Engine, Engine]:
    url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {
        # Nothing outlives a transaction: a pooler in front may give each one another session.
        "connect_args": {"prepare_threshold": None, **{n: v for n, v in _CONNECT.items() if n not in url.query}},
        "hide_parameters": True,
        "pool_pre_ping": True,
        "pool_size": _READERS,
        "max_overflow": _READERS,
        "pool_timeout": BUSY_SECONDS,
    }
    reader = create_engine(
        url, isolation_level="REPEATABLE READ", execution_options={"postgresql_readonly": True}, **options
    )
    return reader, create_engine(url, isolation_level="READ COMMITTED", **options)


def _sqlite_engines(url: URL) -> tuple[Engine, Engine]:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise JobsError("The job table needs a file: sqlite:///PATH.")
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise JobsError(f"SQLite {sqlite3.sqlite_version} is too old for the job table; 3.35 or newer is needed.")
    database = url.database
    options: dict[str, Any] = {
        "connect_args": {"timeout": BUSY_SECONDS, "check_same_thread": False},
        "hide_parameters": True,
        "pool_timeout": BUSY_SECONDS,
    }
    reader = create_engine(url, pool_size=_READERS, max_overflow=_READERS, **options)
    writer = create_engine(url, pool_size=1, max_overflow=0, **options)

    def create_private(*_: object) -> None:
        # Identifiers of patients are in it; SQLite gives its -wal and -shm the same mode. A file that is there is never
        # opened here: closing any descriptor of it drops the locks of every connection this process has (fcntl(2)),
        # and another process would then take itself for the last one and delete the -wal under us.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def configure(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        # sqlite3's own implicit BEGIN is off: `begin` says which kind it is.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def configure_writer(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {4 * _CHECKPOINT_PAGES * 4096}")

    def configure_reader(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.execute("PRAGMA query_only = ON")

    for engine, configure_one, begin in (
        (reader, configure_reader, "BEGIN"),
        (writer, configure_writer, "BEGIN IMMEDIATE"),
    ):
        event.listen(engine, "do_connect", create_private)
        event.listen(engine, "connect", configure)
        event.listen(engine, "connect", configure_one)
        event.listen(engine, "begin", _beginner(begin))
    return reader, writer


def _beginner(statement: str) -> Any:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def driver_errors(engine: Engine) -> tuple[type[BaseException], ...]:
    """Every exception that means the database, not the program: what `sentence` takes."""
    return (SQLAlchemyError, engine.dialect.loaded_dbapi.Error, OSError)


def sentence(problem: BaseException) -> str:
    """What went wrong, in one sentence without any row's content."""
    if isinstance(problem, PoolTimeout):
        return f"The job table is busy: no connection came free in {BUSY_SECONDS:.0f} s."
    cause = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    first_line = (str(cause).splitlines() or [""])[0]
    return f"The job table refused: {first_line or type(cause).__name__}."


def is_overtaken(problem: BaseException) -> bool:
    """Whether another transaction got there first: it inserted the same key, or this one was given up for it."""
    return getattr(getattr(problem, "orig", None), "sqlstate", None) in _OVERTAKEN


_OVERTAKEN = frozenset({"23505", "40001", "40P01"})
"""unique_violation, serialization_failure, deadlock_detected (PostgreSQL, appendix A)."""


def keep_swept(connection: Connection, table: str) -> None:
    """Have PostgreSQL clean a table whose rows change often long before a fifth of millions of rows is dead."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000, "
            "autovacuum_analyze_scale_factor = 0.02)"
        )


def server_time(connection: Connection) -> float | None:
    """The database's own clock, seconds since the epoch; None where it is this machine's."""
    if connection.dialect.name != "postgresql":
        return None
    return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())


def timeline(connection: Connection) -> str:
    """Which history the database is in: another after a standby took over or a backup was restored.

    Empty where that can't be (SQLite) or may not be asked. The connection's transaction goes on either way.
    """
    if connection.dialect.name != "postgresql":
        return ""
    try:
        with connection.begin_nested():
            return str(connection.exec_driver_sql(_TIMELINE).scalar_one())
    except DBAPIError:
        return ""


_TIMELINE = (
    "SELECT (SELECT system_identifier FROM pg_control_system())"
    " || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
)


def may_lose_commits(connection: Connection) -> bool:
    """Whether what was committed can be missing later, because another server has taken over."""
    return connection.dialect.name == "postgresql"


def lock_for_migration(connection: Connection) -> None:
    """Make other migrating processes wait until this transaction ends. On SQLite `BEGIN IMMEDIATE` has done that."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))


def lock_for_purging(connection: Connection) -> bool:
    """Whether this transaction, until it ends, is the only one to purge; may be asked again.

    On SQLite, which only one node has, it always is.
    """
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.scalar(select(func.pg_try_advisory_xact_lock(_PURGING_LOCK))))
