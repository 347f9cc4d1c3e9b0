"""Four nodes on one PostgreSQL: whatever reaches any of them is delivered once to each destination.

Some objects reach two nodes, as behind a load balancer when a modality sends again what was not acknowledged in time.
CI: 400 objects; `--long`: 10,000.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select

from relaypacs.jobs.schema import delivery
from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.flood import flood, small_images
from tests.crash.harness.recorder import Recorder
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until

NODES = 4
TWICE = 20
"""Every so many-th object is sent to the next node too."""


@pytest.mark.timeout(900)
def test_each_object_is_delivered_once(tmp_path: Path, server: Postgres, long_run: bool, peers: ExitStack) -> None:
    images = small_images(random.Random(), 10_000 if long_run else 400)
    recorders = [peers.enter_context(Recorder()) for _ in range(2)]
    url = server.create_database(f"shared_{random.getrandbits(40):x}")
    nodes = [
        Node(
            tmp_path / f"node-{number}",
            destinations=[dimse(f"to-{one.port}", one.port, one.aet) for one in recorders],
            callers=({"ae_title": "*", "resend": "suppress"},),
            sections={"node": {"name": f"node-{number}"}, "receive": {"processes": 1}},
            environment={"DATABASE_URL": url},
        )
        for number in range(NODES)
    ]
    shares = [images[number::NODES] for number in range(NODES)]
    sent = [share + shares[number - 1][::TWICE] for number, share in enumerate(shares)]
    with ThreadPoolExecutor(NODES) as pool:
        for node in nodes:
            peers.callback(node.stop)
        list(pool.map(Node.start, nodes))
        list(pool.map(lambda node, share: flood(node.port, share, 2), nodes, sent))
    jobs = JobStore.open(url)
    peers.callback(jobs.close)
    received = sum(map(len, sent))

    def over() -> bool:
        book = jobs.ledger()
        return (book.received, book.pending, book.imbalance) == (received, 0, 0)

    wait_until(over, "all delivered", 600, every_seconds=0.1)
    expected = {image.sop_instance_uid: [image.digest] for image in images}
    for recorder in recorders:
        assert recorder.arrived() == expected
    book = jobs.ledger()
    print(f"{NODES} nodes: {book}")
    assert (book.instances, book.duplicates) == (len(images), received - len(images))
    assert (book.delivered, book.failed, book.imbalance) == (2 * len(images), 0, 0)
    with create_engine(url).connect() as connection:
        homes = connection.execute(select(delivery.c.home, func.count()).group_by(delivery.c.home)).all()
        tried = connection.scalars(select(delivery.c.id).where(delivery.c.attempts != 1)).all()
    assert len(homes) == NODES
    assert tried == []
    told = [event for node in nodes for event in node.events()]
    # Not "job-table-down": of two nodes that take in the same object at once the later one is refused, and tries again.
    bad = ("leases-lost", "process-died", "process-crashed")
    assert [(one["event"], one["message"]) for one in told if one["event"] in bad] == []
