"""A node that owes much is ready soon after `kill -9` of all of it, and skips nothing of what it owes.

CI: 3,000 deliveries. `--long`: 100,000, ready in less than 10 seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.flood import flood, small_images
from tests.crash.harness.recorder import Recorder
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until

ASSOCIATIONS = 8


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_a_backlog_is_delivered_after_a_restart(
    database: str, tmp_path: Path, request: pytest.FixtureRequest, long_run: bool, peers: ExitStack
) -> None:
    images = small_images(random.Random(), 50_000 if long_run else 1_500)
    owed = 2 * len(images)
    recorders = [Recorder(), Recorder()]
    environment: dict[str, str] = {}
    url = f"sqlite:///{tmp_path}/node/state/jobs.sqlite"
    if database == "PostgreSQL":
        server: Postgres = request.getfixturevalue("server")
        url = environment["DATABASE_URL"] = server.create_database(f"backlog_{random.getrandbits(40):x}")
    node = Node(
        tmp_path / "node",
        destinations=[dimse(f"to-{one.port}", one.port, one.aet, retry="1000x1s") for one in recorders],
        environment=environment,
    )
    peers.callback(node.stop)
    node.start()
    jobs = JobStore.open(url)
    peers.callback(jobs.close)
    flood(node.port, images, ASSOCIATIONS)
    wait_until(is_settled(jobs, received=len(images), pending=owed), "rows of all of them", 300)
    node.kill()
    assert jobs.ledger().pending == owed
    for recorder in recorders:
        peers.enter_context(recorder)
    begun = time.monotonic()
    node.start(60)
    ready_seconds = time.monotonic() - begun
    begun = time.monotonic()
    wait_until(is_settled(jobs, received=len(images), pending=0), "their deliveries", 900, every_seconds=0.2)
    print(
        f"{database}: {owed} deliveries pending, ready {ready_seconds:.1f} s after the start, "
        f"all delivered {time.monotonic() - begun:.0f} s later"
    )
    expected = {image.sop_instance_uid: image.digest for image in images}
    in_flight = sum(int(str(event["message"]).split()[0]) for event in node.events("leases-ended"))
    for recorder in recorders:
        arrived = recorder.arrived()
        assert {uid: digests[0] for uid, digests in arrived.items()} == expected
        assert sum(len(digests) - 1 for digests in arrived.values()) <= in_flight
    book = jobs.ledger()
    assert (book.delivered, book.failed, book.imbalance) == (owed, 0, 0)
    if long_run:
        assert ready_seconds < 10


def is_settled(jobs: JobStore, *, received: int, pending: int) -> Callable[[], bool]:
    """Whether the ledger says so and is balanced."""

    def settled() -> bool:
        book = jobs.ledger()
        return (book.received, book.pending, book.imbalance) == (received, pending, 0)

    return settled
