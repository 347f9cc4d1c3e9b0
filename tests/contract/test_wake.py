"""What every way of waking forward workers must do. An adapter joins by adding its factory to `ADAPTERS`.

A factory gives two members: on one node they are the same object, over several nodes two that share a Redis.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relaypacs.wake.keeper import Keeper
from relaypacs.wake.local import LocalWake
from relaypacs.wake.protocol import Wake
from relaypacs.wake.remote import RedisWake
from tests.peers.redis import RedisServer

Pair = tuple[Wake, Wake]


def local(stack: ExitStack, folder: Path) -> Pair:
    wake = LocalWake()
    return wake, wake


def redis_wake(stack: ExitStack, server: RedisServer, node: str) -> RedisWake:
    keeper = Keeper(server.settings(), node=node, process="relay")
    wake = RedisWake(keeper)
    keeper.start()
    wake.start()
    stack.callback(keeper.close)
    stack.callback(wake.close)
    assert wake.subscribed.wait(10)
    return wake


def over_redis(stack: ExitStack, folder: Path) -> Pair:
    server = stack.enter_context(RedisServer(folder))
    return redis_wake(stack, server, "one"), redis_wake(stack, server, "two")


ADAPTERS: dict[str, Callable[[ExitStack, Path], Pair]] = {"local": local, "redis": over_redis}


@pytest.fixture(params=ADAPTERS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield ADAPTERS[request.param](stack, tmp_path)


def test_waiting_in_vain(pair: Pair) -> None:
    before = time.monotonic()
    assert pair[0].wait("pacs", 0.05) is False
    assert time.monotonic() - before >= 0.05


def test_a_notification_before_the_wait_is_not_lost_and_counts_once(pair: Pair) -> None:
    wake = pair[0]
    wake.notify("pacs")
    wake.notify("pacs")
    assert wake.wait("pacs", 60) is True
    assert wake.wait("pacs", 0) is False


def test_the_others_are_woken_too(pair: Pair) -> None:
    here, there = pair
    there.wait("pacs", 0)
    here.notify("pacs")
    assert there.wait("pacs", 30) is True


def test_only_the_named_destination_wakes(pair: Pair) -> None:
    here, there = pair
    for wake in pair:
        wake.wait("pacs", 0)
        wake.wait("other", 0)
    here.notify("other")
    assert there.wait("other", 30) is True
    assert [wake.wait("pacs", 0) for wake in pair] == [False, False]


def test_every_worker_of_a_destination_wakes(pair: Pair) -> None:
    here, there = pair
    woken: list[bool] = []
    workers = [threading.Thread(target=lambda: woken.append(there.wait("pacs", 30))) for _ in range(3)]
    there.wait("pacs", 0)
    for worker in workers:
        worker.start()
    time.sleep(0.1)
    here.notify("pacs")
    for worker in workers:
        worker.join(20)
    assert woken == [True] * 3


def test_a_worker_that_was_busy_sees_it_even_after_another_did(pair: Pair) -> None:
    wake = pair[0]
    wake.notify("pacs")
    assert wake.wait("pacs", 0) is True
    other: list[bool] = []
    busy = threading.Thread(target=lambda: other.append(wake.wait("pacs", 0)))
    busy.start()
    busy.join(10)
    assert other == [True]


def test_many_notifications_from_many_threads_reach_a_worker_that_looks_after_each(pair: Pair) -> None:
    here, there = pair
    there.wait("pacs", 0)
    senders = [threading.Thread(target=lambda: [here.notify("pacs") for _ in range(200)]) for _ in range(4)]
    for sender in senders:
        sender.start()
    assert there.wait("pacs", 30) is True
    for sender in senders:
        sender.join(30)
    while there.wait("pacs", 0.5):
        pass
    here.notify("pacs")
    assert there.wait("pacs", 30) is True


def test_closing_twice_is_fine_and_what_is_local_goes_on(pair: Pair) -> None:
    for wake in pair:
        wake.close()
        wake.close()
        wake.notify("pacs")
        assert wake.wait("pacs", 5) is True


def test_redis_wakes_everybody_who_may_have_missed_something(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path))
        one, two = redis_wake(stack, server, "one"), redis_wake(stack, server, "two")
        two.wait("pacs", 0)
        server.kill()
        two.subscribed.clear()
        one.notify("pacs")
        assert one.wait("pacs", 0) is True, "what is local needs no Redis"
        server.start()
        assert two.wait("pacs", 30) is True, "the notification was lost, so whoever returns looks"
        assert two.subscribed.wait(30)
        while two.wait("pacs", 0):
            pass
        one.notify("pacs")
        assert two.wait("pacs", 30) is True
