"""Every sample file through a node to DCMTK's `storescp +B` and to Orthanc, by C-STORE and by STOW-RS."""

from __future__ import annotations

import pytest

from tests.flow.sampletrip import DESTINATIONS, Trip, travel
from tests.samples import sendable

pytestmark = pytest.mark.timeout(900)

SLOW = {
    "MR_truncated.dcm",
    "SCImageStorage_Deflated.dcm",
    "SC_rgb_jpeg.dcm",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
    "image_dfl.dcm",
    "rtplan_truncated.dcm",
}
"""Orthanc never answers these, `storescp` aborts two of them: each costs timeouts, so only `--long` sends them."""


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory, long_run: bool) -> list[Trip]:
    chosen = [one for one in sendable() if long_run or one.path.name not in SLOW]
    return travel(tmp_path_factory.mktemp("samples"), chosen)


def test_the_node_takes_every_sample(trips: list[Trip]) -> None:
    assert len(trips) >= len(sendable()) - len(SLOW)
    assert {trip.sample.name: trip.answered for trip in trips if trip.answered != "0000"} == {}


def test_storescp_has_the_bytes_that_were_sent(trips: list[Trip]) -> None:
    delivered = [trip for trip in trips if trip.ends["storescp"].state == "delivered"]
    assert len(delivered) >= 235
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
