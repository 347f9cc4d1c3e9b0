"""A node on a real PostgreSQL: reception goes on while the database is down, and everything catches up by itself."""

from __future__ import annotations

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
from tests.samples import dataset_of, read_sample, write_mr_series


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
