"""Several nodes purge one bucket: never the same file twice, for it may have been put again in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.sweep import Sweep
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, SENT, arrival, settled
from tests.unit.relay_rooms import Rooms

OTHER = "node-b"


class Bucket(FilesystemStaging):
    """A stand-in for a bucket: tells what is deleted, before it is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.deleted: list[str] = []
        self.before_delete: Callable[[], None] = lambda: None

    def delete(self, key: str) -> None:
        self.deleted.append(key)
        self.before_delete()
        super().delete(key)


@pytest.fixture
def stores(url: str, store: JobStore) -> Iterator[tuple[JobStore, JobStore]]:
    """The job tables of two nodes that share their staging."""
    if url.startswith("sqlite"):
        pytest.skip("one node has a SQLite job table to itself")
    opened = JobStore.open(url, shared_staging=True), JobStore.open(url, shared_staging=True)
    yield opened
    for one in opened:
        one.close()


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    yield rooms
    rooms.writer.close()


def sweep(rooms: Rooms, jobs: JobStore, bucket: Bucket, node: str) -> Sweep:
    return Sweep(
        node=node,
        reader=rooms.reader,
        jobs=jobs,
        staging=bucket,
        intake=rooms.intake,
        nudged=rooms.rows_changed,
        hash_key=b"key",
        hot_seconds=0.0,
        keep_seconds=60.0,
        min_free_bytes=0,
        date="study",
        shared=True,
    )


def over(store: JobStore, count: int) -> None:
    """So many instances that are staged and delivered long ago."""
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(count)], [], [], 1.0)
    found = store.to_stage(NODE, received_before=1e9, keep=True, limit=100)
    store.staged([(one.instance_id, f"d/s/{one.sop_instance_uid}.dcm") for one in found], 2.0, copied=found)
    store.settle(settled(store.claim("pacs", node=NODE, limit=100, lease_seconds=60, now=3.0), SENT), 4.0)


def test_while_one_node_purges_no_other_does(stores: tuple[JobStore, JobStore], rooms: Rooms, tmp_path: Path) -> None:
    over(stores[0], 2)
    bucket = Bucket(tmp_path / "bucket")
    mine, others = sweep(rooms, stores[0], bucket, NODE), sweep(rooms, stores[1], bucket, OTHER)
    purged_by_other: list[int] = []
    bucket.before_delete = lambda: purged_by_other.append(others.purge())
    assert mine.purge() == 2
    assert purged_by_other == [0, 0]
    assert len(bucket.deleted) == 2
    bucket.before_delete = lambda: None
    assert (others.purge(), mine.purge()) == (0, 0), "nothing is left"


def test_what_one_node_did_not_finish_another_does(
    stores: tuple[JobStore, JobStore], rooms: Rooms, tmp_path: Path
) -> None:
    over(stores[0], 2)
    bucket = Bucket(tmp_path / "bucket")

    def dies() -> None:
        raise OSError("the node is gone")

    bucket.before_delete = dies
    with pytest.raises((OSError, JobsError)):
        sweep(rooms, stores[0], bucket, NODE).purge()
    bucket.before_delete = lambda: None
    assert sweep(rooms, stores[1], bucket, OTHER).purge() == 2


def test_a_node_that_lost_the_database_deletes_nothing_more(
    stores: tuple[JobStore, JobStore], rooms: Rooms, tmp_path: Path, sql: Sql
) -> None:
    over(stores[0], 3)
    bucket = Bucket(tmp_path / "bucket")

    def cut() -> None:
        killed = sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE locktype = 'advisory' AND datname = current_database()"
        )
        assert killed == [(True,)]

    bucket.before_delete = cut
    with pytest.raises(JobsError):
        sweep(rooms, stores[0], bucket, NODE).purge()
    assert len(bucket.deleted) == 1
    bucket.before_delete = lambda: None
    assert sweep(rooms, stores[1], bucket, OTHER).purge() == 3
