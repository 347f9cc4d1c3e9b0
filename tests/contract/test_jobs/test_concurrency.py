"""Several processes and threads on one table: a delivery has one owner, and bytes that are owed are not let go."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from relaypacs.jobs.states import Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Selection
from relaypacs.model import Deferred, Scope
from tests.unit.jobs.made import NODE, arrival, settled

COUNT = 800
ROUNDS = 150


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


def test_no_segment_is_let_go_under_a_delivery(store: JobStore) -> None:
    """One thread receives the same object again and again and delivers it; the other frees whatever it may."""
    freed: set[str] = set()
    wrong: list[str] = []
    done = threading.Event()

    def free() -> None:
        while not done.is_set():
            for generation in [f"g{number}" for number in range(ROUNDS) if f"g{number}" not in freed]:
                # Only what has been received is asked for, as the sweep does.
                if generation in received and not store.segment_needed(NODE, generation, keep=False):
                    freed.add(generation)
                    store.forget_segment(NODE, generation)

    received: set[str] = set()
    sweep = threading.Thread(target=free)
    sweep.start()
    for number in range(ROUNDS):
        store.take_in(NODE, [arrival(generation=f"g{number}")], [], [], 1.0)
        received.add(f"g{number}")
        (claim,) = store.claim("pacs", node=NODE, limit=1, lease_seconds=600, now=2.0)
        if claim.location.generation is None or claim.location.generation in freed:
            wrong.append(str(claim.location.generation))
        store.settle(settled([claim]), 3.0)
    done.set()
    sweep.join()
    assert wrong == []
    assert len(freed) > ROUNDS / 10


def test_people_and_workers_at_the_same_rows_do_not_wait_for_ever(store: JobStore, url: str) -> None:
    """Somebody holds and releases everything while it is being claimed, tried and put off."""
    store.take_in(NODE, [arrival(f"1.{n}", study=str(n // 20), priority=n % 7) for n in range(COUNT // 2)], [], [], 1.0)
    problems: list[BaseException] = []
    done = threading.Event()

    def work(mine: JobStore) -> None:
        try:
            while not done.is_set():
                batch = mine.claim("pacs", node=NODE, limit=50, lease_seconds=600, now=10.0)
                half = len(batch) // 2
                mine.renew(batch, lease_seconds=600, now=10.0)
                mine.settle(settled(reversed(batch[:half]), Deferred("x", Scope.SITE), retry_at=5.0), 11.0)
                mine.give_back(batch[half:])
        except BaseException as problem:
            problems.append(problem)

    stores = [JobStore.open(url) for _ in range(2)]
    workers = [threading.Thread(target=work, args=(one,)) for one in stores for _ in range(2)]
    for worker in workers:
        worker.start()
    held = 0
    for _ in range(ROUNDS // 10):
        found = store.find(Verb.HOLD, Selection())
        held += store.act(Verb.HOLD, found.ids, Selection(), 12.0).changed
        store.act(Verb.RELEASE, store.find(Verb.RELEASE, Selection()).ids, Selection(), 12.0)
    done.set()
    for worker in workers:
        worker.join()
    for one in stores:
        one.close()
    assert problems == []
    assert held > 0
    ledger = store.ledger()
    assert (ledger.pending, ledger.held, ledger.imbalance) == (COUNT // 2, 0, 0)
