"""Several processes on one table: every delivery is claimed by one of them, and the counts are right."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from relaypacs.jobs.store import JobStore
from tests.unit.jobs.made import NODE, arrival, settled

COUNT = 800


def claim_all(url: str) -> list[tuple[int, int]]:
    """Claim and settle until nothing is left; returns what was claimed."""
    store = JobStore.open(url)
    mine: list[tuple[int, int]] = []
    while batch := store.claim("pacs", node=NODE, limit=9, lease_seconds=600, now=10.0):
        mine += [(one.delivery_id, one.token) for one in batch]
        assert store.settle(settled(batch), 11.0) == len(batch)
    store.close()
    return mine


def test_processes_share_the_queue(store: JobStore, url: str) -> None:
    store.take_in(NODE, [arrival(f"1.{n}", study=str(n // 20)) for n in range(COUNT)], [], [], 1.0)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
        claimed = [one for part in processes.map(claim_all, [url] * 3) for one in part]
    assert len({delivery_id for delivery_id, _ in claimed}) == len(claimed) == COUNT
    assert {token for _, token in claimed} == {1}
    ledger = store.ledger()
    assert (ledger.delivered, ledger.pending, ledger.imbalance) == (COUNT, 0, 0)
