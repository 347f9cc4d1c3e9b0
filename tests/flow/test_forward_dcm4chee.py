"""A study to a stand-in for dcm4chee-arc by both protocols: what it refuses is named, the rest is there and found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.model import State
from tests.flow.test_forward_authorization import SECRETS, Realm
from tests.peers.dcm4chee import Dcm4chee
from tests.peers.ports import wait_until
from tests.peers.stock import StockScp
from tests.unit.forward.deliveries import STUDY, dataset
from tests.unit.forward.house import House
from tests.unit.forward.webpeer import WebPeer

COUNT = 7


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def receive(house: House, name: str) -> None:
    """A study of which one instance lacks its patient, and one belongs to another."""
    patients = dict.fromkeys(range(1, COUNT + 1), "P1") | {3: "", 5: "P2"}
    bodies = {
        f"{STUDY}.60.{number}": dataset(f"{STUDY}.60.{number}", patient=patient) for number, patient in patients.items()
    }
    house.receive(to=(name,), bodies=bodies, series=True)


def refused(house: House) -> None:
    """Both wait, with the sentence that says what a dcm4chee-arc means."""
    reasons = [one.reason for one in house.deliveries() if one.state is State.DEFERRED]
    assert sorted(reason.partition(":")[0][-5:-1] for reason in reasons) == ["A777", "A778"]
    assert all("dcm4chee-arc" in reason for reason in reasons)


def test_by_stow_with_a_token_of_its_keycloak_and_found_by_qido(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with Realm() as realm:
        archive = Dcm4chee(lambda shown: shown in realm.good)
        with WebPeer(archive.web) as peer:
            one = Destination(
                name="arc",
                kind="dicomweb",
                url=peer.url.removesuffix("/rs") + archive.path,
                credentials_env="ARC",
                token_url=realm.url,
                associations=1,
                retry="9x1h",
                verify="qido",
                verify_after_seconds=0.3,
            )
            forwarder = house.forwarder([one])
            receive(house, "arc")
            forwarder.start()
            house.wait_states({State.DELIVERED: COUNT - 2, State.DEFERRED: 2})
            wait_until(lambda: _found(house) == COUNT - 2, "all to be found", 10.0)
            assert forwarder.stop(5)
            assert len(realm.asked) == 1, "one token serves the destination"
    refused(house)
    assert archive.statuses[0] == 202
    assert len(archive.stored) == COUNT - 2


def test_nothing_stored_is_409_and_its_reasons_count(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Dcm4chee()
    with WebPeer(archive.web) as peer:
        url = peer.url.removesuffix("/rs") + archive.path
        one = Destination(name="arc", kind="dicomweb", url=url, associations=1, retry="9x1h")
        house.receive(to=("arc",), bodies={f"{STUDY}.61.1": dataset(f"{STUDY}.61.1", patient="")})
        forwarder = house.forwarder([one])
        forwarder.start()
        house.wait_states({State.DEFERRED: 1})
        assert forwarder.stop(5)
    assert archive.statuses == [409]
    assert "A777" in house.deliveries()[0].reason


def test_by_c_store(house: House) -> None:
    archive = Dcm4chee()
    with StockScp(answer=archive.dimse) as peer:
        one = Destination(
            name="arc", kind="dimse", host="127.0.0.1", port=peer.port, called_ae="DCM4CHEE", retry="9x1h"
        )
        forwarder = house.forwarder([one])
        receive(house, "arc")
        forwarder.start()
        house.wait_states({State.DELIVERED: COUNT - 2, State.DEFERRED: 2})
        assert forwarder.stop(5)
    refused(house)
    assert len(archive.stored) == COUNT - 2


def _found(house: House) -> int:
    (one,) = house.jobs.destinations.verifications.of_study(STUDY)
    return one.found if one.due_at is None else -1
