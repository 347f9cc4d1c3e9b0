"""The node-wide limits: exact across real processes, and forgotten with a process that died."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from relaypacs.config.model import Receive
from relaypacs.receive import limits as module
from relaypacs.receive.limits import (
    ASSOCIATIONS,
    ASSOCIATIONS_OF_AE,
    CONNECTIONS,
    CONNECTIONS_OF_ADDRESS,
    RATE,
    Limits,
    network,
)


def in_children(*works: Callable[[], int]) -> list[int]:
    """What each work returns (0 to 255), all running at once in processes of their own."""
    pids = []
    for work in works:
        pid = os.fork()
        if pid == 0:
            code = 255
            try:
                code = work()
            finally:
                os._exit(code)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_each_limit_has_its_word() -> None:
    share = Limits(Receive(max_connections=3, max_connections_per_address=2, max_associations=3)).join()
    assert [share.connect("10.0.0.1") for _ in range(3)] == [None, None, CONNECTIONS_OF_ADDRESS]
    assert [share.connect(f"10.0.0.{n}") for n in (2, 3)] == [None, CONNECTIONS]
    share.disconnect("10.0.0.1")
    assert share.connect("10.0.0.3") is None
    assert [share.associate("CT") for _ in range(4)] == [None, None, None, ASSOCIATIONS]
    assert set(module.SENTENCES) == {CONNECTIONS, CONNECTIONS_OF_ADDRESS, ASSOCIATIONS, ASSOCIATIONS_OF_AE, RATE}


def test_what_is_refused_takes_nothing() -> None:
    share = Limits(Receive(max_associations=3, max_associations_per_ae=1)).join()
    assert share.associate("CT") is None
    assert [share.associate("CT") for _ in range(10)] == [ASSOCIATIONS_OF_AE] * 10
    assert [share.associate("MR"), share.associate("US"), share.associate("XA")] == [None, None, ASSOCIATIONS]


def test_no_limit() -> None:
    share = Limits(Receive(max_connections=0, max_connections_per_address=0)).join()
    assert {share.connect("10.0.0.1") for _ in range(2000)} == {None}


def test_processes_share_a_limit_exactly() -> None:
    limits = Limits(Receive(max_associations=150, max_associations_per_ae=150), 3)

    def grab(slot: int) -> int:
        share = limits.join(slot)
        return sum(share.associate("CT") is None for _ in range(120))

    taken = in_children(lambda: grab(0), lambda: grab(1), lambda: grab(2))
    assert sum(taken) == 150


def test_a_process_that_died_is_forgotten_by_its_successor() -> None:
    limits = Limits(Receive(max_associations=5), 2)

    def take(count: int) -> int:
        share = limits.join(0)
        return sum(share.associate("CT") is None for _ in range(count))

    assert in_children(lambda: take(5)) == [5]
    other = limits.join(1)
    assert other.associate("CT") == ASSOCIATIONS
    limits.join(0)
    assert [other.associate("CT") for _ in range(6)] == [None] * 5 + [ASSOCIATIONS]


def test_a_holder_of_the_lock_that_dies_blocks_nobody() -> None:
    limits = Limits(Receive(), 2)

    def die() -> int:
        with limits.locked():
            os._exit(7)

    assert in_children(die) == [7]
    assert limits.join(1).connect("10.0.0.1") is None


def test_threads_give_back_what_they_took() -> None:
    limits = Limits(Receive(max_associations=4))
    share = limits.join()
    most: list[int] = []
    inside = [0]

    def work() -> None:
        for _ in range(300):
            if share.associate("CT") is None:
                inside[0] += 1
                most.append(inside[0])
                inside[0] -= 1
                share.ended("CT")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [share.associate("CT") for _ in range(5)] == [None] * 4 + [ASSOCIATIONS]
    assert max(most) <= 4


def test_names_that_meet_in_a_bucket_are_counted_apart() -> None:
    limits = Limits(Receive(max_associations=100_000, max_associations_per_ae=2))
    share = limits.join()
    first = limits.key(ASSOCIATIONS_OF_AE, "AE0") % 4096
    meeting = [n for n in range(1, 40_000) if limits.key(ASSOCIATIONS_OF_AE, f"AE{n}") % 4096 == first][:6]
    for name in ["AE0", *(f"AE{n}" for n in meeting)]:
        assert [share.associate(name) for _ in range(3)] == [None, None, ASSOCIATIONS_OF_AE]
    for _ in range(2):
        share.ended("AE0")
    assert [share.associate("AE0") for _ in range(3)] == [None, None, ASSOCIATIONS_OF_AE]


@pytest.mark.parametrize(("rate", "at_once"), [(5.0, 5), (1.0, 1), (0.5, 1)])
def test_rate(rate: float, at_once: int) -> None:
    now = [100.0]
    share = Limits(Receive(max_association_rate_per_address=rate), clock=lambda: now[0]).join()
    assert [share.request("10.0.0.1") for _ in range(at_once + 2)] == [None] * at_once + [RATE] * 2
    assert share.request("10.0.0.2") is None
    passed = 0
    for _ in range(100):
        now[0] += 0.1
        passed += share.request("10.0.0.1") is None
    assert passed == round(10 * rate)


def test_many_addresses_do_not_grow_the_memory_nor_stop_the_rate() -> None:
    now = [100.0]
    share = Limits(Receive(max_association_rate_per_address=1), clock=lambda: now[0]).join()
    assert {share.request(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(50_000)} == {None}


def test_what_counts_as_one_address() -> None:
    assert network("10.0.0.1") == network("::ffff:10.0.0.1")
    assert network("10.0.0.1") != network("10.0.0.2")
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("fe80::1%eth0") == network("fe80::2")
    assert network("no address") == "no address"


def test_who_has_most_of_the_connections_is_known() -> None:
    limits = Limits(Receive(), processes=2)
    one, other = limits.join(0), limits.join(1)
    assert not one.has_most()
    one.connect("10.0.0.1")
    assert not one.has_most()
    one.connect("10.0.0.2")
    assert one.has_most()
    assert not other.has_most()
    other.connect("10.0.0.3")
    assert not one.has_most()


@pytest.mark.parametrize(("connections", "processes"), [(0, 2), (100, 1)])
def test_where_nothing_is_counted_or_nobody_else_is_nobody_gives_way(connections: int, processes: int) -> None:
    share = Limits(Receive(max_connections=connections), processes=processes).join()
    for number in range(5):
        share.connect(f"10.0.0.{number}")
    assert not share.has_most()
