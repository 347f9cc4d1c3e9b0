"""PROXY protocol v2: the client a balancer names counts, and nobody else may name one."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import pytest

from relaypacs.config.model import Caller
from tests.peers.pki import Authority, Identity, client
from tests.peers.ports import wait_until
from tests.peers.raw import ABORT, AC, RJ, Raw, associate_rq
from tests.peers.receiver import Receiver

BALANCER = ("127.0.0.0/8",)
CALLERS = (Caller(ae_title="RAW", networks=("192.0.2.0/24",)),)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue()


def header(source: str, port: int = 40000, more: bytes = b"") -> bytes:
    """As HAProxy's `send-proxy-v2` writes it."""
    packed = ipaddress.ip_address(source).packed
    rest = packed + bytes(len(packed)) + struct.pack(">HH", port, 104) + more
    kind = 0x11 if len(packed) == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, kind, len(rest)) + rest


LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"


def test_admission_is_by_the_client_s_address(tmp_path: Path, authority: Authority, server: Identity) -> None:
    with Receiver(tmp_path / "spool", callers=CALLERS, proxy_from=BALANCER, tls=server.tls()) as receiver:
        for port, tls in ((receiver.port, None), (receiver.tls_port, client(authority))):
            with Raw(port, tls=tls, first=header("192.0.2.7")) as peer:
                assert peer.associate() == AC
                peer.release()
            with Raw(port, tls=tls, first=header("198.51.100.7", more=b"\x04\x00\x02xy")) as peer:
                assert peer.associate() == RJ
            assert receiver.wait_line("association-rejected")["peer"] == "198.51.100.7:40000"
        ends = receiver.wait_ends(2)
        assert {end["peer"] for end in ends} == {"192.0.2.7:40000"}


def test_header_and_request_in_one_and_in_single_bytes(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", callers=CALLERS, proxy_from=BALANCER) as receiver:
        with Raw(receiver.port, first=header("192.0.2.7") + associate_rq()) as peer:
            assert peer.read_pdu()[0] == AC
            peer.release()
        with Raw(receiver.port) as peer:
            for byte in header("192.0.2.7") + associate_rq():
                peer.send(bytes((byte,)))
            assert peer.read_pdu()[0] == AC
            peer.release()


def test_a_balancer_that_looks_whether_we_are_there_is_no_event(
    tmp_path: Path, authority: Authority, server: Identity
) -> None:
    with Receiver(tmp_path / "spool", callers=CALLERS, proxy_from=BALANCER, tls=server.tls()) as receiver:
        for port in (receiver.port, receiver.tls_port):
            for first in (b"", LOCAL):
                with Raw(port, first=first):
                    pass
        wait_until(lambda: len(receiver.lines("connection-closed")) == 4, "four closed", 10.0)
        assert {line["level"] for line in receiver.lines("connection-closed")} == {"DEBUG"}
        levels = {line["level"] for line in receiver.lines()}
        assert levels <= {"DEBUG", "INFO"}
        # LOCAL with a request behind it is the balancer itself, and the balancer is nobody we know.
        with Raw(receiver.port, first=LOCAL) as peer:
            assert peer.associate() == RJ
        assert receiver.wait_line("association-rejected")["peer"].startswith("127.0.0.1:")


def test_without_proxy_from_nobody_may(tmp_path: Path, authority: Authority, server: Identity) -> None:
    with Receiver(tmp_path / "spool", proxy_from=("192.0.2.1",), tls=server.tls()) as receiver:
        with Raw(receiver.port, first=header("192.0.2.7") + associate_rq()) as peer:
            assert peer.read_pdu()[0] == ABORT
        assert "not in [receive] proxy_from" in receiver.wait_line("association-request-broken")["message"]
        with Raw(receiver.tls_port, first=header("192.0.2.7")) as peer:
            assert peer.is_closed()
        assert "not in [receive] proxy_from" in receiver.wait_line("connection-refused")["message"]
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (associate_rq(), "no PROXY protocol header came"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 40000 104\r\n", "version 1"),
        (header("192.0.2.7", more=bytes(3000)), "over 2048 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00", "no TCP client"),
    ],
)
def test_what_a_balancer_must_not_send(tmp_path: Path, data: bytes, sentence: str) -> None:
    with Receiver(tmp_path / "spool", proxy_from=BALANCER) as receiver:
        with Raw(receiver.port, first=data) as peer:
            assert peer.is_closed()
        assert sentence in receiver.wait_line("connection-refused")["message"]
        receiver.wait_line("connection-refused")


def test_a_slow_header_meets_its_deadline(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", proxy_from=BALANCER, association_request_timeout_seconds=0.5) as receiver:
        with Raw(receiver.port, first=header("192.0.2.7")[:20]) as peer:
            assert peer.is_closed()
        assert receiver.wait_line("proxy-header-timeout")["level"] == "WARNING"


def test_limits_count_the_client(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", proxy_from=BALANCER, max_connections_per_address=2) as receiver:
        open_ones = []
        for source in ("192.0.2.7", "192.0.2.7", "192.0.2.8", "192.0.2.8"):
            peer = Raw(receiver.port, first=header(source))
            assert peer.associate() == AC
            open_ones.append(peer)
        with Raw(receiver.port, first=header("192.0.2.7")) as peer:
            assert peer.read_pdu()[0] == RJ
        open_ones[0].release()
        receiver.wait_line("association-ended")

        def welcome() -> bool:
            with Raw(receiver.port, first=header("192.0.2.7")) as peer:
                return peer.associate() == AC

        wait_until(welcome, "room for that client", 10.0)
        for peer in open_ones[1:]:
            peer.sock.close()
