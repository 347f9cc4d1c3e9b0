"""Every sample file through a node to DCMTK's `storescp +B` and to Orthanc, by C-STORE and by STOW-RS."""

from __future__ import annotations

import pytest

from tests.flow.sampletrip import DESTINATIONS, Trip, travel
from tests.samples import sendable

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> list[Trip]:
    return travel(tmp_path_factory.mktemp("samples"), sendable())


def test_the_node_takes_every_sample(trips: list[Trip]) -> None:
    assert len(trips) == len(sendable())
    assert {trip.sample.name: trip.answered for trip in trips if trip.answered != "0000"} == {}


def test_storescp_has_the_bytes_that_were_sent(trips: list[Trip]) -> None:
    delivered = [trip for trip in trips if trip.ends["storescp"].state == "delivered"]
    assert len(delivered) >= 230
    assert [trip.sample.name for trip in delivered if trip.ends["storescp"].through != trip.sample.dataset()] == []


@pytest.mark.parametrize("name", DESTINATIONS)
def test_a_destination_has_what_it_has_without_the_node(trips: list[Trip], name: str) -> None:
    """Orthanc rewrites some datasets and refuses some, with or without RelayPACS: the same ones, the same bytes."""
    differing = [trip.sample.name for trip in trips if trip.ends[name].through != trip.ends[name].direct]
    assert differing == []


@pytest.mark.parametrize("name", DESTINATIONS)
def test_what_counts_as_delivered_is_there_and_nothing_else(trips: list[Trip], name: str) -> None:
    ends = {trip.sample.name: trip.ends[name] for trip in trips}
    assert {end.state for end in ends.values()} <= {"delivered", "failed"}
    assert [one for one, end in ends.items() if (end.state == "delivered") != (end.through is not None)] == []
    assert [one for one, end in ends.items() if end.state == "failed" and not end.reason] == []
