"""`relaypacs destination test`: what a destination takes, step by step, at real peers."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.model import Destination
from relaypacs.forward.examine import CLASSES, SYNTAXES, Examined, examine
from tests.flow.test_forward_authorization import SECRETS, Realm, tls_proxy
from tests.peers.dcmtk import StoreScp, run
from tests.peers.node import RELAYPACS, Node, dimse
from tests.peers.orthanc import Orthanc
from tests.peers.pki import Authority
from tests.peers.ports import free_port
from tests.unit.forward.dimsepeer import DimsePeer
from tests.unit.forward.webpeer import Reply, WebPeer

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"


def look(port: int, *, store: bool = False, **settings: object) -> Examined:
    values: dict[str, Any] = {"connect_timeout_seconds": 1, "response_timeout_seconds": 2, **settings}
    one = Destination(name="there", kind="dimse", host="127.0.0.1", port=port, called_ae="ANY", **values)
    return examine(one, calling_ae="RELAYPACS", store=store)


def steps(found: Examined) -> dict[str, bool | None]:
    return {step.name: step.ok for step in found.steps}


def test_the_matrix_says_what_is_accepted_and_nothing_is_stored(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp(accept="+x=")
    found = look(scp.port)
    assert steps(found) == {"tcp": True, "association": True, "c-echo": True}
    assert found.accepted is not None
    assert (CT, EXPLICIT) in found.accepted
    assert (CT, JPEG) not in found.accepted
    assert scp.files() == []
    assert len(CLASSES) * len(SYNTAXES) < 128


def test_a_synthetic_object_is_stored_and_can_be_removed(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc()
    web = Destination(name="web", kind="dicomweb", url=peer.dicomweb_url)
    for by_web in (False, True):
        found = examine(web, calling_ae="X", store=True) if by_web else look(peer.dicom_port, store=True)
        assert found.ok
        assert steps(found)["store"] is True
        advice = found.steps[-1].sentence
        studies = peer.get_json("/studies?expand")
        assert [one["MainDicomTags"]["StudyInstanceUID"] in advice for one in studies] == [True]
        assert studies[0]["PatientMainDicomTags"]["PatientID"] in advice
        peer.clear()


def test_each_step_that_fails_ends_it_with_the_mend() -> None:
    assert [(one.name, one.ok) for one in look(free_port()).steps] == [("tcp", False)]
    with DimsePeer(lambda peer: None) as peer:
        found = look(peer.port, tls=True)
        assert steps(found) == {"tcp": True, "tls": False}
        assert not found.ok
    with DimsePeer(lambda peer: peer.send(b"\x03\0\0\0\0\x04\0\x01\x01\x07") and None) as peer:
        found = look(peer.port)
        assert steps(found) == {"tcp": True, "association": False}
        assert "`called_ae`" in found.steps[-1].sentence
    with WebPeer(lambda _: Reply(401)) as web:
        found = examine(Destination(name="web", kind="dicomweb", url=web.url), calling_ae="X", store=True)
        assert steps(found) == {"tcp": True, "http": False}


def look_web(url: str, environment: dict[str, str] | None = None, **settings: Any) -> dict[str, bool | None]:
    values: dict[str, Any] = {"connect_timeout_seconds": 1, "response_timeout_seconds": 2, **settings}
    one = Destination(name="web", kind="dicomweb", url=url, **values)
    return steps(examine(one, calling_ae="X", store=False, environment=environment or {}))


def test_the_steps_of_dicomweb(tmp_path: Path) -> None:
    port = free_port()
    assert look_web(f"http://127.0.0.1:{port}/rs") == {"tcp": False}
    with WebPeer(lambda _: Reply(200, b"[]")) as peer:
        assert look_web(peer.url) == {"tcp": True, "http": True}
        assert look_web(peer.url.replace("http:", "https:")) == {"tcp": True, "tls": False}
        token = {"credentials_env": "ARC", "token_url": f"http://127.0.0.1:{port}/token"}
        assert look_web(peer.url, SECRETS, **token) == {"tcp": True, "token": False}
    with WebPeer(lambda _: Reply(404)) as peer:
        assert look_web(peer.url) == {"tcp": True, "http": None}, "it may be one that only stores"
    with WebPeer(lambda request: Reply(400 if "Content-Type" in request.headers else 403)) as peer:
        assert look_web(peer.url) == {"tcp": True, "http": None}
        assert look_web(peer.url, verify="qido") == {"tcp": True, "http": None, "qido": False}
    authority = Authority(tmp_path / "ca")
    server = authority.issue()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    with Realm() as realm, tls_proxy(WebPeer(realm.archive_searched), context) as url:
        trusted = {"tls_ca": str(authority.certificate)}
        assert look_web(url, **trusted) == {"tcp": True, "tls": True, "http": False}
        assert look_web(url) == {"tcp": True, "tls": False}
        token = {"credentials_env": "ARC", "token_url": realm.url, **trusted}
        assert look_web(url, SECRETS, **token) == {"tcp": True, "tls": True, "token": True, "http": True}


@pytest.mark.parametrize("protocol", ["c-find", "qido"])
def test_what_verification_will_ask_is_asked_too(orthanc: Callable[..., Orthanc], protocol: str) -> None:
    peer = orthanc(DicomAlwaysAllowFind=True)
    if protocol == "c-find":
        one = Destination(
            name="there", kind="dimse", host="127.0.0.1", port=peer.dicom_port, called_ae="ANY", verify="c-find"
        )
    else:
        one = Destination(name="there", kind="dicomweb", url=peer.dicomweb_url, verify="qido")
    found = examine(one, calling_ae="X", store=False)
    assert (steps(found)[protocol], found.steps[-1].sentence) == (True, "it can be asked what it has")
    found = examine(one, calling_ae="X", store=True)
    assert (steps(found)[protocol], found.steps[-1].sentence) == (True, "it lists the synthetic object")


def test_one_that_knows_only_the_senders_is_no_fault() -> None:
    with DimsePeer(lambda peer: peer.send(b"\x03\0\0\0\0\x04\0\x01\x01\x03") and None) as peer:
        assert steps(look(peer.port, calling_ae="original", store=True)) == {"tcp": True, "association": None}
        assert steps(look(peer.port)) == {"tcp": True, "association": False}


def test_the_command(tmp_path: Path, storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    node = Node(tmp_path, destinations=[dimse("good", scp.port, "STORESCP"), dimse("dead", free_port(), "NONE")])
    done = node.cli("destination", "test", "good")
    assert done.returncode == 0
    assert "CT Image Storage" in done.stdout
    document = node.cli_json("destination", "test", "good")
    assert EXPLICIT in document["accepted"][CT]
    dead = run([RELAYPACS, "destination", "test", "dead", "--json", "--config", node.config_path])
    assert dead.returncode == 1
    assert json.loads(dead.stdout)["steps"][0]["ok"] is False
    assert node.cli("destination", "test", "nobody").returncode == 2


@pytest.mark.parametrize("sop_class", [CT, MR])
def test_what_is_refused_is_remembered_and_forgotten_when_it_is_taken(sop_class: str) -> None:
    from relaypacs.forward.memory import Memory

    memory = Memory()
    memory.proposed([(sop_class, EXPLICIT), (sop_class, JPEG)], [(sop_class, EXPLICIT)])
    assert memory.refused() == {(sop_class, JPEG)}
    assert memory.recent() == [(sop_class, EXPLICIT), (sop_class, JPEG)]
    memory.proposed([(sop_class, JPEG)], [(sop_class, JPEG)])
    assert memory.refused() == frozenset()
    memory.refused_by_status((sop_class, JPEG))
    assert memory.refused() == {(sop_class, JPEG)}
