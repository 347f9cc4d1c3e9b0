"""Mutated TLS and PROXY protocol at a live port: whatever comes, the process lives and nothing is left.

The client is Python's TLS over buffers, so that what it would send can be changed at any place: in the handshake, in
records under way, behind a balancer's header, or in the DICOM inside.
"""

from __future__ import annotations

import random
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from tests.flow.test_receive_fuzz import conversation, mutate
from tests.flow.test_receive_proxy import LOCAL, header
from tests.peers.pki import Authority, client
from tests.peers.ports import wait_until
from tests.peers.raw import AC, Raw
from tests.peers.receiver import Receiver

SEED = 20240301


def damage(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, lost, doubled or added."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(4)
        if kind == 0 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place : place + rng.randint(1, 40)]
        elif kind == 2:
            changed[place:place] = changed[place : place + rng.randint(1, 40)]
        else:
            changed[place:place] = rng.randbytes(rng.randint(1, 40))
    return bytes(changed)


def attack(receiver: Receiver, context: ssl.SSLContext, seed: int, count: int) -> None:
    """`count` broken connections, each damaged at one stage."""
    rng = random.Random(seed)
    for _ in range(count):
        stage = rng.randrange(5)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        first = rng.choice((header("127.0.0.9"), LOCAL))
        first = damage(rng, first) if stage == 0 else first
        with suppress(OSError, ssl.SSLError), Raw(receiver.tls_port, timeout_seconds=0.3, first=first) as peer:
            for turn in range(3):
                with suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
                data = outgoing.read()
                peer.send(damage(rng, data) if stage == 1 + turn else data)
                incoming.write(peer.sock.recv(65536))
            tls.write(b"".join(conversation()) if stage == 4 else mutate(rng, conversation()))
            data = outgoing.read()
            peer.send(damage(rng, data) if stage == 4 else data)
            if rng.random() < 0.5:
                peer.sock.recv(65536)


def test_whatever_comes_the_process_lives(tmp_path: Path, long_run: bool) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue()
    count = 1_000 if long_run else 20
    with Receiver(
        tmp_path / "spool",
        tls=server.tls(handshake_timeout_seconds=2.0),
        proxy_from=("127.0.0.1",),
        pdu_timeout_seconds=2.0,
        idle_timeout_seconds=2.0,
        association_request_timeout_seconds=2.0,
    ) as receiver:
        here = psutil.Process()
        with Raw(receiver.tls_port, tls=client(authority), first=header("127.0.0.8")) as peer:
            assert peer.associate() == AC
            peer.release()
        receiver.wait_line("association-ended")
        threads, files = threading.active_count(), here.num_fds()
        attackers = [
            threading.Thread(target=attack, args=(receiver, client(authority), SEED + n, count)) for n in range(4)
        ]
        for one in attackers:
            one.start()
        for one in attackers:
            one.join()
        with Raw(receiver.tls_port, tls=client(authority), first=header("127.0.0.8")) as peer:
            assert peer.associate() == AC
            peer.release()
        wait_until(lambda: threading.active_count() <= threads, f"{threads} of {threading.enumerate()}", 20.0)
        wait_until(lambda: here.num_fds() <= files, "files closed", 20.0)
        assert not receiver.lines("association-failed")
        assert receiver.lines("connection-refused")
