"""SQLite as the job table uses it: durable, private, shared by threads and processes, and usable after trouble."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from relaypacs.model import Checkpoint
from tests.unit.jobs.made import NODE, arrival, end, settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[JobStore]:
    store = JobStore.open(f"sqlite:///{path}")
    store.migrate()
    yield store
    store.close()


def test_a_writer_is_durable_and_a_reader_can_not_write(store: JobStore) -> None:
    found: dict[str, set[tuple[object, ...]]] = {}

    def look(connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("SELECT 1", "INSERT")):
            raw = connection.connection.driver_connection  # type: ignore[attr-defined]
            pragmas = ("journal_mode", "synchronous", "foreign_keys", "query_only")
            found.setdefault(statement[:6], set()).add(
                tuple(raw.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
            )

    event.listen(Engine, "before_cursor_execute", look)
    try:
        store.ping()
        store.take_in(NODE, [arrival()], [], [], 1.0)
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert found["INSERT"] == {("wal", 2, 1, 0)}  # 2 is FULL
    assert {one[3] for one in found["SELECT"]} == {1}


def test_only_the_node_may_read_the_files(store: JobStore, path: Path) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    files = list(path.parent.glob("jobs.sqlite*"))
    assert len(files) == 3
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}


def test_readers_do_not_wait_for_a_writer(store: JobStore, path: Path) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM delivery")
    started = time.monotonic()
    assert store.ledger().pending == 1
    assert len(store.trace("1.2.3")) == 1
    assert time.monotonic() - started < 2.0
    other.execute("ROLLBACK")
    other.close()


def test_a_writer_waits_for_another_process(store: JobStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    started = time.monotonic()
    assert store.take_in(NODE, [arrival()], [], [], 1.0).instances == 1
    assert time.monotonic() - started > 0.2
    release.join()
    other.close()


def test_threads_share_a_store_and_each_delivery_goes_to_one(store: JobStore) -> None:
    count = 600
    claimed: list[int] = []
    failures: list[BaseException] = []

    def work(run: int) -> None:
        try:
            if run == 0:
                for start in range(0, count, 50):
                    batch = [arrival(f"1.{number}", study=str(number // 10)) for number in range(start, start + 50)]
                    store.take_in(NODE, batch, [], [], 1.0)
                return
            deadline = time.monotonic() + 30
            while len(claimed) < count and time.monotonic() < deadline:
                batch = store.claim("pacs", node=NODE, limit=7, lease_seconds=1e6, now=2.0)
                claimed.extend(one.delivery_id for one in batch)
                assert store.settle(settled(batch), 3.0) == len(batch)
                store.ledger()
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=work, args=(run,)) for run in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(claimed) == len(set(claimed)) == count
    assert store.ledger().delivered == count


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    store = JobStore.open(f"sqlite:///{tmp_path}/absent/jobs.sqlite")
    with pytest.raises(JobsError, match="No such file"):
        store.ping()
    (tmp_path / "absent").mkdir()
    store.migrate()
    store.ping()
    store.close()


def test_a_file_that_is_no_database_is_a_sentence(path: Path) -> None:
    path.write_bytes(b"not a database, certainly not one" * 100)
    store = JobStore.open(f"sqlite:///{path}")
    for use in (store.migrate, store.check_schema):
        with pytest.raises(JobsError, match="not a database"):
            use()
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_refuses_whole_transactions_and_then_goes_on(small_disk: Path) -> None:
    store = JobStore.open(f"sqlite:///{small_disk}/jobs.sqlite")
    store.migrate()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(2 << 20))
    taken = 0
    refused: list[str] = []
    for number in range(200):
        batch = [arrival(f"{number}.{one}", study=str(number)) for one in range(100)]
        try:
            store.take_in(NODE, batch, [], [Checkpoint("g1", number + 1, number, 0)], 1.0)
            taken += 1
        except JobsError as problem:
            refused.append(str(problem))
            if len(refused) == 3:
                break
    assert taken > 0
    assert len(refused) == 3
    assert all("full" in sentence for sentence in refused)
    ledger = store.ledger()
    assert (ledger.received, ledger.pending, ledger.imbalance) == (taken * 100, taken * 100, 0)
    assert store.checkpoints(NODE)["g1"].end == taken

    filler.unlink()
    store.take_in(NODE, [arrival("after")], [end(objects=taken * 100 + 1)], [], 2.0)
    claimed = store.claim("pacs", node=NODE, limit=50, lease_seconds=60, now=3.0)
    assert store.settle(settled(claimed), 4.0) == 50
    assert store.ledger().imbalance == 0
    store.close()


def test_a_sync_that_fails_is_an_error_and_the_store_goes_on(tmp_path: Path) -> None:
    """`strace` makes the WAL's sync fail once; what was refused is not there, what was accepted is."""
    if not Path("/usr/bin/strace").exists():
        pytest.skip("needs strace")
    program = """
import sys
from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from tests.unit.jobs.made import NODE, arrival
store = JobStore.open(sys.argv[1])
said = []
for number in range(6):
    try:
        store.take_in(NODE, [arrival(f"1.{number}")], [], [], 1.0)
        said.append("ok")
    except JobsError:
        said.append("error")
print(",".join(said), store.ledger().received, store.ledger().imbalance)
"""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    store = JobStore.open(url)
    store.migrate()
    store.take_in(NODE, [arrival("0.0")], [], [], 1.0)  # keeps the WAL from being rewritten from its start
    result = subprocess.run(
        [
            *("strace", "-f", "-o", "/dev/null", "-P", f"{tmp_path}/jobs.sqlite-wal"),
            *("-e", "inject=fdatasync,fsync:error=EIO:when=3"),
            *(sys.executable, "-c", program, url),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=120,
    )
    store.close()
    if "ptrace" in result.stderr.lower():
        pytest.skip("ptrace is not permitted here")
    said, received, imbalance = result.stdout.split()
    answers = said.split(",")
    assert (len(answers), answers.count("error")) == (6, 1), result
    assert (int(received), int(imbalance)) == (1 + answers.count("ok"), 0)


LOOK = """
import sys
from relaypacs.jobs.store import JobStore
store = JobStore.open(sys.argv[1])
print(store.ledger().received)
store.close()
"""


def test_other_processes_that_come_and_go_leave_the_log_alone(store: JobStore, path: Path) -> None:
    """A process that closes its connection and sees no lock of ours takes the write-ahead log away under us."""
    url = f"sqlite:///{path}"

    def seen_by_another() -> int:
        done = subprocess.run([sys.executable, "-c", LOOK, url], capture_output=True, text=True, timeout=60, check=True)
        return int(done.stdout)

    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    threads = [threading.Thread(target=store.ledger) for _ in range(4)]  # more connections of this process
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen_by_another() == 1
    store.take_in(NODE, [arrival("1.2")], [], [], 2.0)
    assert seen_by_another() == 2
    held = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert not [name for name in held if name.startswith(str(path)) and name.endswith("(deleted)")]
