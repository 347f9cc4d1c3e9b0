"""A strict PACS, tiny-pacs, by both protocols: what it takes, and what it says of what it has already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.examine import examine
from relaypacs.forward.stow import StowSender
from relaypacs.model import Deferred, Delivered, Scope
from tests.peers.tiny_pacs import TOKEN, TinyPacs
from tests.unit.forward.deliveries import JPEG_BASELINE, STUDY, Deliveries, dataset


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyPacs]:
    with TinyPacs(tmp_path_factory.mktemp("tiny") / "pacs") as running:
        yield running


def by_dimse(peer: TinyPacs, called: str = "TINY_PACS") -> CStoreSender:
    one = Destination(name="tiny", kind="dimse", host="127.0.0.1", port=peer.port, called_ae=called)
    return CStoreSender(one, "RELAYPACS")


def by_web(peer: TinyPacs, token: str = TOKEN) -> StowSender:
    one = Destination(name="tiny", kind="dicomweb", url=peer.url, credentials_env="TINY")
    authorization = Authorization(one, {"TINY_TOKEN": token})
    return StowSender(one, authorization.shown, authorization.renew)


def study(number: int, count: int) -> Deliveries:
    """Instances of a study of their own."""
    deliveries = Deliveries()
    for instance in range(count):
        uid = f"{STUDY}.{number}.{instance}"
        syntax = {"transfer_syntax": JPEG_BASELINE} if instance == 1 else {}
        deliveries.add(dataset(uid, study=f"{STUDY}.{number}", patient=f"P{number}"), uid=uid, **syntax)
    return deliveries


def test_a_study_by_c_store_and_what_is_there_already(tmp_path: Path, peer: TinyPacs) -> None:
    """Its word for a duplicate is A700: deferred, never success on our own guess."""
    deliveries = study(1, 5)
    sender = by_dimse(peer)
    assert deliveries.deliver(sender) is None
    assert set(deliveries.outcomes.values()) == {Delivered(0)}
    deliveries.outcomes.clear()
    assert deliveries.deliver(sender, deliveries.claims[:1]) is None
    sender.close()
    (again,) = deliveries.outcomes.values()
    assert isinstance(again, Deferred)
    assert (again.scope, again.status) == (Scope.INSTANCE, 0xA700)
    assert {claim.sop_instance_uid for claim in deliveries.claims} <= peer.instances()


def test_a_study_by_stow_and_what_is_there_already(peer: TinyPacs) -> None:
    deliveries = study(2, 5)
    sender = by_web(peer)
    assert deliveries.deliver(sender) is None
    assert set(deliveries.outcomes.values()) == {Delivered(0)}
    assert {claim.sop_instance_uid for claim in deliveries.claims} <= peer.instances()
    fresh = study(3, 3)
    mixed = [deliveries.claims[0], *fresh.claims]
    fresh.claims, fresh._files = mixed, {**fresh._files, **deliveries._files}
    trouble = fresh.deliver(sender)
    sender.close()
    assert trouble is None
    assert [fresh.outcome(claim) for claim in fresh.claims[1:]] == [Delivered(0)] * 3
    assert isinstance(fresh.outcome(mixed[0]), Deferred)


def test_it_wants_its_own_title_and_its_token(peer: TinyPacs) -> None:
    deliveries = study(4, 2)
    trouble = deliveries.deliver(by_dimse(peer, "ANYBODY"))
    assert trouble is not None
    assert trouble.opening
    deliveries.outcomes.clear()
    trouble = deliveries.deliver(by_web(peer, "wrong"))
    assert trouble is not None
    assert "401" in trouble.reason


def test_it_can_be_tried_out(peer: TinyPacs) -> None:
    one = Destination(name="tiny", kind="dimse", host="127.0.0.1", port=peer.port, called_ae="TINY_PACS")
    found = examine(one, calling_ae="RELAYPACS", store=True)
    assert found.ok, found.steps
    assert found.accepted
