"""A destination's pace and a worker's lease, towards stand-ins that hold what they are handed to its word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.forward.cstore import CStoreSender
from relaypacs.model import Claim, Delivered, State
from tests.peers.ports import wait_until
from tests.unit.forward.deliveries import Deliveries
from tests.unit.forward.dimsepeer import Connection, DimsePeer
from tests.unit.forward.house import NODE, House

PEER_IDLE_SECONDS = 1.2


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def dimse(port: int, **settings: object) -> Destination:
    values = {"called_ae": "ANY", "connect_timeout_seconds": 2, "response_timeout_seconds": 5, **settings}
    return Destination(name="there", kind="dimse", host="127.0.0.1", port=port, **values)  # type: ignore[arg-type]


def test_a_peer_that_ends_what_is_unused_gets_everything_at_a_slow_pace(house: House) -> None:
    """Two seconds lie between two instances, and the peer aborts an association that is unused for 1.2."""
    aborted: list[int] = []

    def serve(connection: Connection) -> None:
        connection.accept()
        connection.socket.settimeout(PEER_IDLE_SECONDS)
        try:
            while connection.store():
                pass
        except TimeoutError:
            aborted.append(connection.number)
            connection.abort()

    with DimsePeer(serve) as peer:
        slow = dimse(peer.port, associations=1, idle_seconds=0.5, max_objects_per_second=0.5, retry="2x1s")
        forwarder = house.forwarder([slow])
        forwarder.start()
        try:
            house.receive(4)
            house.wait_states({State.DELIVERED: 4}, seconds=20)
        finally:
            forwarder.stop(5.0)
    assert aborted == []
    assert {one.attempts for one in house.deliveries()} == {1}


def test_resting_takes_the_answers_that_are_owed_first() -> None:
    """Three objects are under way when the next has to wait: each is settled once, by its own answer."""
    served: list[int] = []

    def serve(connection: Connection) -> None:
        connection.accept(operations=4)
        while connection.store():
            served.append(connection.number)

    def proceed(_claims: object, rest: Callable[[], None]) -> bool:
        asked.append(len(deliveries.outcomes))
        if len(asked) == 4:
            rest()
            assert not sender.is_open
            asked.append(len(deliveries.outcomes))
        return True

    asked: list[int] = []
    deliveries = Deliveries()
    for _ in range(6):
        deliveries.add_new()
    with DimsePeer(serve) as peer:
        sender = CStoreSender(dimse(peer.port, max_operations=4), "RELAYPACS")
        assert sender.deliver(deliveries.claims, deliveries.read, deliveries.report, proceed) is None
        sender.close()
    assert asked[:5] == [0, 0, 0, 0, 3]
    assert list(deliveries.outcomes.values()) == [Delivered()] * 6
    assert served == [served[0]] * 3 + [served[-1]] * 3
    assert served[0] != served[-1]


def test_a_process_that_was_stopped_past_its_lease_sends_nothing_more_of_its_batch(house: House) -> None:
    """Its settler renews what it holds as soon as it goes on: that must not pass for a lease that was kept."""
    house.receive(6)
    command = [sys.executable, "-m", "tests.unit.forward.stopped_worker", str(house.folder), "1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stops\n"
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        others: list[Claim] = []

        def claimed() -> bool:
            others.extend(house.jobs.claim("there", node=NODE, limit=100, lease_seconds=60, now=time.time()))
            return len(others) == 6

        try:
            wait_until(claimed, "its leases over", 10.0)
        finally:
            child.send_signal(signal.SIGCONT)
        said, _ = child.communicate(timeout=20)
    assert said.splitlines() == ["tried 1"]
    assert house.states() == {State.ACTIVE: 6}
