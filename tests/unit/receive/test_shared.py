"""Limits of all nodes as one receive process keeps them while Redis is gone, or where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from relaypacs.config.model import Caller, Receive
from relaypacs.config.redis import Redis
from relaypacs.policy.admission import Admitted, Peer
from relaypacs.receive import shared as module
from relaypacs.receive.limits import SENTENCES, Limits, Share
from relaypacs.receive.shared import FAILED_TOO_OFTEN, FAILURES, TOO_MANY, SharedLimits, Ticket
from relaypacs.wake.keeper import Keeper
from tests.peers.ports import free_port, wait_until

HOST = "10.20.3.9"
Make = Callable[..., tuple[SharedLimits, Share]]


@pytest.fixture
def gone() -> Iterator[Make]:
    """Shared limits whose Redis is gone, and the process's share of the node's own; or without any Redis."""
    with ExitStack() as stack:

        def make(*, processes: int = 1, without: bool = False, **options: Any) -> tuple[SharedLimits, Share]:
            settings = Redis(url=f"redis://127.0.0.1:{free_port()}", **options)
            share = Limits(Receive(max_associations_per_ae=0)).join()
            if without:
                return SharedLimits(settings, None, share, processes), share
            keeper = Keeper(settings, node="one", process="test")
            stack.callback(keeper.close)
            keeper.start()
            wait_until(lambda: not keeper.there, "the loss to be seen", 10)
            return SharedLimits(settings, keeper, share, processes), share

        yield make


def admitted(calling_ae: str = "CT_1", host: str = HOST) -> Admitted:
    return Admitted(Caller(ae_title="*"), calling_ae, "RELAYPACS", Peer(host))


def enter(pair: tuple[SharedLimits, Share], calling_ae: str = "CT_1") -> Ticket | object:
    """As the edge and the association's thread do."""
    assert pair[1].associate(calling_ae) is None
    answer = pair[0].enter(admitted(calling_ae))
    if not isinstance(answer, Ticket):
        pair[1].ended(calling_ae)
    return answer


def test_a_part_of_the_associations_of_each_caller(gone: Make) -> None:
    pair = gone(max_associations_per_ae=9, nodes=2)
    tickets = [enter(pair) for _ in range(6)]
    assert tickets[4:] == [TOO_MANY] * 2
    assert isinstance(enter(pair, "CT_2"), Ticket)
    pair[0].leave(tickets[0])  # type: ignore[arg-type]
    pair[1].ended("CT_1")
    assert isinstance(enter(pair), Ticket)
    assert enter(pair) is TOO_MANY


def test_never_less_than_one(gone: Make) -> None:
    pair = gone(max_associations_per_ae=2, nodes=10)
    assert isinstance(enter(pair), Ticket)
    assert enter(pair) is TOO_MANY


@pytest.mark.parametrize(("most", "nodes", "processes", "part"), [(8, 2, 2, 2), (20, 2, 2, 5), (3, 5, 4, 1)])
def test_a_part_of_the_failures_of_an_address(gone: Make, most: int, nodes: int, processes: int, part: int) -> None:
    limits, _ = gone(max_failed_associations_per_address=most, nodes=nodes, processes=processes)
    for _ in range(part):
        assert not limits.refuses(HOST)
        limits.failed(HOST, "calling-ae")
    assert limits.refuses(HOST)
    assert limits.enter(admitted()) is FAILED_TOO_OFTEN
    assert not limits.refuses("10.20.3.10")
    assert isinstance(limits.enter(admitted(host="10.20.3.10")), Ticket)


def test_it_ends(gone: Make) -> None:
    limits, _ = gone(max_failed_associations_per_address=1, refuse_seconds=0.2)
    limits.failed(HOST, "request")
    assert limits.refuses(HOST)
    wait_until(lambda: not limits.refuses(HOST), "the end of it", 5)


def test_failures_that_are_far_apart_are_not_added_up(gone: Make) -> None:
    limits, _ = gone(max_failed_associations_per_address=4, failed_window_seconds=0.001)
    for _ in range(50):
        limits.failed(HOST, "request")
        time.sleep(0.002)
    assert not limits.refuses(HOST)


def test_one_ipv6_network_is_one_address(gone: Make) -> None:
    limits, _ = gone(max_failed_associations_per_address=1)
    limits.failed("2001:db8::1", "request")
    assert limits.refuses("2001:db8::ffff:1")
    assert not limits.refuses("2001:db8:0:1::1")


def test_only_what_the_peer_did_wrong_counts(gone: Make) -> None:
    limits, _ = gone(max_failed_associations_per_address=1)
    for word in (*SENTENCES, "no-space", "draining", TOO_MANY.word, FAILED_TOO_OFTEN.word):
        limits.failed(HOST, word)
    assert not limits.refuses(HOST)
    for number, word in enumerate(sorted(FAILURES)):
        limits.failed(f"10.0.0.{number}", word)
        assert limits.refuses(f"10.0.0.{number}"), word


def test_memory_is_bounded(gone: Make) -> None:
    limits, _ = gone(max_failed_associations_per_address=2, nodes=1)
    for number in range(3 * module._MOST_ADDRESSES):
        limits.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "request")
    assert len(limits._failures) == module._MOST_ADDRESSES
    last = 3 * module._MOST_ADDRESSES - 1
    limits.failed(f"10.{last >> 16}.{last >> 8 & 255}.{last & 255}", "request")
    assert limits.refuses(f"10.{last >> 16}.{last >> 8 & 255}.{last & 255}"), "the latest are remembered"


def test_without_redis_nothing_is_limited_here(gone: Make) -> None:
    pair = gone(without=True, max_associations_per_ae=1, max_failed_associations_per_address=1)
    tickets = [enter(pair) for _ in range(20)]
    assert all(isinstance(ticket, Ticket) for ticket in tickets)
    pair[0].failed(HOST, "request")
    assert not pair[0].refuses(HOST)
    for ticket in tickets:
        pair[0].leave(ticket)  # type: ignore[arg-type]
