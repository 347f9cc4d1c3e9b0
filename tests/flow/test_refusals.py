"""What a destination refuses is offered to nobody who sends there alone: at once, after kill -9, until forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until
from tests.peers.raw import AC, CT, EXPLICIT, Raw, associate_rq
from tests.unit.forward.deliveries import JPEG_BASELINE, dataset

TAKEN, SYNTAX_REFUSED = 0, 4
CONTEXTS = ((1, CT, (JPEG_BASELINE,)), (3, CT, (EXPLICIT,)))


def offered(node: Node) -> tuple[int, int]:
    """What a scanner's JPEG context and its plain one come to (PS3.8 table 9-18)."""
    with Raw(node.port) as peer:
        peer.send(associate_rq(contexts=CONTEXTS))
        kind, body = peer.read_pdu()
        assert kind == AC
        results, at = {}, 68
        while at < len(body):
            if body[at] == 0x21:
                results[body[at + 4]] = body[at + 6]
            at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")
        peer.release()
    return results[1], results[3]


def send_jpeg(node: Node, uid: str) -> None:
    with Raw(node.port) as peer:
        peer.associate(contexts=CONTEXTS)
        assert peer.store(dataset(uid), sop_instance=uid) == 0
        peer.release()


def wait_offer(node: Node, jpeg: int) -> None:
    wait_until(lambda: offered(node) == (jpeg, TAKEN), "the offer", 15.0, every_seconds=0.1)


@pytest.fixture
def plain(storescp: Callable[..., StoreScp]) -> StoreScp:
    """A destination that takes uncompressed transfer syntaxes only."""
    return storescp(accept="+x=")


def test_what_is_refused_is_offered_to_nobody_until_it_is_forgotten(plain: StoreScp, node: Callable[..., Node]) -> None:
    relay = node(destinations=[dimse("pacs", plain.port, plain.aet)])
    assert offered(relay) == (TAKEN, TAKEN)
    send_jpeg(relay, "1.2.3.1")
    assert relay.wait_settled(1)["failed"] == 1
    wait_offer(relay, SYNTAX_REFUSED)

    relay.kill()
    relay.start()
    assert offered(relay) == (SYNTAX_REFUSED, TAKEN)
    listed = relay.cli("destination", "list").stdout
    assert "pacs refuses" in listed
    assert "JPEG Baseline" in listed
    assert [one["transfer_syntax"] for one in relay.cli_json("destination", "list")[0]["refused"]] == [JPEG_BASELINE]

    # It refuses that still, so a good test does not forget it.
    assert relay.cli("destination", "test", "pacs").returncode == 0
    time.sleep(0.5)
    assert offered(relay) == (SYNTAX_REFUSED, TAKEN)

    assert "1 refusal of pacs forgotten" in relay.cli("destination", "forget", "pacs").stdout
    assert offered(relay) == (TAKEN, TAKEN)
    # Also in the memory of the relay process: nothing brings it back but another refusal.
    wait_until(lambda: relay.events("refusals-forgotten"), "forgotten", 10.0)
    assert relay.cli_json("destination", "list")[0]["refused"] == []
    send_jpeg(relay, "1.2.3.2")
    wait_offer(relay, SYNTAX_REFUSED)


def test_an_upgraded_destination_is_offered_again(plain: StoreScp, node: Callable[..., Node]) -> None:
    """By the test that a person makes."""
    relay = node(destinations=[dimse("pacs", plain.port, plain.aet)])
    send_jpeg(relay, "1.2.3.1")
    wait_offer(relay, SYNTAX_REFUSED)
    plain.stop()
    better = StoreScp(plain.folder, aet=plain.aet)
    better.port = plain.port
    with better:
        done = relay.cli("destination", "test", "pacs")
        assert "1 refusal forgotten" in done.stdout
        assert offered(relay) == (TAKEN, TAKEN)


def test_it_is_asked_again_by_itself(plain: StoreScp, node: Callable[..., Node]) -> None:
    """In an association without an instance, though nothing is sent there."""
    relay = node(destinations=[dimse("pacs", plain.port, plain.aet, refused_for_seconds=3)])
    send_jpeg(relay, "1.2.3.1")
    wait_offer(relay, SYNTAX_REFUSED)
    plain.stop()
    time.sleep(4)
    assert offered(relay) == (SYNTAX_REFUSED, TAKEN), "while it can't be asked nothing is known anew"
    better = StoreScp(plain.folder, aet=plain.aet)
    better.port = plain.port
    with better:
        wait_offer(relay, TAKEN)
        assert "takes CT Image Storage in JPEG Baseline" in relay.events("refusal-over")[0]["message"]
        assert relay.ledger()["failed"] == 1
