"""A study that is quiet is said once, with its sum; late objects are a follow-up and nothing is sent again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from relaypacs.config.model import Destination
from relaypacs.model import State
from tests.peers.stock import StockScp
from tests.unit.forward.deliveries import STUDY
from tests.unit.forward.house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Log:
    """The events of one name, as they come."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture, self._lines = capture, ""

    def wait(self, count: int, seconds: float = 8.0) -> list[dict[str, Any]]:
        end = time.monotonic() + seconds
        while True:
            self._lines += self._capture.readouterr().err
            found = [json.loads(line) for line in self._lines.splitlines() if '"study-quiet"' in line]
            if len(found) >= count:
                return found
            assert time.monotonic() < end, self._lines
            time.sleep(0.05)


def test_a_quiet_study_and_its_late_objects(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(capsys)
    complete = metric("upload_complete_total", status="complete")
    delivered = metric("relaypacs_time_to_pacs_seconds_count", destination="quiet")
    with StockScp() as peer:
        one = Destination(name="quiet", kind="dimse", host="127.0.0.1", port=peer.port, called_ae="ANY")
        forwarder = house.forwarder([one], study_quiet_seconds=0.5)
        forwarder.start()
        house.receive(6, to=("quiet",))
        (first,) = log.wait(1)
        assert (first["instances"], first["delivered"], first["ended_now"]) == (6, 6, 6)
        assert not first["follow_up"]
        assert STUDY not in json.dumps(first)
        assert first["upload_id"]
        house.receive(2, to=("quiet",))
        _, second = log.wait(2)
        assert (second["instances"], second["delivered"], second["ended_now"]) == (8, 8, 2)
        assert second["follow_up"]
        time.sleep(1.0)
        assert len(log.wait(2)) == 2
        assert forwarder.stop(5)
        assert len(peer.stored) == 8
    assert metric("upload_complete_total", status="complete") == complete + 2
    assert metric("relaypacs_time_to_pacs_seconds_count", destination="quiet") == delivered + 8


def test_a_study_of_which_something_waits_is_not_quiet_and_one_that_lost_something_is_incomplete(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(capsys)
    incomplete = metric("upload_complete_total", status="incomplete")
    uids = house.receive(4, to=("quiet",))
    ended = threading.Event()

    def answer(stored: Any) -> int:
        if stored.sop_instance_uid != uids[1]:
            return 0
        return 0xC001 if ended.is_set() else 0x0110

    with StockScp(answer=answer) as peer:
        one = Destination(
            name="quiet", kind="dimse", host="127.0.0.1", port=peer.port, called_ae="ANY", retry="1x2s,9x1s"
        )
        forwarder = house.forwarder([one], study_quiet_seconds=0.3)
        forwarder.start()
        house.wait_states({State.DELIVERED: 3, State.DEFERRED: 1})
        time.sleep(1.0)
        assert log.wait(0) == []
        ended.set()
        (line,) = log.wait(1)
        assert (line["delivered"], line["failed"], line["level"]) == (3, 1, "WARNING")
        assert forwarder.stop(5)
    assert metric("upload_complete_total", status="incomplete") == incomplete + 1
