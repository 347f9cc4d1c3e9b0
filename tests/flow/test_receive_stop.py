"""Stopping a receive process: what runs is finished, what idles is aborted, nothing acknowledged is lost."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.peers.node import Node
from tests.peers.ports import answers, wait_until
from tests.peers.raw import ABORT, AC, COMMAND, DATA, LAST, Raw, associate_rq, pdu, pdv, store_rq
from tests.peers.receiver import Receiver


def test_idle_associations_are_aborted_at_once(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool") as receiver, Raw(receiver.port) as fresh, Raw(receiver.port) as old:
        assert old.associate() == AC
        assert old.store(b"data") == 0
        time.sleep(1.3)  # longer than the buffer is held
        assert fresh.associate() == AC
        started = time.monotonic()
        threading.Thread(target=receiver.stop).start()
        assert fresh.read_pdu() == (ABORT, bytes(4))
        assert old.read_pdu() == (ABORT, bytes(4))
        assert time.monotonic() - started < 2.0
        receiver.thread.join(10)
        assert sorted((end["outcome"], end["objects"]) for end in receiver.ends()) == [("shutdown", 0), ("shutdown", 1)]


def test_running_object_is_finished_and_answered(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool") as receiver, Raw(receiver.port) as peer:
        assert peer.associate() == AC
        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(1, 0, b"first")))
        time.sleep(0.2)
        receiver.stop_order.set()
        time.sleep(0.3)
        peer.send(pdu(DATA, pdv(1, LAST, b"second")))
        assert peer.read_status() == 0
        assert peer.read_pdu()[0] == ABORT
        receiver.thread.join(10)
        assert [one.dataset for one in receiver.objects()] == [b"firstsecond"]
        (end,) = receiver.ends()
        assert (end["outcome"], end["objects"]) == ("shutdown", 1)


def test_what_hangs_is_aborted_after_the_grace(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", grace_seconds=0.5) as receiver, Raw(receiver.port) as peer:
        assert peer.associate() == AC
        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(1, 0, b"never more")))
        time.sleep(0.2)
        started = time.monotonic()
        receiver.stop_order.set()
        assert peer.read_pdu() == (ABORT, bytes(4))
        receiver.thread.join(10)
        assert 0.4 < time.monotonic() - started < 3.0
        assert not receiver.objects()
        assert [end["outcome"] for end in receiver.ends()] == ["shutdown"]


def test_nothing_new_is_accepted(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool") as receiver, Raw(receiver.port) as silent:
        wait_until(receiver.thread.is_alive, "running", 5)
        receiver.stop()
        assert silent.is_closed()
        try:
            with Raw(receiver.port, timeout_seconds=1.0) as late:
                late.send(associate_rq())
                assert late.is_closed()
        except OSError:
            pass


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Threads and descriptors are those of before, whatever 300 connections did."""
    with Receiver(tmp_path / "spool") as receiver:
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            assert peer.store(b"data") == 0
        receiver.wait_ends(1)
        threads, sockets = threading.active_count(), open_sockets()
        for number in range(300):
            with Raw(receiver.port) as peer:
                kind = number % 6
                if kind == 1:
                    peer.send(associate_rq()[:30])
                elif kind == 2:
                    peer.send(associate_rq(called=b"NOBODY"))
                elif kind == 3:
                    peer.send(b"GET / HTTP/1.0\r\n\r\n")
                elif kind > 3:
                    assert peer.associate() == AC
                    if kind == 5:
                        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(1, 0, b"cut")))
        receiver.wait_ends(101)
        wait_until(lambda: threading.active_count() <= threads, "threads ended", 10)
        wait_until(lambda: open_sockets() <= sockets, "sockets closed", 10)
        assert {end["outcome"] for end in receiver.ends()} == {"connection-lost"}
        assert len(receiver.objects()) == 1


def open_sockets() -> int:
    """How many sockets this process has."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def test_sigterm_of_a_node_finishes_what_runs_and_ends_with_0(tmp_path: Path) -> None:
    with Node(tmp_path / "node", sections={"receive": {"grace_seconds": 20.0}}) as node:
        with Raw(node.port) as peer, Raw(node.port) as idle, Raw(node.port) as silent:
            assert [peer.associate(), idle.associate()] == [AC, AC]
            peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(1, 0, b"first")))
            time.sleep(0.3)
            node.program.signal(signal.SIGTERM)
            assert idle.read_pdu() == (ABORT, bytes(4))
            assert silent.is_closed()
            wait_until(lambda: not answers(node.port), "nothing listens", 5.0)
            peer.send(pdu(DATA, pdv(1, LAST, b"second")))
            assert peer.read_status() == 0
            assert peer.read_pdu() == (ABORT, bytes(4))
        wait_until(lambda: node.program.exit_code is not None, "the node has ended", 15.0)
        assert node.program.exit_code == 0
        node.start()
        wait_until(lambda: node.ledger()["received"] == 1, "it is in the ledger", 10.0)
