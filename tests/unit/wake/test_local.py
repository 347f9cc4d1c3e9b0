"""A worker is woken by its own destination, without loss and without waiting its time out."""

import threading
import time

from relaypacs.wake.local import LocalWake


def test_waiting_in_vain():
    before = time.monotonic()
    assert LocalWake().wait("pacs", 0.05) is False
    assert time.monotonic() - before >= 0.05


def test_a_notification_before_the_wait_is_not_lost_and_counts_once():
    wake = LocalWake()
    wake.notify("pacs")
    wake.notify("pacs")
    assert wake.wait("pacs", 60) is True
    assert wake.wait("pacs", 0) is False


def test_only_the_named_destination_wakes():
    wake = LocalWake()
    wake.notify("other")
    assert wake.wait("pacs", 0.01) is False


def test_every_worker_of_a_destination_wakes():
    wake, woken = LocalWake(), []
    workers = [threading.Thread(target=lambda: woken.append(wake.wait("pacs", 30))) for _ in range(3)]
    for worker in workers:
        worker.start()
    time.sleep(0.1)
    before = time.monotonic()
    wake.notify("pacs")
    for worker in workers:
        worker.join(10)
    assert woken == [True] * 3
    assert time.monotonic() - before < 5


def test_a_worker_that_was_busy_sees_it_even_after_another_did():
    wake = LocalWake()
    wake.notify("pacs")
    assert wake.wait("pacs", 0) is True
    other = []
    busy = threading.Thread(target=lambda: other.append(wake.wait("pacs", 0)))
    busy.start()
    busy.join(10)
    assert other == [True]
