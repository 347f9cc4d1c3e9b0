"""A spool without space, and a spool whose disk fails: A700 and RJ 2/3/2, and both recover by themselves."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.spool.disk import Disk
from tests.peers.ports import wait_until
from tests.peers.raw import AC, RJ, Raw, associate_rq, request
from tests.peers.receiver import Receiver


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_is_answered_and_recovered_from(small_disk: Path) -> None:
    with Receiver(small_disk / "spool", spool={"segment_bytes": 1 << 20, "min_free_bytes": 4 << 20}) as receiver:
        filler = small_disk / "filler"
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            assert peer.store(b"before", sop_instance="1.1") == 0
            space = os.statvfs(small_disk)
            filler.write_bytes(bytes(space.f_bavail * space.f_bsize - (3 << 20)))
            assert peer.store(b"below the mark", sop_instance="1.3") == 0xA700
            with Raw(receiver.port) as other:
                other.send(associate_rq())
                assert other.read_pdu() == (RJ, b"\0\x02\x03\x02")
            filler.unlink()
            wait_until(lambda: peer.store(b"after", sop_instance="1.4") == 0, "the spool recovered", 5.0)
            with Raw(receiver.port) as other:
                assert other.associate() == AC
            # Full in the middle of an object: the rest is read, the answer is A700, the association goes on.
            assert peer.store(bytes(40 << 20), sop_instance="1.2") == 0xA700
            peer.send_message(request(0x0030), context_id=3)
            assert peer.read_status() == 0
            peer.release()
        receiver.wait_ends(2)
        stored = {one.record.meta.sop_instance_uid: one.dataset for one in receiver.objects()}
        assert stored == {"1.1": b"before", "1.4": b"after"}
        assert receiver.lines("association-rejected")[0]["reason"] == "no-space"
        assert {line["status"] for line in receiver.lines("object-refused")} == {"A700"}


def test_every_byte_taken_still_ends_associations_cleanly(small_disk: Path) -> None:
    """Not even the association's end fits: it is logged, and nothing hangs or dies."""
    with Receiver(small_disk / "spool", spool={"segment_bytes": 1 << 20}) as receiver:
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            with (small_disk / "filler").open("wb") as filler:
                try:
                    while True:
                        filler.write(bytes(65536))
                        filler.flush()
                except OSError:
                    pass
            assert peer.store(bytes(100_000)) == 0xA700
            peer.release()
        assert receiver.wait_line("association-ended")["objects"] == 0
        (small_disk / "filler").unlink()
        wait_until(lambda: stores_again(receiver.port), "the spool recovered", 5.0)


class FailingDisk(Disk):
    """A disk whose sync fails while `broken`."""

    def __init__(self) -> None:
        self.broken = False

    def sync(self, fd: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(fd)


def test_failed_sync_is_never_a_success(tmp_path: Path) -> None:
    disk = FailingDisk()
    with Receiver(tmp_path / "spool", disk=disk) as receiver:
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            assert peer.store(b"before", sop_instance="1.1") == 0
            disk.broken = True
            assert peer.store(b"lost", sop_instance="1.2") == 0xA700
            with Raw(receiver.port) as other:
                other.send(associate_rq())
                assert other.read_pdu() == (RJ, b"\0\x02\x03\x02")
            disk.broken = False
            wait_until(lambda: peer.store(b"after", sop_instance="1.3") == 0, "the spool recovered", 10.0)
            peer.release()
        (end,) = receiver.wait_ends(1)
        stored = {one.record.meta.sop_instance_uid: one.dataset for one in receiver.objects()}
        assert stored == {"1.1": b"before", "1.3": b"after"}
        assert end["objects"] == 2
        assert receiver.lines("object-refused")[0]["error"] == "SpoolError"


def stores_again(port: int) -> bool:
    """Whether a new association stores an object."""
    with Raw(port) as peer:
        return peer.associate() == AC and peer.store(b"after") == 0
