"""DICOM TLS on reception (PS3.15 B.12): real programs, certificates that don't do, files that change, silent peers."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pynetdicom import AE, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from relaypacs.config.model import Caller
from tests.peers import dcmtk
from tests.peers.pki import Authority, Identity, client
from tests.peers.ports import wait_until
from tests.peers.raw import ABORT, AC, RJ, Raw, associate_rq, pdu, request
from tests.peers.receiver import Receiver
from tests.samples import read_sample, write_ct_series, write_mr_series


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "other", "Other CA")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue(key_type=("rsa:2048",))


@pytest.fixture(scope="module")
def modality(authority: Authority) -> Identity:
    return authority.issue("/O=Clinic/CN=ct1", names="DNS:ct1.clinic.example")


@pytest.fixture
def receiver(tmp_path: Path, server: Identity) -> Iterator[Receiver]:
    with Receiver(tmp_path / "spool", tls=server.tls()) as running:
        yield running


def required(authority: Authority, server: Identity, **more: Any) -> dict[str, Any]:
    return server.tls(client_ca=str(authority.certificate), client_certificates="required", **more)


def echo(peer: Raw) -> None:
    """C-ECHO over an association."""
    peer.send_message(request(0x30), context_id=3)
    assert peer.read_status() == 0


def check(receiver: Receiver, paths: list[Path]) -> None:
    """Every file arrived, byte for byte."""
    receiver.wait_line("association-ended")
    stored = {one.record.meta.sop_instance_uid: one.dataset for one in receiver.objects()}
    for path in paths:
        one = read_sample(path)
        assert stored.pop(one.sop_instance_uid) == one.dataset(), path.name
    assert not stored


# Real programs


def test_dcmtk_with_certificates(tmp_path: Path, authority: Authority, server: Identity, modality: Identity) -> None:
    paths = write_ct_series(tmp_path / "ct", 3) + write_mr_series(tmp_path / "mr", 5)
    ours = ["+tls", str(modality.key), str(modality.certificate), "-pw", "+cf", str(authority.certificate)]
    with Receiver(tmp_path / "spool", tls=required(authority, server)) as receiver:
        sent = dcmtk.storescu(receiver.tls_port, paths, options=[*ours, "-x="])
        assert sent.returncode == 0, sent.stdout
        check(receiver, paths)
        refused = dcmtk.storescu(receiver.tls_port, paths, options=["+tla", "+cf", str(authority.certificate), "-x="])
        assert refused.returncode != 0
        assert "shows no certificate" in receiver.wait_line("connection-refused")["message"]


def test_dcmtk_without_a_certificate(receiver: Receiver, tmp_path: Path, authority: Authority) -> None:
    paths = write_mr_series(tmp_path / "mr", 3)
    options = ["+tla", "+cf", str(authority.certificate), "-x="]
    sent = dcmtk.storescu(receiver.tls_port, paths, options=options)
    assert sent.returncode == 0, sent.stdout
    check(receiver, paths)
    assert dcmtk.echoscu(receiver.port).returncode == 0, "the plain port beside it"


def test_stock_pynetdicom(receiver: Receiver, authority: Authority) -> None:
    ae = AE(ae_title="STOCK")
    tls = (client(authority), "localhost")
    association = ae.associate(
        "127.0.0.1", receiver.tls_port, [build_context(Verification)], ae_title="RELAYPACS", tls_args=tls
    )
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()
    assert receiver.wait_line("association-ended")["outcome"] == "released"


def test_a_large_object_arrives_byte_for_byte(receiver: Receiver, authority: Authority) -> None:
    dataset = random.Random(1).randbytes(48 << 20)
    with Raw(receiver.tls_port, tls=client(authority), timeout_seconds=60.0) as peer:
        assert peer.associate() == AC
        assert peer.store(dataset) == 0
        peer.release()
    receiver.wait_line("association-ended")
    assert [one.dataset == dataset for one in receiver.objects()] == [True]


def test_a_request_in_one_byte_records(receiver: Receiver, authority: Authority) -> None:
    with Raw(receiver.tls_port, tls=client(authority)) as peer:
        for byte in associate_rq():
            peer.send(bytes((byte,)))
        assert peer.read_pdu()[0] == AC
        echo(peer)
        peer.release()


def test_a_request_that_comes_with_the_handshake(receiver: Receiver, authority: Authority) -> None:
    """TLS 1.3: the last of the handshake, the request and the first message in one segment."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with Raw(receiver.tls_port) as peer:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        peer.send(outgoing.read())
        while True:
            incoming.write(peer.sock.recv(65536))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            break
        tls.write(associate_rq())
        tls.write(pdu(4, (len(request(0x30)) + 2).to_bytes(4, "big") + b"\x03\x03" + request(0x30)))
        peer.send(outgoing.read())
        answers = b""
        while len(answers) < 6 or answers.count(b"\x04\x00\x00\x00") == 0:
            incoming.write(peer.sock.recv(65536))
            with suppress(ssl.SSLWantReadError):
                while True:
                    answers += tls.read(65536)
        assert answers[0] == AC


# What is refused


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("versions", "ciphers", "sentence"),
    [
        ("1.1", "ALL:@SECLEVEL=0", "no TLS version is common"),
        ("1.2", "ECDHE-RSA-AES256-SHA384", "no cipher suite is common"),
        ("1.2", "AES128-GCM-SHA256", "no cipher suite is common"),
    ],
)
def test_nothing_older_or_weaker(
    receiver: Receiver, authority: Authority, versions: str, ciphers: str, sentence: str
) -> None:
    with pytest.raises(ssl.SSLError, match="ALERT"):
        Raw(receiver.tls_port, tls=client(authority, versions=versions, ciphers=ciphers))
    assert sentence in receiver.wait_line("connection-refused")["message"]


def test_tls_1_3_is_preferred(receiver: Receiver, authority: Authority) -> None:
    with Raw(receiver.tls_port, tls=client(authority)) as peer:
        assert isinstance(peer.sock, ssl.SSLSocket)
        assert peer.sock.version() == "TLSv1.3"
    with Raw(receiver.tls_port, tls=client(authority, versions="1.2")) as peer:
        assert isinstance(peer.sock, ssl.SSLSocket)
        assert peer.associate() == AC


def test_client_certificates_that_do_not_do(
    tmp_path: Path, authority: Authority, other: Authority, server: Identity
) -> None:
    bad = {
        "has expired": authority.issue("/CN=ct1", days=-1),
        "no CA we trust": other.issue("/CN=ct1"),
        "extended key usage": authority.issue("/CN=ct1", usage="serverAuth"),
        "shows no certificate": None,
    }
    with Receiver(tmp_path / "spool", tls=required(authority, server)) as receiver:
        for number, (sentence, identity) in enumerate(bad.items(), 1):
            for versions in ("1.2", "1.3"):
                with (
                    pytest.raises((ssl.SSLError, AssertionError)),
                    Raw(receiver.tls_port, tls=client(authority, identity, versions=versions)) as peer,
                ):
                    assert peer.associate() == AC
            assert sentence in receiver.wait_line("connection-refused", 2 * number)["message"], number
        receiver.stop()
        rejected = [one for one in receiver.logged() if one["outcome"] == "rejected"]
        words = {one["word"] for one in rejected}
        assert words == {"tls-certificate", "tls-expired", "tls-issuer", "tls-no-certificate"}


def test_a_caller_bound_to_its_certificate(
    tmp_path: Path, authority: Authority, server: Identity, modality: Identity
) -> None:
    callers = (
        Caller(ae_title="CT1", certificate=("CN=ct1,O=Clinic",)),
        Caller(ae_title="CT2", certificate=("DNS:*.clinic.example",)),
    )
    stranger = authority.issue("/O=Clinic/CN=ct9", names="DNS:ct9.elsewhere.example")
    tls = server.tls(client_ca=str(authority.certificate), client_certificates="optional")
    with Receiver(tmp_path / "spool", callers=callers, tls=tls) as receiver:
        for identity, answer in ((modality, AC), (stranger, RJ), (None, RJ)):
            for versions in ("1.2", "1.3"):
                for title in (b"CT1", b"CT2"):
                    context = client(authority, identity, versions=versions)
                    with Raw(receiver.tls_port, tls=context) as peer:
                        assert peer.associate(calling=title) == answer, (identity, title)
        with Raw(receiver.port) as peer:
            assert peer.associate(calling=b"CT1") == RJ


def test_plain_dicom_on_the_tls_port(receiver: Receiver) -> None:
    with Raw(receiver.tls_port) as peer:
        assert peer.associate() == ABORT
    assert "without TLS" in receiver.wait_line("connection-refused")["message"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0", b"\x80\x2e\x01\x00\x02", bytes(range(8, 200))])
def test_anything_else_on_the_tls_port(receiver: Receiver, data: bytes) -> None:
    with Raw(receiver.tls_port, first=data) as peer:
        assert peer.is_closed()
    assert "does not speak TLS" in receiver.wait_line("connection-refused")["message"]


def test_rejections_are_said_inside_tls(tmp_path: Path, authority: Authority, server: Identity) -> None:
    with (
        Receiver(tmp_path / "spool", tls=server.tls(), callers=()) as receiver,
        Raw(receiver.tls_port, tls=client(authority)) as peer,
    ):
        assert peer.associate() == RJ
    with (
        Receiver(tmp_path / "full", tls=server.tls(), max_connections=1) as receiver,
        Raw(receiver.tls_port, tls=client(authority)) as peer,
    ):
        assert peer.associate() == AC
        with pytest.raises((ssl.SSLError, OSError)):
            Raw(receiver.tls_port, tls=client(authority))
        echo(peer)


# Peers that say nothing, and peers that go


def test_silent_tls_clients_keep_nobody_waiting(tmp_path: Path, authority: Authority, server: Identity) -> None:
    hello = client_hello(authority)
    with Receiver(
        tmp_path / "spool", tls=server.tls(handshake_timeout_seconds=60.0), association_request_timeout_seconds=60.0
    ) as receiver:
        silent = [Raw(receiver.tls_port) for _ in range(100)]
        half = [Raw(receiver.tls_port, first=hello[:100]) for _ in range(50)]
        answered = [Raw(receiver.tls_port, first=hello) for _ in range(50)]
        mute = [Raw(receiver.tls_port, tls=client(authority)) for _ in range(20)]
        for peer in answered:
            assert peer.read(1) == b"\x16"
        for port, tls in ((receiver.tls_port, client(authority)), (receiver.port, None)):
            with Raw(port, tls=tls, timeout_seconds=10.0) as peer:
                assert peer.associate() == AC
                echo(peer)
                peer.release()
        for peer in (*silent, *half, *answered, *mute):
            peer.sock.close()


def client_hello(authority: Authority) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_each_wait_has_its_deadline(tmp_path: Path, authority: Authority, server: Identity) -> None:
    hello = client_hello(authority)
    with Receiver(
        tmp_path / "spool", tls=server.tls(handshake_timeout_seconds=0.5), association_request_timeout_seconds=1.0
    ) as receiver:
        with Raw(receiver.tls_port) as silent, Raw(receiver.tls_port, first=hello[:50]) as half:
            assert silent.is_closed()
            assert half.is_closed()
        assert receiver.wait_line("tls-handshake-timeout", 2)
        with Raw(receiver.tls_port, tls=client(authority)) as mute:
            assert mute.is_closed()
        assert receiver.wait_line("association-request-timeout")


def test_whoever_goes_in_the_middle_leaves_nothing(receiver: Receiver, authority: Authority) -> None:
    hello = client_hello(authority)
    here = psutil.Process()

    def go() -> None:
        for cut in (0, 1, 5, 100, len(hello)):
            with Raw(receiver.tls_port, first=hello[:cut]) as peer:
                if cut == 100:  # a reset instead of a close
                    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        Raw(receiver.tls_port, tls=client(authority)).sock.close()

    def settled() -> bool:
        return not any(one.laddr.port == receiver.tls_port and one.raddr for one in here.net_connections())

    go()
    wait_until(settled, "connections closed", 10.0)
    before = here.num_fds()
    for _ in range(10):
        go()
    wait_until(settled, "connections closed", 10.0)
    assert here.num_fds() <= before
    assert all(line["level"] in ("DEBUG", "INFO") for line in receiver.lines("connection-closed"))


def test_stopping_ends_an_idle_association(tmp_path: Path, authority: Authority, server: Identity) -> None:
    with Receiver(tmp_path / "spool", tls=server.tls()) as receiver:
        peer = Raw(receiver.tls_port, tls=client(authority))
        assert peer.associate() == AC
        receiver.stop()
        assert peer.read_pdu()[0] == ABORT


# Certificates that change


def shown(port: int, *authorities: Authority) -> bytes:
    """The certificate that a new connection sees."""
    for one in authorities:
        try:
            with Raw(port, tls=client(one)) as peer:
                assert isinstance(peer.sock, ssl.SSLSocket)
                return peer.sock.getpeercert(binary_form=True) or b""
        except ssl.SSLError:
            continue
    return b""


def test_a_new_certificate_is_used_without_a_restart(tmp_path: Path, authority: Authority, other: Authority) -> None:
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"

    def install(identity: Identity) -> None:
        shutil.copyfile(identity.key, key)
        shutil.copyfile(identity.certificate, certificate)

    first, second = authority.issue(), authority.issue()
    install(first)
    with Receiver(tmp_path / "spool", tls={"certificate": str(certificate), "key": str(key)}) as receiver:
        old = Raw(receiver.tls_port, tls=client(authority))
        assert old.associate() == AC
        before = shown(receiver.tls_port, authority)
        certificate.write_text("half a certif")
        wait_until(lambda: shown(receiver.tls_port, authority) and receiver.lines("certificate-unusable"), "look", 10.0)
        assert shown(receiver.tls_port, authority) == before
        echo(old)
        time.sleep(0.01)
        install(second)
        wait_until(lambda: shown(receiver.tls_port, authority) not in (b"", before), "the new certificate", 10.0)
        assert len(receiver.lines("certificate-unusable")) == 1
        assert receiver.lines("certificate-loaded")
        echo(old)
        old.release()
        assert old.sock.fileno() == -1


def test_reload_under_traffic(tmp_path: Path, authority: Authority) -> None:
    """Certificate and key are replaced one after the other, as tools do: every connection has a good one."""
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    identities = [authority.issue() for _ in range(2)]
    both = [one.certificate.read_bytes() + one.key.read_bytes() for one in identities]
    certificate.write_bytes(both[0])
    key.write_bytes(b"")
    seen = set()
    with Receiver(tmp_path / "spool", tls={"certificate": str(certificate)}) as receiver:
        for number in range(2):
            fresh = tmp_path / "fresh.pem"
            fresh.write_bytes(both[number])
            fresh.rename(certificate)
            end = time.monotonic() + 2.2
            while time.monotonic() < end:
                with Raw(receiver.tls_port, tls=client(authority)) as peer:
                    assert isinstance(peer.sock, ssl.SSLSocket)
                    seen.add(peer.sock.getpeercert(binary_form=True))
                    assert peer.associate() == AC
                    echo(peer)
                    peer.release()
    assert len(seen) == 2
    assert not receiver.lines("certificate-unusable")
