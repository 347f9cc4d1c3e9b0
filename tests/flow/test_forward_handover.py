"""New deliveries handed to the workers as they are made: no claim in between, nobody starved, all given back."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.forward.dispatch import Forwarder
from relaypacs.forward.handover import LOOK_SECONDS
from relaypacs.jobs.states import Verb
from relaypacs.jobs.values import Selection
from relaypacs.model import State
from relaypacs.wake.keeper import Keeper
from relaypacs.wake.windows import SharedWindows
from tests.peers.ports import free_port, wait_until
from tests.peers.redis import RedisServer
from tests.peers.stock import StockScp, Stored
from tests.unit.forward.house import House

OTHER = "1.2.826.0.1.3680043.10.9"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def start(house: House) -> Iterator[Callable[..., Forwarder]]:
    """`start(port)`: the workers of one destination, which get what they have room for."""
    started: list[Forwarder] = []

    def start(port: int, **settings: object) -> Forwarder:
        values = {"called_ae": "ANY", "connect_timeout_seconds": 2, "response_timeout_seconds": 5, **settings}
        there = Destination(name="there", kind="dimse", host="127.0.0.1", port=port, **values)  # type: ignore[arg-type]
        house.takers = house.forwarder([there])
        started.append(house.takers)
        house.takers.start()
        return house.takers

    yield start
    for forwarder in started:
        forwarder.stop(5.0)


def count_claims(house: House) -> Callable[[], int]:
    """How many deliveries were claimed in the table since; those that begin as somebody's are not."""
    with sqlite3.connect(house.folder / "jobs.sqlite") as connection:
        connection.execute("CREATE TABLE claimed (id)")
        connection.execute(
            "CREATE TRIGGER counted AFTER UPDATE ON delivery WHEN NEW.token > OLD.token "
            "BEGIN INSERT INTO claimed VALUES (NEW.id); END"
        )

    def count() -> int:
        with sqlite3.connect(house.folder / "jobs.sqlite") as connection:
            return int(connection.execute("SELECT count(*) FROM claimed").fetchone()[0])

    return count


def test_a_stream_is_sent_without_a_claim(house: House, start: Callable[..., Forwarder]) -> None:
    with StockScp() as peer:
        start(peer.port)
        claimed = count_claims(house)
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        assert claimed() == 1, "before the destination has answered once it is tried from the table"
        for _ in range(10):
            house.receive(5)
            time.sleep(0.02)
        house.wait_states({State.DELIVERED: 51})
        assert claimed() == 1
        assert len(peer.stored) == 51
        assert {one.attempts for one in house.deliveries()} == {1}


def test_what_is_sent_again_is_not_starved_by_a_stream(house: House, start: Callable[..., Forwarder]) -> None:
    def slowly(_: object) -> int:
        time.sleep(0.005)
        return 0

    with StockScp(answer=slowly) as peer:
        start(peer.port, associations=1, batch_instances=5)
        (again,) = house.receive(1, study=OTHER)
        house.wait_states({State.DELIVERED: 1}, study=OTHER)
        over = threading.Event()

        def stream() -> None:
            while not over.is_set():
                house.receive(2)
                time.sleep(0.05)

        streaming = threading.Thread(target=stream)
        streaming.start()
        try:
            wait_until(lambda: len(peer.stored) > 20, "the stream to flow", 20.0)
            found = house.jobs.find(Verb.RESEND, Selection(study=OTHER, destination="there"))
            house.jobs.act(Verb.RESEND, found.ids, Selection(study=OTHER, destination="there"), time.time())

            def arrivals() -> int:
                return [one.sop_instance_uid for one in peer.stored].count(again)

            wait_until(lambda: arrivals() == 2, "the one that was sent again", 10.0)
            assert not over.is_set()
        finally:
            over.set()
            streaming.join()
        wait_until(lambda: set(house.states()) == {State.DELIVERED}, "all to arrive", 30.0)
        assert {one.attempts for one in house.deliveries()} == {1}


def test_what_is_handed_over_is_not_starved_by_the_table(house: House, start: Callable[..., Forwarder]) -> None:
    def slowly(_: object) -> int:
        time.sleep(0.01)
        return 0

    with StockScp(answer=slowly) as peer:
        start(peer.port, associations=1, batch_instances=5)
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        wait_until(lambda: house.takers is not None and house.takers.room() == {"there": 10}, "room", 20.0)
        backlog = house.receive(60)
        (urgent,) = house.receive(1, priority=5)
        house.wait_states({State.DELIVERED: 62})
        sent = [one.sop_instance_uid for one in peer.stored[1:]]
        assert sent.index(urgent) <= 15, "behind what was begun"
        sent.remove(urgent)
        assert sent == backlog, "what was handed over first, then what stood in the table"


def test_each_goes_under_the_title_of_who_sent_it(house: House, start: Callable[..., Forwarder]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waits(one: Stored) -> int:
        begun.set()
        go_on.wait(20)
        return 0

    with StockScp() as peer:
        start(peer.port, associations=1, calling_ae="original", response_timeout_seconds=30)
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        wait_until(lambda: house.takers is not None and house.takers.room() != {}, "room", 20.0)
        peer._answer = waits
        house.receive(1, association="first")
        assert begun.wait(10)
        house.receive(1, association="second")
        time.sleep(LOOK_SECONDS + 0.1)  # the table is looked at first, and has nothing
        go_on.set()
        house.wait_states({State.DELIVERED: 3})
        assert [one.calling_ae for one in peer.stored] == ["CT1"] * 3


def test_nothing_goes_while_it_is_not_known_who_sent_it(house: House, start: Callable[..., Forwarder]) -> None:
    def rename(old: str, new: str) -> None:
        with sqlite3.connect(house.folder / "jobs.sqlite") as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    begun, go_on = threading.Event(), threading.Event()

    def waits(one: Stored) -> int:
        begun.set()
        go_on.wait(20)
        return 0

    with StockScp() as peer:
        start(peer.port, associations=1, calling_ae="original", response_timeout_seconds=30)
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        wait_until(lambda: house.takers is not None and house.takers.room() != {}, "room", 20.0)
        peer._answer = waits
        house.receive(1)
        assert begun.wait(10)
        house.receive(3, association="second")
        rename("association", "away")
        go_on.set()
        wait_until(lambda: len(peer.stored) == 2, "the one that was begun", 10.0)
        time.sleep(1.5)
        rename("away", "association")
        house.wait_states({State.DELIVERED: 5})
        assert [one.calling_ae for one in peer.stored] == ["CT1"] * 5


def test_what_waits_for_a_place_in_the_window_over_all_nodes_stands_in_its_queue(house: House, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, peer = stack.enter_context(RedisServer(tmp_path / "redis")), stack.enter_context(StockScp())

        def windows(node: str) -> SharedWindows:
            keeper = Keeper(server.settings(lease_seconds=3), node=node, process="relay")
            keeper.start()
            stack.callback(keeper.close)
            return SharedWindows(keeper, {"there": 1}, turn_seconds=0.5)

        there = Destination(
            name="there",
            kind="dimse",
            host="127.0.0.1",
            port=peer.port,
            called_ae="ANY",
            associations=1,
            idle_seconds=1,
        )
        house.takers = house.forwarder([there], windows=windows("one"))
        house.takers.start()
        stack.callback(house.takers.stop, 5.0)
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        wait_until(lambda: server.slots("window", "there") == 0, "the worker's rest", 20.0)
        other = windows("two")
        place = other.acquire("there")
        assert place is not None
        house.receive(5)
        assert house.states() == {State.DELIVERED: 1, State.ACTIVE: 5}
        time.sleep(2 * LOOK_SECONDS)  # it looks for a stream no more
        for _ in range(3):
            wait_until(lambda: place.overdue, "it to be asked for", 10.0)
            time.sleep(1.0)
        other.release(place)
        house.wait_states({State.DELIVERED: 6})


def test_what_was_handed_over_when_trouble_comes_waits_in_the_table(
    house: House, start: Callable[..., Forwarder]
) -> None:
    port = free_port()
    begun, go_on = threading.Event(), threading.Event()

    def hangs(_: object) -> int:
        begun.set()
        go_on.wait(20)
        return 0

    first = StockScp()
    first.port = port
    with first:
        start(port, associations=1, retry="9x1s")
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        first._answer = hangs
        house.receive(1)
        assert begun.wait(10)
        house.receive(5)
        assert house.states() == {State.DELIVERED: 1, State.ACTIVE: 6}, "handed over behind the one that hangs"
        house.wait_states({State.DELIVERED: 1, State.DEFERRED: 1, State.QUEUED: 5})
        go_on.set()
    second = StockScp()
    second.port = port
    with second:
        house.wait_states({State.DELIVERED: 7})
        assert len(second.stored) == 6


def test_what_was_delivered_while_the_table_was_locked_for_longer_than_a_lease_goes_once(house: House) -> None:
    times: list[float] = []

    def slowly(_: object) -> int:
        times.append(time.monotonic())
        time.sleep(0.25)
        return 0

    with StockScp(answer=slowly) as peer:
        there = Destination(
            name="there", kind="dimse", host="127.0.0.1", port=peer.port, called_ae="ANY", associations=1
        )
        house.lease_seconds = 3.0
        house.takers = house.forwarder([there], lease_seconds=3.0)
        house.takers.start()
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        wait_until(lambda: house.takers is not None and house.takers.room() != {}, "room", 20.0)
        leased_at = time.monotonic()
        house.receive(20)
        with sqlite3.connect(house.folder / "jobs.sqlite", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(6.0)
            last = times[-1] - leased_at
            other.execute("COMMIT")
        house.wait_states({State.DELIVERED: 21}, seconds=40.0)
        assert house.takers.stop(5.0)
        assert last < 5.0, "nothing is begun under a lease that is over"
        assert len({one.sop_instance_uid for one in peer.stored}) == len(peer.stored) == 21
        assert {one.attempts for one in house.deliveries()} == {1}


def test_when_the_node_stops_they_are_given_back(house: House, start: Callable[..., Forwarder]) -> None:
    go_on = threading.Event()

    def waits(_: object) -> int:
        go_on.wait(20)
        return 0

    with StockScp() as peer:
        forwarder = start(peer.port, associations=1)
        house.receive(1)
        house.wait_states({State.DELIVERED: 1})
        peer._answer = waits
        house.receive(6)
        assert house.states() == {State.DELIVERED: 1, State.ACTIVE: 6}
        threading.Timer(0.5, go_on.set).start()
        assert forwarder.stop(10.0)
        assert house.states() == {State.DELIVERED: 2, State.QUEUED: 5}
