"""What `test_crash` kills: takes batches in and claims and settles them, and says so after each commit."""

from __future__ import annotations

import os
import random
import sys
import threading
import time

from relaypacs.jobs.store import JobStore
from relaypacs.model import Checkpoint, Deferred, Outcome, Scope
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, settled

BATCH = 20
OUTCOMES: tuple[tuple[Outcome, float | None], ...] = (
    (SENT, None),
    (SENT, None),
    (REFUSED, None),
    (Deferred("later", Scope.INSTANCE), 0.0),
)


def tell(what: str, count: int) -> None:
    """One write: the threads' lines don't mix."""
    os.write(1, f"{what} {count}\n".encode())


def receive(store: JobStore) -> None:
    """Take in one batch after another; every third object is one received before."""
    while True:
        at = store.checkpoints(NODE).get("g1", Checkpoint("g1"))
        numbers = [n if n % 3 else n // 2 for n in range(at.number, at.number + BATCH)]
        batch = [
            arrival(f"1.{n}", study=str(n // 50), to=("pacs", "cloud"), at_end=at.end + 1 + place)
            for place, n in enumerate(numbers)
        ]
        store.take_in(NODE, batch, [], [Checkpoint("g1", at.end + BATCH, at.number + BATCH)], time.time())
        tell("received", at.number + BATCH)


def forward(store: JobStore, destination: str) -> None:
    """Claim and settle; some leases are left to end."""
    rng = random.Random(destination)
    while True:
        batch = store.claim(destination, node=NODE, limit=15, lease_seconds=0.05, now=time.time())
        outcome, retry_at = rng.choice(OUTCOMES)
        done = store.settle(settled(batch[:12], outcome, retry_at=retry_at), time.time())
        tell("settled", done)


def main(url: str) -> None:
    """Work until killed."""
    store = JobStore.open(url)
    for destination in ("pacs", "cloud"):
        threading.Thread(target=forward, args=(store, destination), daemon=True).start()
    receive(store)


if __name__ == "__main__":
    main(sys.argv[1])
