"""A node on a real PostgreSQL: reception goes on while the database is down, and everything catches up by itself."""

from __future__ import annotations

import json
import os
import secrets
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.test_jobs import postgres
from tests.contract.test_jobs.postgres import Postgres
from tests.peers.dcmtk import StoreScp, echoscu, storescu
from tests.peers.node import Node, dimse
from tests.peers.ports import free_port, wait_until
from tests.peers.raw import AC, EXPLICIT, MR, RJ, Raw, associate_rq
from tests.samples import dataset_of, read_sample, write_mr_series

CONTEXTS = ((1, MR, (EXPLICIT,)),)


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A PostgreSQL that keeps what it committed, with an empty database `relay`."""
    binaries = postgres.debian_binaries()
    if binaries is None:
        pytest.skip("needs Debian's package postgresql")
    with Postgres(binaries) as server:
        server.create_database("relay")
        yield server


@pytest.fixture
def database(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database's URL, in DATABASE_URL for nodes and commands: behind a host that is down, as after a failover."""
    url = f"postgres://postgres@127.0.0.1:{free_port()},127.0.0.1:{server.port}/relay?target_session_attrs=read-write"
    monkeypatch.setenv("DATABASE_URL", url)
    return url


def job_table_is(relay: Node, text: str) -> bool:
    status, body = relay.get("/readyz")
    return text in body and (status == 200) == (text == "answers")


def arrived(scp: StoreScp) -> list[bytes]:
    return sorted(dataset_of(path.read_bytes()) for path in scp.files())


def test_down_at_start(
    tmp_path: Path, server: Postgres, database: str, peers: ExitStack, storescp: Callable[..., StoreScp]
) -> None:
    files = write_mr_series(tmp_path / "series", 20)
    archive = storescp()
    server.crash()
    relay = Node(tmp_path / "node", destinations=[dimse("archive", archive.port, archive.aet)])
    peers.callback(relay.stop)
    relay.launch()
    wait_until(lambda: echoscu(relay.port).returncode == 0, "reception with the database down", 20)
    sent = storescu(relay.port, files)
    assert sent.returncode == 0, sent.stdout
    assert relay.get("/readyz")[0] == 503
    wait_until(lambda: len(relay.events("job-table-down")) == 1, "a line that says so", 10)
    assert relay.cli("queue").returncode == 2
    server.start()
    wait_until(lambda: job_table_is(relay, "answers"), "a job table, made by the node", 20)
    book = relay.wait_settled(20, 60)
    assert (book["received"], book["delivered"], book["imbalance"]) == (20, 20, 0)
    assert arrived(archive) == sorted(path.read_bytes()[read_sample(path).dataset_offset :] for path in files)
    wait_until(relay.is_ready, "readiness", 20)


def test_stopped_in_the_middle_and_started_again(
    tmp_path: Path, server: Postgres, database: str, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    files = write_mr_series(tmp_path / "series", 300)
    archive = storescp()
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet, retry="1000x1s")],
        sections={"jobs": {"lease_seconds": 3}},
    )
    failures: list[str] = []

    def send() -> None:
        for start in range(0, len(files), 10):
            done = storescu(relay.port, files[start : start + 10])
            if done.returncode:
                failures.append(done.stdout)

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(3):
        time.sleep(0.5)
        server.crash()
        wait_until(lambda: relay.get("/readyz")[0] == 503, "the node to say that it is not ready", 20)
        time.sleep(0.5)
        server.start()
    sender.join(120)
    assert failures == []
    book = relay.wait_settled(300, 90)
    print(f"database stopped 3 times: {book}, leases lost {relay.events('leases-lost')}")
    assert (book["received"], book["instances"], book["delivered"], book["imbalance"]) == (300, 300, 300, 0)
    assert arrived(archive) == sorted(path.read_bytes()[read_sample(path).dataset_offset :] for path in files)
    wait_until(lambda: job_table_is(relay, "answers"), "readiness", 20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder]).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_down_until_the_spool_is_at_its_mark(
    small_disk: Path, server: Postgres, database: str, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    archive = storescp()
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet, retry="1000x1s")],
        sections={
            "node": {"state_dir": str(small_disk / "state")},
            "spool": {"min_free_bytes": 16 << 20, "segment_bytes": 1 << 20, "recycle_segments": 4},
            "staging": {"keep": "none"},
        },
    )
    sent: dict[str, bytes] = {}

    def store(peer: Raw) -> int:
        """Send an object nobody has sent; its status."""
        uid = f"1.2.3.{len(sent)}"
        data = named(uid, secrets.token_bytes(1 << 19))
        status = peer.store(data, sop_class=MR, sop_instance=uid)
        if status == 0:
            sent[uid] = data
        return status

    def takes() -> bool:
        with Raw(relay.port) as peer:
            return peer.associate(contexts=CONTEXTS) == AC and store(peer) == 0

    assert takes()
    server.crash()
    wait_until(lambda: job_table_is(relay, "refused"), "the node to say that its job table is down", 20)
    with Raw(relay.port) as open_before:
        assert open_before.associate(contexts=CONTEXTS) == AC
        statuses = [store(open_before) for _ in range(20)]
        assert statuses == [0] * 20, "reception goes on"
        for _ in range(100):
            if statuses[-1] != 0:
                break
            statuses.append(store(open_before))
        assert statuses[-1] == 0xA700
        with Raw(relay.port) as refused:
            refused.send(associate_rq(contexts=CONTEXTS))
            assert refused.read_pdu() == (RJ, b"\0\x02\x03\x02")
        wait_until(lambda: what_is_wrong(relay) == {"job_table", "spool"}, "the node to say what is wrong", 10)
        server.start()
        wait_until(lambda: store(open_before) == 0, "the association that stayed open to be served again", 60)
        open_before.release()
    wait_until(takes, "associations to be admitted again", 20)
    book = relay.wait_settled(len(sent), 60)
    print(f"refused after {len(sent)} of 512 KiB: {book}")
    assert (book["received"], book["delivered"], book["imbalance"]) == (len(sent), len(sent), 0)
    assert {path.name.partition(".")[2]: dataset_of(path.read_bytes()) for path in archive.files()} == sent
    wait_until(relay.is_ready, "readiness", 30)
    assert not relay.events("process-died")


def what_is_wrong(relay: Node) -> set[str]:
    """The checks without which the node is not ready."""
    status, body = relay.get("/readyz")
    bad = {name for name, check in json.loads(body)["checks"].items() if check["needed"] and not check["ok"]}
    assert (status == 503) == bool(bad)
    return bad


def named(uid: str, pixels: bytes) -> bytes:
    """A dataset with a SOP Instance UID and pixels (PS3.5 7.1, Explicit VR Little Endian)."""
    value = uid.encode() + b"\0" * (len(uid) % 2)
    sop_class = MR.encode() + b"\0" * (len(MR) % 2)
    head = struct.pack("<HH2sH", 0x0008, 0x0016, b"UI", len(sop_class)) + sop_class
    head += struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", len(value)) + value
    return head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels


def test_two_nodes_share_a_table_and_each_delivers_its_own(
    tmp_path: Path, database: str, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    archive, down = storescp(), free_port()
    to = [dimse("archive", archive.port, archive.aet), dimse("later", down, "LATER", retry="1000x1s")]
    one = node("one", destinations=to, sections={"node": {"name": "one"}})
    two = node("two", destinations=to, sections={"node": {"name": "two"}})
    assert storescu(one.port, write_mr_series(tmp_path / "a", 10, seed="a")).returncode == 0
    assert storescu(two.port, write_mr_series(tmp_path / "b", 10, seed="b")).returncode == 0
    wait_until(lambda: len(archive.files()) == 20, "both nodes' objects", 30)
    wait_until(lambda: one.ledger()["delivered"] == 20, "both nodes' settlements", 30)
    assert one.ledger() == two.ledger()
    assert "one" in two.events("job-table-shared")[0]["message"]
    # What `one` received waits for it; `two` has its own delivered.
    one.stop()
    later = StoreScp(tmp_path / "later", aet="LATER")
    later.port = down
    with later:
        wait_until(lambda: len(later.files()) == 10, "what the other node received", 30)
        wait_until(lambda: two.ledger()["delivered"] == 30, "its settlements", 30)
        time.sleep(2.0)
        assert (len(later.files()), two.ledger()["pending"]) == (10, 10)
        one.start()
        book = one.wait_settled(20, 60)
    assert (book["delivered"], book["imbalance"]) == (40, 0)
    assert not one.events("delivery-failed") + two.events("delivery-failed")
