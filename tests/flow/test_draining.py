"""`relaypacs node drain` says that a node may be stopped for good only if nothing can come of it any more."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from relaypacs.receive.draining import LOOK_SECONDS
from tests.peers.node import RELAYPACS, Node
from tests.peers.ports import wait_until
from tests.peers.raw import ABORT, AC, COMMAND, DATA, LAST, Raw, pdu, pdv, store_rq

SECTIONS = {"staging": {"hot_seconds": 0.0, "keep": "none"}}
NOTHING = "owes nothing: it can be stopped for good."


def holders(relay: Node, name: str) -> list[int]:
    """Processes of the node that hold its lock `alive/NAME`."""
    place = str(relay.state_dir / "run" / "alive" / name)
    return [pid for pid in relay.pids() if any(one.path == place for one in psutil.Process(pid).open_files())]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def draining(relay: Node) -> Iterator[subprocess.Popen[str]]:
    """`relaypacs node drain` while it runs."""
    command = [str(RELAYPACS), "node", "drain", "--config", str(relay.config_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def test_a_node_whose_relay_hangs_is_not_said_to_be_empty(node: Callable[..., Node]) -> None:
    relay = node(sections=SECTIONS)
    (pid,) = holders(relay, "relay")
    with stopped([pid]):
        with Raw(relay.port) as peer:
            assert peer.associate() == AC
            assert [peer.store(b"data", sop_instance=f"1.2.{number}") for number in range(5)] == [0] * 5
            peer.release()
        done = relay.cli("node", "drain")
        assert (done.returncode, NOTHING in done.stdout) == (1, False)
        assert "does not answer: is it running?" in done.stdout
    done = relay.cli("node", "drain")
    assert (done.returncode, NOTHING in done.stdout) == (0, True)
    assert relay.ledger()["received"] == 5
    for words in (("--no-wait",), ("--dry-run",)):
        done = relay.cli("node", "drain", *words)
        assert (done.returncode, NOTHING in done.stdout) == (1, False), "only the node can say so, when it was asked"


def test_associations_end_before_a_node_is_said_to_be_empty(node: Callable[..., Node]) -> None:
    relay = node(sections=SECTIONS)
    one, two = (pdu(DATA, pdv(1, COMMAND | LAST, store_rq(sop_instance=uid))) for uid in ("1.2.1", "1.2.2"))
    with Raw(relay.port) as busy:
        assert busy.associate() == AC
        busy.send(one + pdu(DATA, pdv(1, 0, b"first")))
        with draining(relay) as command:
            wait_until((relay.state_dir / "draining").exists, "the node to hear of it", 20)
            time.sleep(LOOK_SECONDS + 2.0)
            assert command.poll() is None, "an object is still on its way"
            busy.send(pdu(DATA, pdv(1, LAST, b"second")) + two + pdu(DATA, pdv(1, LAST, b"too late")))
            assert busy.read_status() == 0
            assert busy.read_pdu() == (ABORT, bytes(4))
            out, _ = command.communicate(timeout=60)
            assert (command.returncode, NOTHING in out) == (0, True)
    assert relay.ledger()["received"] == 1
    assert relay.cli("node", "drain", "--cancel").returncode == 0
    wait_until(lambda: not (relay.state_dir / "draining").exists(), "the node to hear of it", 20)
    with Raw(relay.port) as idle, Raw(relay.port) as fresh:
        assert idle.associate() == AC
        assert idle.store(b"data", sop_instance="1.2.3") == 0
        time.sleep(2.5)
        assert idle.store(b"data", sop_instance="1.2.4") == 0, "the drain is over for good"
        assert fresh.associate() == AC
        assert relay.cli("node", "drain", "--no-wait").returncode == 1
        for peer in (idle, fresh):
            peer.sock.settimeout(3 * LOOK_SECONDS)
        assert idle.read_pdu() == (ABORT, bytes(4))
        assert fresh.read_pdu() == (ABORT, bytes(4))
    wait_until(lambda: len(relay.events("association-ended")) == 3, "the log", 10)
    ends = relay.events("association-ended")
    assert sorted((end["outcome"], end["objects"], end["message"]) for end in ends) == [
        ("shutdown", number, "the node is being drained") for number in (0, 1, 2)
    ]


@pytest.mark.long
def test_a_receive_process_that_hangs_may_still_have_an_association(node: Callable[..., Node]) -> None:
    relay = node(sections={**SECTIONS, "receive": {"processes": 1}})
    (pid,) = holders(relay, "receive-0")
    with Raw(relay.port) as peer:
        assert peer.associate() == AC
        with draining(relay) as command:
            with stopped([pid]):
                wait_until((relay.state_dir / "draining").exists, "the node to hear of it", 20)
                time.sleep(LOOK_SECONDS + 2.0)
                assert command.poll() is None
            assert peer.read_pdu() == (ABORT, bytes(4))
            out, _ = command.communicate(timeout=60)
            assert (command.returncode, NOTHING in out) == (0, True)
