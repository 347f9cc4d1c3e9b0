"""A PostgreSQL of our own, from Debian's package, for as long as the tests run; absent is a skip."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.peers.ports import free_port


def binaries() -> Path | None:
    """The newest installed server's folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def _as_postgres(*command: object, home: Path) -> list[str]:
    """PostgreSQL refuses to run as root."""
    line = [str(part) for part in command]
    if os.geteuid() != 0:
        return line
    drop = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
    return [*drop, "env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", *line]


@contextmanager
def server(bin_dir: Path) -> Iterator[str]:
    """Run a server with one empty cluster; gives the URL of its `postgres` database, without the name."""
    home = Path(tempfile.mkdtemp(prefix="pg.", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(home, "postgres")
    port = free_port()
    make = (bin_dir / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    subprocess.run(_as_postgres(*make, home=home), check=True, capture_output=True)
    run = (
        *(bin_dir / "postgres", "-D", home / "data", "-p", port),
        *("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={home}", "-c", "fsync=off"),
        *("-c", "synchronous_commit=off", "-c", "full_page_writes=off"),
    )
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(_as_postgres(*run, home=home), stdout=log, stderr=log)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.send_signal(signal.SIGQUIT)  # nothing of it is kept
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def create_database(server_url: str, name: str, *, copy_of: str) -> None:
    """Create the database `name`, a copy of one that nobody is connected to."""
    admin = create_engine(f"{server_url}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {copy_of}"))
    admin.dispose()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    engine = create_engine(f"{url}/postgres")
    deadline = time.monotonic() + 30
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            break
        except OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    engine.dispose()
