"""The receipt desk over its real socket, spool and job table: who gets a receipt, and for what nobody does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relaypacs.errors import StagingError
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import ANYWHERE
from relaypacs.model import Committed, Delivered, Settlement
from relaypacs.receipts import ReceiptDesk
from relaypacs.stager import Stager
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.protocol import StagedFacts
from relaypacs.sweep import Sweep
from relaypacs.wake.receipts import ReceiptAsker, ReceiptSocket
from tests.peers.ports import wait_until
from tests.unit.relay_rooms import NODE, Rooms, dataset

HANG_SECONDS = 30.0


class Bucket(FilesystemStaging):
    """A stand-in for a bucket: a folder; `gates` hold back puts of files of a length, and those of a `bad` one fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gates: dict[int, threading.Event] = {}
        self.bad: set[int] = set()
        self.puts: list[str] = []

    def put(self, key: str, source_fd: int, offset: int, length: int, facts: StagedFacts | None = None) -> None:
        self.puts.append(key)
        if length in self.bad:
            raise StagingError("a bad one")
        if length in self.gates:
            assert self.gates[length].wait(HANG_SECONDS)
        super().put(key, source_fd, offset, length, facts)


class Site:
    """A node with shared staging, its desk running, and one who asks it."""

    def __init__(self, folder: Path) -> None:
        self.rooms = Rooms(folder)
        self.jobs = JobStore.open(f"sqlite:///{folder}/jobs.sqlite", shared_staging=True)
        self.bucket = Bucket(folder / "bucket")
        self.stager = self._stager()
        self.desk = ReceiptDesk(
            ReceiptSocket(folder / "receipts"),
            node=NODE,
            rows=self.rooms.intake,
            jobs=self.jobs,
            stager=self._stager(),
        )
        self.asker = ReceiptAsker(folder / "receipts")
        self.thread = threading.Thread(target=self.desk.run)
        self.thread.start()

    def _stager(self) -> Stager:
        return Stager(
            node=NODE,
            reader=self.rooms.reader,
            jobs=self.jobs,
            staging=self.bucket,
            segment_gone=self.rooms.intake.forgotten,
            hash_key=b"key",
            date="study",
            shared=True,
            puts_at_once=4,
        )

    def stage_all(self) -> None:
        found = self.jobs.to_stage(NODE, received_before=1e12, keep=True, limit=100)
        assert self.stager.stage(found) == []

    def deliver_all(self) -> None:
        now = self.rooms.clock.now
        claims = self.jobs.claim("pacs", node=NODE, limit=100, lease_seconds=60, now=now)
        assert claims
        self.jobs.settle([Settlement(one, Delivered(), now, now) for one in claims], now)

    def close(self) -> None:
        for gate in self.bucket.gates.values():
            gate.set()
        self.desk.stop()
        self.thread.join()
        self.asker.close()
        self.jobs.close()
        self.rooms.writer.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_a_receipt_is_given_for_what_is_staged(site: Site) -> None:
    committed = site.rooms.receive("1.2.1")
    site.rooms.intake.recover()
    assert site.asker.wait(committed, "1.2.1", HANG_SECONDS)
    assert site.jobs.copies.only_in_spool(["1.2.1"]) == {"1.2.1": []}


def test_while_its_file_is_deleted_an_object_received_again_is_neither_put_nor_receipted(site: Site) -> None:
    """The put would succeed, for the file is there, and the deletion would then take it."""
    site.rooms.receive("1.2.1")
    site.rooms.intake.recover()
    site.stage_all()
    site.deliver_all()
    marked = site.jobs.purgeable(ANYWHERE, settled_before=1e12, limit=9)
    assert len(marked) == 1
    site.bucket.puts.clear()
    again = site.rooms.receive("1.2.1", association="a2")
    site.rooms.intake.recover()
    assert not site.asker.wait(again, "1.2.1", 1.0)
    assert site.bucket.puts == []
    for _, key in marked:
        site.bucket.delete(key)
    site.jobs.purged(marked)
    assert site.asker.wait(again, "1.2.1", HANG_SECONDS)
    assert len(site.bucket.puts) == 1
    with site.bucket.open(site.bucket.puts[0]) as file:
        assert bytes(file).endswith(dataset("1.2.1"))


def length_of(site: Site, uid: str) -> int:
    """Of the file that is in the spool alone."""
    ((_, row),) = site.jobs.copies.only_in_spool([uid])[uid]
    return row.file_length


def two(site: Site) -> tuple[Committed, Committed]:
    """Objects of unlike length, with rows."""
    committed = site.rooms.receive("1.2.1"), site.rooms.receive("1.2.2", dataset("1.2.2", body=bytes(5000)))
    site.rooms.intake.recover()
    return committed


def test_a_slow_put_holds_up_no_other_receipt(site: Site) -> None:
    slow, quick = two(site)
    gate = site.bucket.gates[length_of(site, "1.2.1")] = threading.Event()
    came: list[bool] = []
    waiting = threading.Thread(target=lambda: came.append(site.asker.wait(slow, "1.2.1", HANG_SECONDS)))
    waiting.start()
    wait_until(lambda: len(site.bucket.puts) == 1, "the slow put begins", HANG_SECONDS)
    assert site.asker.wait(quick, "1.2.2", HANG_SECONDS / 3)
    assert came == []
    gate.set()
    waiting.join()
    assert came == [True]
    assert len(site.bucket.puts) == 2, "each once, however often it was looked at"


def test_one_that_cannot_be_put_holds_up_no_other_and_is_tried_again(site: Site) -> None:
    bad, good = two(site)
    site.bucket.bad = {length_of(site, "1.2.1")}
    assert not site.asker.wait(bad, "1.2.1", 1.0)
    assert site.asker.wait(good, "1.2.2", HANG_SECONDS)
    site.bucket.bad.clear()
    assert site.asker.wait(bad, "1.2.1", HANG_SECONDS)


def test_what_is_owed_and_whose_bytes_are_lost_gets_no_receipt(site: Site) -> None:
    """It has a row and no bytes in the spool, as what is staged has, or what is delivered and not kept."""
    committed = site.rooms.receive("1.2.1")
    site.rooms.intake.recover()
    site.jobs.forget_segment(NODE, committed.generation)
    assert not site.asker.wait(committed, "1.2.1", 1.0)
    site.deliver_all()
    assert site.asker.wait(committed, "1.2.1", HANG_SECONDS)


def test_many_at_once_are_each_put_once_and_each_get_a_receipt(site: Site) -> None:
    committed = {uid: site.rooms.receive(uid) for uid in (f"1.2.{number}" for number in range(40))}
    site.rooms.intake.recover()
    with ThreadPoolExecutor(len(committed)) as pool:
        came = list(pool.map(lambda one: site.asker.wait(one[1], one[0], HANG_SECONDS), committed.items()))
    assert came == [True] * len(committed)
    assert len(site.bucket.puts) == len(set(site.bucket.puts)) == len(committed)


def test_a_put_that_is_on_its_way_when_the_node_stops_is_told(site: Site) -> None:
    committed = site.rooms.receive("1.2.1")
    site.rooms.intake.recover()
    gate = site.bucket.gates[length_of(site, "1.2.1")] = threading.Event()
    waiting = threading.Thread(target=lambda: site.asker.wait(committed, "1.2.1", HANG_SECONDS / 10))
    waiting.start()
    wait_until(lambda: len(site.bucket.puts) == 1, "the put begins", HANG_SECONDS)
    site.desk.stop()
    gate.set()
    site.thread.join()
    assert site.jobs.copies.only_in_spool(["1.2.1"]) == {"1.2.1": []}
    waiting.join()


def test_a_segment_waits_for_what_is_put_out_of_it_also_where_nothing_is_kept(site: Site) -> None:
    """Else an object would be in the bucket for ever that no row names."""
    sweep = Sweep(
        node=NODE,
        reader=site.rooms.reader,
        jobs=site.jobs,
        staging=site.bucket,
        intake=site.rooms.intake,
        nudged=site.rooms.rows_changed,
        hash_key=b"key",
        hot_seconds=3600.0,
        keep_seconds=0.0,
        min_free_bytes=0,
        date="study",
        shared=True,
        also_read=site.desk.reads,
        clock=site.rooms.clock,
    )
    committed = site.rooms.receive("1.2.1")
    site.rooms.writer.close()
    site.rooms.intake.recover()
    gate = site.bucket.gates[length_of(site, "1.2.1")] = threading.Event()
    came: list[bool] = []
    waiting = threading.Thread(target=lambda: came.append(site.asker.wait(committed, "1.2.1", HANG_SECONDS)))
    waiting.start()
    wait_until(lambda: len(site.bucket.puts) == 1, "the put begins", HANG_SECONDS)
    site.deliver_all()
    assert sweep.free() == 0
    gate.set()
    waiting.join()
    assert came == [True]
    site.rooms.clock.now += 1e9  # the stager has the real time
    assert (sweep.free(), sweep.purge()) == (1, 1)
    assert list(site.bucket.scan()) == []
