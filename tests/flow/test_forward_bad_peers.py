"""Bad peers beside a good one, over the real spool and job table: how each delivery stands, in bounded time, and that
the neighbour has everything as if it were alone. The bad ones are stand-ins; `docs/forwarding.md` has the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.model import State
from tests.peers.stock import StockScp
from tests.unit.forward.badpeers import DELIVERED, DIMSE, HANGS, OBJECTS, SLOW, WEB
from tests.unit.forward.deliveries import STUDY
from tests.unit.forward.dimsepeer import DimsePeer
from tests.unit.forward.house import House
from tests.unit.forward.webpeer import WebPeer


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.mark.parametrize("case", DIMSE)
def test_a_bad_dimse_peer(house: House, case: str) -> None:
    serve, states = DIMSE[case]
    wait = 0.5 if case in HANGS else 5.0
    with DimsePeer(serve) as peer:
        bad = Destination(
            name="bad",
            kind="dimse",
            host="127.0.0.1",
            port=peer.port,
            called_ae="BAD",
            connect_timeout_seconds=wait,
            response_timeout_seconds=wait,
            retry="9x1h",
        )
        beside(house, bad, states)


@pytest.mark.parametrize("case", WEB)
def test_a_bad_dicomweb_peer(house: House, case: str) -> None:
    answer, states = WEB[case]
    with WebPeer(answer) as peer:
        bad = Destination(
            name="bad",
            kind="dicomweb",
            url=peer.url,
            connect_timeout_seconds=0.5,
            response_timeout_seconds=1 if case in SLOW else 5,
            associations=1,
            retry="9x1h",
        )
        beside(house, bad, states)


def beside(house: House, bad: Destination, states: dict[State, int]) -> None:
    """Deliver to it and to a good neighbour; how the bad one's deliveries stand, within seconds."""
    with StockScp() as neighbour:
        good = Destination(name="good", kind="dimse", host="127.0.0.1", port=neighbour.port, called_ae="GOOD")
        house.receive(OBJECTS, to=("bad", "good"))
        forwarder = house.forwarder([bad, good])
        started = time.monotonic()
        forwarder.start()
        expected = dict(states)
        expected[DELIVERED] = expected.get(DELIVERED, 0) + OBJECTS
        house.wait_states(expected, seconds=12, study=STUDY)
        took = time.monotonic() - started
        assert len(neighbour.stored) == OBJECTS
        assert forwarder.stop(8)
        tried = [one for one in house.deliveries() if one.destination == "good"]
        assert {one.attempts for one in tried} == {1}
        assert took < 12
