"""Verification after delivery, at real servers: what a destination lists, and what is sent again of what it lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from relaypacs.config.model import Destination
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.find import find
from relaypacs.forward.listed import Ask, Listed
from relaypacs.forward.qido import search
from relaypacs.forward.verify import not_there
from relaypacs.jobs.verification import Expected
from tests.peers.dcmtk import storescu
from tests.peers.node import Node, dicomweb, dimse
from tests.peers.orthanc import Orthanc
from tests.peers.ports import wait_until
from tests.peers.tiny_pacs import TOKEN, TinyPacs
from tests.samples import write_mr_series
from tests.unit.forward.deliveries import STUDY, Deliveries, dataset

SERIES = f"{STUDY}.80.1"
COUNT = 8


def by_c_find(port: int, called: str = "ANY", **settings: Any) -> Ask:
    values = {"connect_timeout_seconds": 2, "response_timeout_seconds": 3, **settings}
    one = Destination(name="there", kind="dimse", host="127.0.0.1", port=port, called_ae=called, **values)

    def ask(study: str, wanted: Any, by_name: bool) -> Listed:
        return find(one, "RELAYPACS", study, wanted, by_name)

    return ask


def by_qido(url: str, token: str = "") -> Ask:
    secrets = {"TINY_TOKEN": token} if token else {}
    one = Destination(name="there", kind="dicomweb", url=url, credentials_env="TINY" if token else "")
    authorization = Authorization(one, secrets)

    def ask(study: str, wanted: Any, by_name: bool) -> Listed:
        return search(one, authorization, study, wanted, by_name)

    return ask


def stored(port: int, called: str, count: int) -> list[str]:
    """Store so many instances of a series; their SOP Instance UIDs."""
    deliveries = Deliveries()
    uids = [f"{STUDY}.80.2.{number}" for number in range(count)]
    for uid in uids:
        deliveries.add(dataset(uid, pixels=64, study=f"{STUDY}.80"), uid=uid)
    one = Destination(name="there", kind="dimse", host="127.0.0.1", port=port, called_ae=called)
    sender = CStoreSender(one, "RELAYPACS")
    assert deliveries.deliver(sender) is None
    sender.close()
    return uids


def finds(ask: Ask, uids: list[str]) -> None:
    """It lists exactly these and no others, and what is not there is nowhere."""
    study, nobody = f"{STUDY}.80", f"{STUDY}.99.9"
    assert ask(study, {SERIES: uids}, False) == Listed(frozenset(uids))
    assert ask(study, {SERIES: [*uids, nobody]}, False) == Listed(frozenset(uids))
    assert ask(study, {SERIES: [uids[0], nobody, uids[-1]]}, True) == Listed(frozenset({uids[0], uids[-1]}))
    assert ask(study, {f"{STUDY}.80.7": [nobody]}, False) == Listed()
    assert ask(f"{STUDY}.81", {SERIES: [nobody]}, False) == Listed()
    assert ask(f"{STUDY}.81", {SERIES: [nobody]}, True) == Listed()


def test_orthanc_is_asked_by_both_protocols(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc(DicomAlwaysAllowFind=True)
    uids = stored(peer.dicom_port, peer.aet, 450)  # more than two pages of a search
    finds(by_c_find(peer.dicom_port), uids)
    elsewhere = by_c_find(1, verify="c-find", verify_port=peer.dicom_port, verify_called_ae=peer.aet)
    assert elsewhere(f"{STUDY}.80", {SERIES: uids}, False) == Listed(frozenset(uids))
    finds(by_qido(peer.dicomweb_url), uids)


def test_orthanc_that_lets_nobody_ask_says_nothing(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc(DicomAlwaysAllowFind=False, DicomCheckModalityHost=True)
    uids = stored(peer.dicom_port, peer.aet, 1)
    listed = by_c_find(peer.dicom_port)(f"{STUDY}.80", {SERIES: uids}, False)
    assert listed.trouble
    assert not listed.uids


def test_tiny_pacs_is_asked_by_both_protocols(tmp_path: Path) -> None:
    with TinyPacs(tmp_path / "pacs") as peer:
        uids = stored(peer.port, peer.aet, 30)
        finds(by_qido(peer.url, TOKEN), uids)
        # Its list names the last instance 30 times: only asked by name it is believed.
        wanted = [Expected(number, uid, SERIES, 0) for number, uid in enumerate(uids)]
        lost = Expected(99, f"{STUDY}.80.2.99", SERIES, 0)
        assert not_there(by_c_find(peer.port, peer.aet), f"{STUDY}.80", wanted) == ("", [])
        assert not_there(by_c_find(peer.port, peer.aet), f"{STUDY}.80", [*wanted, lost]) == ("", [lost])
        assert not_there(by_qido(peer.url, TOKEN), f"{STUDY}.80", [*wanted, lost]) == ("", [lost])
        refused = by_qido(peer.url, "wrong")(f"{STUDY}.80", {SERIES: uids}, False)
        assert "does not let us search (401" in refused.trouble


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_mr_series(tmp_path / "mr", COUNT, rows=32, columns=32)


def study_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def lose(peer: Orthanc, count: int) -> None:
    """What a PACS should not do."""
    ids = peer.instance_ids()[:count]
    assert len(ids) == count
    peer._request("POST", "/tools/bulk-delete", json.dumps({"Resources": ids}).encode())


def verified(node: Node, study: str) -> dict[str, Any]:
    found = node.cli_json("trace", study).get("verified", [])
    return {one["destination"]: one for one in found}


@pytest.mark.parametrize("protocol", ["c-find", "qido"])
def test_only_what_a_pacs_lost_is_sent_again(
    node: Callable[..., Node], orthanc: Callable[..., Orthanc], series: list[Path], protocol: str
) -> None:
    peer = orthanc(DicomAlwaysAllowFind=True)
    options = {"verify": protocol, "verify_after_seconds": 10.0, "verify_rounds": 1}
    pacs = (
        dimse("pacs", peer.dicom_port, peer.aet, **options)
        if protocol == "c-find"
        else dicomweb("pacs", peer.dicomweb_url, **options)
    )
    relay = node(
        destinations=[pacs], rules=[{"name": "all", "to": ["pacs"]}], sections={"staging": {"keep": "forever"}}
    )
    assert storescu(relay.port, series).returncode == 0
    relay.wait_settled(COUNT, 60.0)
    study = study_of(series[0])
    assert "is asked in" in relay.cli("trace", study).stdout
    lose(peer, 3)
    # A crash between delivery and question leaves nothing unasked.
    relay.kill()
    relay.start()
    wait_until(lambda: relay.events("verify-missing"), "the loss to be found", 60.0)
    (event,) = relay.events("verify-missing")
    assert (event["missing"], event["queued"], event["failed"]) == (3, 3, 0)
    wait_until(lambda: peer.count() == COUNT, "what was lost to be there again", 10.0)
    wait_until(lambda: verified(relay, study)["pacs"]["due_at"] is None, "all to be found", 60.0)
    assert (verified(relay, study)["pacs"]["found"], verified(relay, study)["pacs"]["rounds"]) == (COUNT, 0)
    assert f"lists {COUNT} of {COUNT} that it stored, asked" in relay.cli("trace", study).stdout.replace("\n   ", "")
    ledger = relay.ledger()
    assert (ledger["delivered"], ledger["routed"], ledger["imbalance"]) == (COUNT + 3, COUNT + 3, 0)
    assert relay.metric('relaypacs_verified_missing_total{destination="pacs"}') == 3
    assert relay.metric('relaypacs_verifications_total{destination="pacs",outcome="complete"}') == 1


def test_what_is_lost_again_and_again_is_a_dead_letter(
    node: Callable[..., Node], orthanc: Callable[..., Orthanc], series: list[Path]
) -> None:
    peer = orthanc(DicomAlwaysAllowFind=True)
    relay = node(
        destinations=[
            dimse("pacs", peer.dicom_port, peer.aet, verify="c-find", verify_after_seconds=5.0, verify_rounds=1)
        ],
        rules=[{"name": "all", "to": ["pacs"]}],
        sections={"staging": {"keep": "forever"}},
    )
    assert storescu(relay.port, series).returncode == 0
    relay.wait_settled(COUNT, 60.0)
    lose(peer, 1)
    wait_until(lambda: relay.events("verify-missing"), "the loss to be found", 15.0)
    wait_until(lambda: relay.ledger()["delivered"] == COUNT + 1, "it to be sent again", 10.0)
    peer.clear()
    wait_until(lambda: relay.ledger()["failed"] == COUNT, "dead letters", 60.0)
    ledger = relay.ledger()
    assert (ledger["imbalance"], ledger["delivered"]) == (0, COUNT + 1)
    said = relay.cli("trace", study_of(series[0])).stdout
    assert "said that it stored it" in said
    time.sleep(3.0)
    assert peer.count() == 0, "nothing is sent for ever"
    # A person who has found out why sends them.
    assert relay.cli("retry", "--to", "pacs", "--state", "failed", "--yes").returncode == 0
    wait_until(lambda: peer.count() == COUNT, "them to arrive", 10.0)
    assert relay.ledger()["imbalance"] == 0
