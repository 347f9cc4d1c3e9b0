"""Which entry's policies an object gets: the one that admitted its sender."""

from __future__ import annotations

import pytest

from relaypacs.config import Config
from relaypacs.model import Committed, ObjectMeta, ObjectRecord
from relaypacs.node.arrivals import arrival_reader
from tests.unit.relay_rooms import CT, EXPLICIT_LITTLE, dataset

CALLERS = [
    {"ae_title": "CT", "networks": ["10.1.0.0/16"], "conflict": "hold-newer", "resend": "suppress"},
    {"ae_title": "CT", "networks": ["10.2.0.0/16", "fd00::/8"], "conflict": "forward-both", "resend": "requeue"},
]


@pytest.mark.parametrize(
    ("peer", "policies"),
    [
        ("10.1.0.7:4711", ("hold-newer", "suppress")),
        ("10.2.0.7:4711", ("forward-both", "requeue")),
        ("[fd00::7]:4711", ("forward-both", "requeue")),
        ("", ("hold-newer", "suppress")),
    ],
)
def test_two_callers_of_one_title_are_told_apart_by_their_address(peer: str, policies: tuple[str, str]) -> None:
    data = dataset("1.2.1")
    record = ObjectRecord(
        at=Committed("g", 0, 0, len(data)),
        meta=ObjectMeta("a", "CT", "RELAYPACS", peer, 1.0, CT, "1.2.1", EXPLICIT_LITTLE),
        file_offset=0,
        file_length=len(data),
        dataset_offset=0,
        dataset_length=len(data),
        dataset_crc32c=0,
    )
    read = arrival_reader(Config.model_validate({"caller": CALLERS}))
    arrival = read(record, lambda offset, length: memoryview(data)[offset : offset + length])
    assert (arrival.conflict, arrival.resend) == policies
