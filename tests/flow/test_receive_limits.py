"""Limits of the edge on the wire, and across the receive processes of a real node; several listeners."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from relaypacs.receive.rejections import LINES
from tests.peers.node import Node
from tests.peers.pki import Authority
from tests.peers.ports import free_port, wait_until
from tests.peers.raw import AC, RJ, Raw, associate_rq
from tests.peers.receiver import Receiver

TRANSIENT = (RJ, b"\0\x02\x03\x02")


def ask(stack: ExitStack, port: int, calling: bytes = b"RAW") -> tuple[int, bytes]:
    """A new connection that stays open, and the answer to its association request (no body when accepted)."""
    peer = stack.enter_context(Raw(port))
    peer.send(associate_rq(calling=calling))
    kind, body = peer.read_pdu()
    return kind, b"" if kind == AC else body


def test_associations_of_one_calling_ae(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", max_associations_per_ae=2) as receiver, ExitStack() as stack:
        assert [ask(stack, receiver.port) for _ in range(3)] == [(AC, b"")] * 2 + [TRANSIENT]
        assert ask(stack, receiver.port, b"OTHER") == (AC, b"")
        assert receiver.wait_line("association-rejected")["reason"] == "association-limit-ae"


def test_connections_of_one_address_are_refused_before_they_say_anything(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", max_connections_per_address=3) as receiver:
        with ExitStack() as stack:
            assert [ask(stack, receiver.port) for _ in range(3)] == [(AC, b"")] * 3
            with Raw(receiver.port) as fourth:
                assert fourth.read_pdu() == TRANSIENT
            assert receiver.wait_line("association-rejected")["reason"] == "connection-limit-address"
        receiver.wait_ends(3)
        wait_until(lambda: connects(receiver.port), "places given free", 5.0)


@pytest.mark.parametrize("limit", ["max_connections_per_address", "max_connections"])
def test_silent_connections_make_room_for_those_who_ask(tmp_path: Path, limit: str) -> None:
    with Receiver(tmp_path / "spool", **{limit: 3}) as receiver, ExitStack() as stack:
        silent = [stack.enter_context(Raw(receiver.port)) for _ in range(3)]
        assert [ask(stack, receiver.port) for _ in range(3)] == [(AC, b"")] * 3
        assert all(peer.is_closed() for peer in silent)
        assert ask(stack, receiver.port) == TRANSIENT
        assert len(receiver.lines("connection-displaced")) == 3


@pytest.mark.parametrize("begins", ["in the clear", "as a TLS handshake"])
def test_who_only_begins_fills_no_log(tmp_path: Path, begins: str) -> None:
    """One byte and a close, or a broken handshake, again and again: the first few have a line, the rest a number."""
    many = 60
    tls = Authority(tmp_path / "ca").issue().tls() if "TLS" in begins else None
    with Receiver(tmp_path / "spool", tls=tls) as receiver:
        for _ in range(many):
            if tls is None:
                with Raw(receiver.port) as peer:
                    peer.send(b"\x01")
            else:
                with Raw(receiver.tls_port) as peer:
                    peer.send(b"\x16\x03\x01\x00\x05hello")
                    peer.is_closed()  # after an alert
        with Raw(receiver.port) as last:
            assert last.associate() == AC
            wait_until(lambda: not_closed(receiver.port) == 1, "every end seen", 10.0)
        receiver.stop()
        lines = [line for line in receiver.lines() if line["level"] != "DEBUG"]
        ends = [line for line in lines if line["event"] in ("connection-closed", "connection-refused")]
        again = [line for line in lines if line["event"].endswith("-again")]
    assert len(ends) == LINES
    assert sum(line["more"] for line in again) == many - LINES
    assert len(lines) < 15


def not_closed(port: int) -> int:
    """Connections to a port of this process that are not closed on our side."""
    mine = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == port and one.status in ("CLOSE_WAIT", "ESTABLISHED") for one in mine)


def connects(port: int) -> bool:
    with Raw(port) as peer:
        return peer.associate() == AC


def test_rate_of_one_address(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", max_association_rate_per_address=4.0) as receiver, ExitStack() as stack:
        began = time.monotonic()
        answers = [ask(stack, receiver.port) for _ in range(12)]
        passed = answers.count((AC, b""))
        assert 4 <= passed <= 5 + 4 * (time.monotonic() - began)
        assert answers.count(TRANSIENT) == 12 - passed
        assert receiver.lines("association-rejected")[0]["reason"] == "association-rate"


def test_a_context_with_too_many_transfer_syntaxes_is_refused_alone(tmp_path: Path) -> None:
    ct, mr = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
    explicit = "1.2.840.10008.1.2.1"
    contexts = ((1, ct, [f"1.2.{n}" for n in range(5)]), (3, mr, [explicit]))
    with Receiver(tmp_path / "spool", max_transfer_syntaxes=4) as receiver, Raw(receiver.port) as peer:
        peer.send(associate_rq(contexts=contexts))
        kind, body = peer.read_pdu()
        assert kind == AC
        assert bytes((0x21, 0, 0, 25, 1, 0, 2, 0)) in body  # context 1: result 2
        assert peer.store(b"data", context_id=3, sop_class=mr) == 0


def test_limits_hold_across_processes_and_a_killed_process_gives_its_places_back(tmp_path: Path) -> None:
    sections = {"receive": {"processes": 3, "max_associations": 9}}
    with Node(tmp_path / "node", sections=sections) as node:
        with ExitStack() as stack:
            answers = [ask(stack, node.port) for _ in range(24)]
            assert answers.count((AC, b"")) == 9
            assert answers.count(TRANSIENT) == 15
            label = 'relaypacs_association_rejected_total{reason="association-limit"}'
            assert node.metric(label) == 15
            for process in psutil.Process(node.program.pid).children():
                if any(one.laddr.port == node.port for one in process.net_connections("tcp")):
                    os.kill(process.pid, signal.SIGKILL)
        wait_until(node.is_ready, "the processes are there again", 15.0)
        with ExitStack() as stack:
            answers = [ask(stack, node.port) for _ in range(12)]
            assert answers.count((AC, b"")) == 9


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_several_listeners_and_ipv6(tmp_path: Path) -> None:
    port, further = free_port(), free_port()
    sections = {"receive": {"host": "0.0.0.0", "also_listen": [f"[::]:{port}", f"[::]:{further}"]}}
    callers = [{"ae_title": "SIX", "networks": ["::1/128"]}, {"ae_title": "FOUR", "networks": ["127.0.0.0/8"]}]
    with Node(tmp_path / "node", callers=callers, sections=sections, port=port) as node:

        def answer(host: str, port: int, calling: bytes) -> int:
            with socket.create_connection((host, port), timeout=10) as sock:
                sock.sendall(associate_rq(calling=calling))
                return sock.recv(1)[0]

        assert [answer("127.0.0.1", node.port, b"FOUR"), answer("127.0.0.1", node.port, b"SIX")] == [AC, RJ]
        assert [answer("::1", node.port, b"FOUR"), answer("::1", node.port, b"SIX")] == [RJ, AC]
        assert [answer("127.0.0.1", further, b"FOUR"), answer("::1", further, b"SIX")] == [AC, AC]
        wait_until(lambda: len(node.events("association-ended")) >= 4, "ends in the log", 5.0)
        peers = {line["peer"].rpartition(":")[0] for line in node.events("association-ended")}
        assert peers == {"127.0.0.1", "[::1]"}
        assert node.stop() == 0
