"""`kill -9` at any instant leaves whole transactions: nothing that was said is missing, nothing is there by half."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Ledger
from relaypacs.model import Checkpoint
from tests.contract.test_jobs.conftest import Sql
from tests.contract.test_jobs.crash_worker import BATCH
from tests.unit.jobs.made import NODE, arrival, end
from tests.unit.jobs.made import settled as all_settled

ROOT = Path(__file__).parents[3]


def run_and_kill(url: str, seconds: float) -> tuple[int, int]:
    """Run the worker, kill it `seconds` after its first commit; returns the last checkpoint and the settles it told."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.test_jobs.crash_worker", url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert worker.stdout is not None
    told = worker.stdout.readline()
    time.sleep(seconds)
    worker.send_signal(signal.SIGKILL)
    lines = [line.split() for line in (told + worker.stdout.read()).splitlines()]
    worker.stdout.close()
    assert worker.wait() == -signal.SIGKILL
    whole = [(what, int(count)) for what, count in (line for line in lines if len(line) == 2)]
    received = max((count for what, count in whole if what == "received"), default=0)
    return received, sum(count for what, count in whole if what == "settled")


def at_rest(store: JobStore) -> Ledger:
    """The ledger, once a server has finished or forgotten what the killed process had sent it."""
    before, now = None, store.ledger()
    while before != now:
        time.sleep(0.1)
        before, now = now, store.ledger()
    return now


def test_a_killed_process_leaves_whole_transactions(store: JobStore, url: str, sql: Sql, *, long_run: bool) -> None:
    rng = random.Random(7)
    told_settled = 0
    for turn in range(100 if long_run else 8):
        # The first is given time to settle something, however busy the machine.
        received, settled = run_and_kill(url, rng.uniform(0.0, 0.25) if turn else 2.0)
        told_settled += settled
        ledger = at_rest(store)
        checkpoint = store.checkpoints(NODE).get("g1", Checkpoint("g1"))
        assert checkpoint.number >= received
        assert checkpoint.number % BATCH == 0
        assert ledger.imbalance == 0
        assert ledger.received == checkpoint.number
        ((attempts, counted),) = sql("SELECT (SELECT count(*) FROM attempt), (SELECT sum(attempts) FROM delivery)")
        assert attempts == (counted or 0)
        assert attempts >= told_settled
    assert told_settled > 0
    assert ledger.duplicates > 0
    # What was in flight comes back by its lease, and everything can be brought to an end.
    for destination in ("pacs", "cloud"):
        while batch := store.claim(destination, node=NODE, limit=500, lease_seconds=60, now=time.time() + 10):
            assert store.settle(all_settled(batch), time.time()) == len(batch)
    assert store.ledger().pending == 0
    assert store.ledger().imbalance == 0


CARRY = """
import sys
from relaypacs.jobs.store import JobStore
JobStore.open(sys.argv[1]).associations.carry_forward(ended_before=1e9, limit=9)
"""


def test_associations_are_carried_forward_whole_or_not_at_all(store: JobStore, url: str) -> None:
    store.take_in(NODE, [arrival("1.1", received_at=1.0)], [end(objects=1)], [], 1.0)
    store.settle(all_settled(store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0)), 3.0)
    store.audit.gather(9.0)
    store.forget_segment(NODE, "g1")
    assert store.forget(settled_before=9.0, limit=9) == 1
    before = store.ledger()
    killed = subprocess.run(
        [sys.executable, "-c", CARRY, url],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RELAYPACS_FAILPOINT": "jobs.mid-carry:1"},
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    assert at_rest(store) == before
    assert store.ledger(association="assoc-1").received == 1
    assert store.associations.carry_forward(ended_before=1e9, limit=9) == 1
    assert store.ledger() == before
    assert store.ledger(association="assoc-1").received == 0
