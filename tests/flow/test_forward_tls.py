"""C-STORE forwarding over TLS to DCMTK's storescp, and one sentence for each way in which TLS with a peer fails."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.model import Destination
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.echo import echo
from relaypacs.forward.sender import Trouble
from relaypacs.model import Delivered
from tests.flow.test_forward_cstore import stored
from tests.peers.dcmtk import StoreScp
from tests.peers.pki import Authority, Identity
from tests.peers.ports import free_port
from tests.peers.receiver import Receiver
from tests.unit.forward.deliveries import STUDY, Deliveries, dataset


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "other", "Other CA")


@pytest.fixture(scope="module")
def pacs(authority: Authority) -> Identity:
    return authority.issue("/CN=pacs", names="DNS:pacs.example,IP:127.0.0.1", key_type=("rsa:2048",))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Identity:
    return authority.issue("/CN=relaypacs", names="DNS:relay.example", key_type=("rsa:2048",))


def destination(port: int, **settings: Any) -> Destination:
    values = {"connect_timeout_seconds": 5, "response_timeout_seconds": 10, "tls": True, **settings}
    return Destination(name="there", kind="dimse", host="127.0.0.1", port=port, called_ae="STORESCP", **values)


def own(identity: Identity) -> dict[str, str]:
    return {"tls_certificate": str(identity.certificate), "tls_key": str(identity.key)}


def serving(identity: Identity, *more: str) -> tuple[str, ...]:
    return ("-pm", "+tls", str(identity.key), str(identity.certificate), "-pw", *more)


def wrong(destination: Destination) -> str:
    answer = echo(destination, calling_ae="RELAYPACS", environment={})
    assert not answer.ok
    return answer.sentence


def test_objects_arrive_byte_for_byte(
    storescp: Callable[..., StoreScp], authority: Authority, pacs: Identity, ours: Identity
) -> None:
    scp = storescp(options=serving(pacs, "+cf", str(authority.certificate)))
    deliveries = Deliveries()
    for number, pixels in enumerate((0, 2, 4084, 16384, 1 << 20, (8 << 20) + 7)):
        uid = f"{STUDY}.9.{number}"
        deliveries.add(dataset(uid, pixels=pixels), uid=uid)
    sender = CStoreSender(destination(scp.port, tls_ca=str(authority.certificate), **own(ours)), "RELAYPACS")
    assert deliveries.deliver(sender) is None
    more = Deliveries()
    more.add(dataset(f"{STUDY}.9.9"), uid=f"{STUDY}.9.9")
    assert more.deliver(sender) is None  # on the association that was kept
    sender.close()
    assert all(deliveries.outcome(claim) == Delivered(0) for claim in deliveries.claims)
    found = stored(scp)
    assert len(found) == len(deliveries.claims) + 1
    for claim in deliveries.claims:
        assert found[claim.sop_instance_uid] == deliveries.body(claim)


def test_our_own_node_over_tls(tmp_path: Path, authority: Authority, pacs: Identity, ours: Identity) -> None:
    required = {"client_ca": str(authority.certificate), "client_certificates": "required"}
    with Receiver(tmp_path / "spool", tls=pacs.tls(**required), check_called_ae=False) as receiver:
        good = destination(receiver.tls_port, tls_ca=str(authority.certificate), **own(ours))
        assert echo(good, calling_ae="RELAYPACS", environment={}).ok
        without = destination(receiver.tls_port, tls_ca=str(authority.certificate))
        assert "set `tls_certificate` and `tls_key`" in wrong(without)


def test_each_trouble_names_its_mend(
    storescp: Callable[..., StoreScp], authority: Authority, other: Authority, pacs: Identity, ours: Identity
) -> None:
    ca = {"tls_ca": str(authority.certificate)}
    anonymous = storescp(options=serving(pacs, "-ic")).port
    assert echo(destination(anonymous, **ca), calling_ae="X", environment={}).ok
    assert "add the issuer to `tls_ca`" in wrong(destination(anonymous, tls_ca=str(other.certificate)))
    assert "add the issuer to `tls_ca`" in wrong(destination(anonymous))
    assert "set `tls_server_name`" in wrong(destination(anonymous, tls_server_name="other.example", **ca))
    assert echo(destination(anonymous, tls_server_name="pacs.example", **ca), calling_ae="X", environment={}).ok
    assert "No such file" in wrong(destination(anonymous, tls_ca="/nowhere/ca.pem"))
    expired = storescp(options=serving(authority.issue(days=-1, key_type=("rsa:2048",)), "-ic")).port
    assert "has expired: renew it there" in wrong(destination(expired, **ca))
    plain = storescp().port
    sentence = wrong(destination(plain, **ca))
    assert "TLS" in sentence
    assert "port" in sentence
    assert "nothing listens there" in wrong(destination(free_port(), **ca))
    strict = storescp(options=serving(pacs, "-rc", "+cf", str(authority.certificate))).port
    assert "`tls_certificate` and `tls_key`" in wrong(destination(strict, **ca))
    assert "it does not trust the issuer of our certificate" in wrong(
        destination(strict, **ca, **own(other.issue("/CN=relaypacs", key_type=("rsa:2048",))))
    )
    assert echo(destination(strict, **ca, **own(ours)), calling_ae="X", environment={}).ok


@contextmanager
def stand_in(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A stand-in for peers that no program can be made to be: does `answer` with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, suppress(OSError):
                    answer(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_peers_that_hang_or_answer_nonsense(authority: Authority) -> None:
    ca = {"tls_ca": str(authority.certificate), "connect_timeout_seconds": 0.5}
    over = threading.Event()
    with stand_in(lambda sock: over.wait(20) and None) as port:
        assert "in time" in wrong(destination(port, **ca))
        over.set()
    with stand_in(lambda sock: sock.recv(10_000) and None) as port:
        assert "closed the connection during the TLS handshake" in wrong(destination(port, **ca))
    with stand_in(lambda sock: sock.recv(10_000) and sock.sendall(b"\x07\0\0\0\0\x04\0\0\2\0")) as port:
        assert "does not speak TLS on this port" in wrong(destination(port, **ca))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_server_is_refused(authority: Authority, pacs: Identity) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(pacs.certificate, pacs.key)
    with stand_in(lambda sock: context.wrap_socket(sock, server_side=True).close()) as port:
        assert "no TLS version is common" in wrong(destination(port, tls_ca=str(authority.certificate)))


def test_trouble_is_the_destination_s(authority: Authority, pacs: Identity, storescp: Callable[..., StoreScp]) -> None:
    scp = storescp(options=serving(pacs, "-ic"))
    deliveries = Deliveries()
    claim = deliveries.add(dataset(f"{STUDY}.1"), uid=f"{STUDY}.1")
    sender = CStoreSender(destination(scp.port, tls_server_name="other.example"), "RELAYPACS")
    trouble = deliveries.deliver(sender)
    assert isinstance(trouble, Trouble)
    assert "no TLS with the destination" in trouble.reason
    assert claim is not None
    assert scp.files() == []
