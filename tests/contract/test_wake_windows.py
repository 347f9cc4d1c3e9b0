"""Windows of destinations: what every adapter does, then what Redis adds: exact, shared, forgiving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from relaypacs.wake.keeper import Keeper
from relaypacs.wake.protocol import Place, Windows
from relaypacs.wake.windows import LocalWindows, SharedWindows
from tests.peers.ports import wait_until
from tests.peers.redis import RedisServer

Node = tuple[Keeper, SharedWindows]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def server(tmp_path: Path, stack: ExitStack) -> RedisServer:
    return stack.enter_context(RedisServer(tmp_path))


@pytest.fixture
def node(server: RedisServer, stack: ExitStack) -> Callable[..., Node]:
    def node(name: str, most: int = 3, *, turn_seconds: float = 10.0, **settings: Any) -> Node:
        keeper = Keeper(server.settings(**{"lease_seconds": 3, **settings}), node=name, process="relay")
        keeper.start()
        stack.callback(keeper.close)
        return keeper, SharedWindows(keeper, {"pacs": most}, turn_seconds=turn_seconds)

    return node


@pytest.fixture(params=["local", "redis"])
def windows(request: pytest.FixtureRequest) -> Windows:
    if request.param == "local":
        return LocalWindows()
    shared: SharedWindows = request.getfixturevalue("node")("one")[1]
    return shared


def take(windows: Windows, count: int, *, waits: bool = False) -> list[Place]:
    places = [windows.acquire("pacs", waits=waits) for _ in range(count)]
    return [place for place in places if place is not None]


def test_a_place_is_given_and_taken_back(windows: Windows) -> None:
    for _ in range(10):
        place = windows.acquire("pacs")
        assert place is not None
        assert not place.overdue
        windows.release(place)


def test_a_destination_without_a_bound_has_none(windows: Windows) -> None:
    places = [windows.acquire("other") for _ in range(100)]
    assert None not in places
    for place in places:
        assert place is not None
        windows.release(place)


def test_exact_over_two_nodes_and_many_threads(node: Callable[..., Node]) -> None:
    pair = [node("one", 7)[1], node("two", 7)[1]]
    got: list[Place] = []

    def grab(windows: SharedWindows) -> None:
        got.extend(take(windows, 5))

    threads = [threading.Thread(target=grab, args=(pair[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 7


def test_what_is_given_back_is_there_for_the_other(node: Callable[..., Node]) -> None:
    (_, one), (_, two) = (node(name, 1, lease_seconds=60) for name in ("one", "two"))
    (place,) = take(one, 1)
    assert take(two, 1) == []
    one.release(place)
    wait_until(lambda: len(take(two, 1)) == 1, "the place", 10)


def test_who_ends_in_order_leaves_nothing(server: RedisServer, node: Callable[..., Node]) -> None:
    keeper, one = node("one")
    take(one, 3)
    keeper.close()
    assert server.slots("window", "pacs") == 0


def test_what_is_held_stays_held_for_longer_than_a_lease(server: RedisServer, node: Callable[..., Node]) -> None:
    (_, one), (_, two) = node("one", 2), node("two", 2)
    take(one, 2)
    time.sleep(3.5)
    assert take(two, 1) == []


def test_evicted_keys_come_back(server: RedisServer, node: Callable[..., Node]) -> None:
    (_, one), (_, two) = node("one", 2), node("two", 2)
    take(one, 2)
    server.client.flushall()
    server.wait_slots(2, "window", "pacs")
    assert take(two, 1) == []


def test_a_turn_ends_only_for_others_who_wait(server: RedisServer, node: Callable[..., Node]) -> None:
    (_, one), (_, two) = node("one", 1, turn_seconds=1), node("two", 1, turn_seconds=60)
    (place,) = take(one, 1)
    time.sleep(1.5)
    assert take(two, 1) == []
    assert server.slots("window", "pacs", "queue") == 0, "who has no work does not stand in the way"
    end = time.monotonic() + 20
    while not place.overdue and time.monotonic() < end:
        assert take(two, 1, waits=True) == []
        time.sleep(0.5)
    assert place.overdue
    one.release(place)
    wait_until(lambda: server.slots("window", "pacs") == 0, "the place given back", 10)
    assert take(one, 1, waits=True) == [], "the other one waited first"
    (other,) = take(two, 1)
    assert not other.overdue


def test_who_stops_waiting_is_forgotten(server: RedisServer, node: Callable[..., Node]) -> None:
    (_, one), (_, two) = node("one", 1), node("two", 1)
    (place,) = take(one, 1)
    assert take(two, 1, waits=True) == []
    one.release(place)
    assert take(one, 1) == []
    wait_until(lambda: len(take(one, 1)) == 1, "the place nobody came for", 10)


@pytest.mark.parametrize(("nodes", "most", "part"), [(2, 8, 4), (3, 8, 2), (4, 2, 1), (1, 3, 3)])
def test_without_redis_each_keeps_to_its_part(
    node: Callable[..., Node], server: RedisServer, nodes: int, most: int, part: int
) -> None:
    server.kill()
    (_, one), (_, two) = node("one", most, nodes=nodes), node("two", most, nodes=nodes)
    assert [len(take(windows, 2 * most)) for windows in (one, two)] == [part, part]


def test_lost_and_back(server: RedisServer, node: Callable[..., Node]) -> None:
    (_, one), (_, two) = node("one", 4), node("two", 4)
    held = take(one, 3)
    server.kill()
    wait_until(lambda: take(one, 1) == [], "the loss to be seen", 10)
    assert len(take(two, 4)) == 2, "its part"
    one.release(held.pop())
    server.start()
    server.wait_slots(4, "window", "pacs", seconds=30)
    assert [take(one, 1), take(two, 1)] == [[], []]


def test_a_redis_that_hangs_costs_one_wait(server: RedisServer, node: Callable[..., Node]) -> None:
    _, one = node("one", 100, timeout_seconds=0.1, nodes=2)
    assert len(take(one, 1)) == 1
    server.halt()
    before = time.monotonic()
    assert len(take(one, 60)) == 49
    assert time.monotonic() - before < 5.0
    server.go_on()
    server.wait_slots(50, "window", "pacs", seconds=30)
    assert len(take(one, 60)) == 50
