"""A node whose whole state lies on a disk that fills up: nothing acknowledged is lost, and it recovers by itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until
from tests.peers.raw import AC, EXPLICIT, MR, Raw
from tests.samples import dataset_of, read_sample, write_mr_series

MARK = 16 << 20
CONTEXTS = ((1, MR, (EXPLICIT,)),)
PADDING = b"\xfc\xff\xfc\xffOB\0\0"  # Data Set Trailing Padding (PS3.10 7.2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(port: int, objects: dict[str, bytes], sent: dict[str, bytes]) -> int:
    """Send until one is refused; what was acknowledged goes to `sent`. Returns how many there were."""
    before = len(sent)
    with Raw(port) as peer:
        if peer.associate(contexts=CONTEXTS) != AC:
            return 0
        for uid, data in objects.items():
            if uid in sent:
                continue
            if peer.store(data, sop_class=MR, sop_instance=uid) != 0:
                break
            sent[uid] = data
        peer.release()
    return len(sent) - before


def free_bytes(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_bsize


def test_a_disk_filled_by_what_a_destination_is_owed_empties_itself(
    tmp_path: Path, small_disk: Path, node: Callable[..., Node]
) -> None:
    objects = {}
    size = 512 << 10
    for path in write_mr_series(tmp_path / "series", 200, rows=64, columns=64):
        data = dataset_of(path.read_bytes())
        objects[read_sample(path).sop_instance_uid] = data + PADDING + size.to_bytes(4, "little") + bytes(size)
    sent: dict[str, bytes] = {}
    pacs = StoreScp(tmp_path / "pacs", options=())
    running = node(
        destinations=[dimse("pacs", pacs.port, pacs.aet, retry="1000x1s", connect_timeout_seconds=1.0)],
        sections={
            "node": {"state_dir": str(small_disk / "state")},
            "spool": {"min_free_bytes": MARK, "segment_bytes": 1 << 20},
            "staging": {"hot_seconds": 3.0},
        },
    )
    # Down: the spool fills to its mark, staging to its own, and both stay out of what the job table needs.
    wait_until(lambda: fill(running.port, objects, sent) == 0, "the node refuses for want of space", 60.0)
    wait_until(lambda: bool(running.events("sweep-trouble")), "staging has come to its limit", 60.0)
    assert free_bytes(small_disk) > MARK // 4
    assert running.ledger()["pending"] == len(sent) > 40
    # Up again: delivered without anybody's help, and what is only kept makes room for what comes.
    with pacs:
        running.wait_settled(len(sent), timeout_seconds=90)
        wait_until(lambda: fill(running.port, objects, sent) > 0, "the node takes objects again", 30.0)
        ledger = running.wait_settled(len(sent), timeout_seconds=90)
        assert ledger["delivered"] == len(sent)
        assert ledger["imbalance"] == 0
        arrived = {path.name.partition(".")[2]: path for path in pacs.files()}
        assert arrived.keys() == sent.keys()
        assert all(dataset_of(path.read_bytes()) == sent[uid] for uid, path in arrived.items())
    assert not running.events("process-died")
