"""Admission of a running node, from the wire to the sentence: rights, refusals, the log of both, the mend applied."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from relaypacs.config.model import Caller
from relaypacs.jobs.associations import Asked
from relaypacs.jobs.store import JobStore
from relaypacs.receive.rejections import LINES
from tests.peers.node import Node
from tests.peers.ports import wait_until
from tests.peers.raw import AC, CT, EXPLICIT, IMPLICIT, RJ, VERIFICATION, Raw, associate_rq, pdu, request
from tests.peers.receiver import Receiver

ENHANCED_CT, MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4"
JPEG_LS = "1.2.840.10008.1.2.4.80"
WORKLIST = "1.2.840.10008.5.1.4.31"
DATASET = b"\x08\0\x16\0UI\x1a\0" + CT.encode() + b"\0"


def ask(port: int, **what: Any) -> tuple[int, bytes]:
    """What a request is answered with."""
    with Raw(port) as peer:
        peer.send(associate_rq(**what))
        kind, body = peer.read_pdu()
        if kind == AC:
            peer.release()
        return kind, body


def results(body: bytes) -> dict[int, int]:
    """The result of each context in an A-ASSOCIATE-AC."""
    found, at = {}, 68
    while at < len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        if body[at] == 0x21:
            found[body[at + 4]] = body[at + 6]
        at += 4 + length
    return found


def logged(receiver: Receiver, count: int) -> list[dict[str, Any]]:
    """The entries of the association log, when there are `count`."""
    wait_until(lambda: len(receiver.logged()) >= count, f"{count} entries in the association log", 10.0)
    return receiver.logged()


def test_rights_on_the_wire(tmp_path: Path) -> None:
    callers = (
        Caller(ae_title="ONLYCT", sop_classes=("CT Image Storage",)),
        Caller(ae_title="MONITOR", store=False),
        Caller(ae_title="SENDER", echo=False),
    )
    contexts = [(1, CT, (EXPLICIT,)), (3, MR, (EXPLICIT,)), (5, VERIFICATION, (IMPLICIT,)), (7, WORKLIST, (EXPLICIT,))]
    with Receiver(tmp_path / "spool", callers=callers) as receiver:
        for calling, expected in (
            (b"ONLYCT", {1: 0, 3: 1, 5: 0, 7: 3}),
            (b"MONITOR", {1: 1, 3: 1, 5: 0, 7: 3}),
            (b"SENDER", {1: 0, 3: 0, 5: 1, 7: 3}),
        ):
            kind, body = ask(receiver.port, calling=calling, contexts=contexts)
            assert (kind, results(body)) == (AC, expected)
        with Raw(receiver.port) as peer:
            assert peer.associate(calling=b"ONLYCT", contexts=contexts) == AC
            assert peer.store(DATASET, sop_class=CT) == 0
            peer.send_message(request(0x0030), context_id=5)
            assert peer.read_status() == 0
            peer.send_message(request(0x0001, sop_class=MR), context_id=3)  # a context that was refused
            assert peer.read_pdu()[0] == 7
        ends = receiver.wait_ends(4)
        assert sorted(one["word"] for one in ends) == ["", "", "", "contexts"]


def test_concealed_rejections_are_all_the_same_and_the_log_is_exact(tmp_path: Path) -> None:
    callers = (Caller(ae_title="CT_1", networks=("192.0.2.0/24",)), Caller(ae_title="CT_2", called_ae=("OTHER",)))
    asked = ({"calling": b"CT_1"}, {"calling": b"CT_2"}, {"calling": b"NO"}, {"calling": b"CT_2", "called": b"X"})
    for conceal, expected in ((True, [b"\0\1\1\1"] * 4), (False, [b"\0\1\1\3", b"\0\1\1\7", b"\0\1\1\3", b"\0\1\1\7"])):
        folder = tmp_path / str(conceal)
        with Receiver(folder, callers=callers, conceal=conceal, ae_titles=("RELAYPACS", "OTHER")) as receiver:
            assert [ask(receiver.port, **one) for one in asked] == [(RJ, answer) for answer in expected]
            entries = logged(receiver, 4)
            assert [one["word"] for one in entries] == ["calling-ae", "called-ae", "calling-ae", "called-ae"]
            assert len({one["reason"] for one in entries}) == 4
            assert [line["reason"] for line in receiver.lines("association-rejected")] == [
                one["word"] for one in entries
            ]


def test_a_user_identity_in_the_clear_is_refused(tmp_path: Path) -> None:
    shown = b"\x58\0\0\x0a\x02\x01\0\x02ct\0\x02pw"
    with Receiver(tmp_path / "spool") as receiver:
        assert ask(receiver.port, more=shown) == (RJ, b"\0\1\1\1")
        (entry,) = logged(receiver, 1)
        assert entry["word"] == "user-identity"
        assert "ct" not in entry["reason"].split()


def test_every_association_is_found_with_its_mend_and_a_refused_caller_is_let_in(tmp_path: Path) -> None:
    sections = {"receive": {"transfer_syntaxes": [EXPLICIT]}}
    with Node(tmp_path / "node", callers=[{"ae_title": "CT_1"}], sections=sections) as node:
        assert ask(node.port, calling=b"CT_9") == (RJ, b"\0\1\1\3")
        assert ask(node.port, calling=b"CT_1", contexts=[(1, ENHANCED_CT, (JPEG_LS,))])[0] == AC
        with Raw(node.port) as peer:
            assert peer.associate(calling=b"CT_1") == AC
            assert peer.store(DATASET) == 0
            peer.send(pdu(7, bytes(4)))
        with Raw(node.port) as peer:
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
            assert peer.read_pdu()[0] == 7

        def shown(*options: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = node.cli_json("associations", *options)["associations"]
            return found

        store = JobStore.open(f"sqlite:///{node.state_dir}/jobs.sqlite")
        wait_until(lambda: len(store.associations.find(Asked(), limit=9)) == 4, "rows of the association log", 15.0)
        store.close()
        by_outcome = {(one["outcome"], one["word"]): one for one in shown()}
        stored = by_outcome["peer-aborted", ""]
        assert (stored["objects"], stored["bytes"], stored["calling_ae"]) == (1, len(DATASET), "CT_1")
        assert "peer aborted" in stored["reason"]
        useless = by_outcome["released", "contexts"]
        assert useless["mend"] == (
            "CT_1 proposed Enhanced CT Image Storage only with JPEG-LS Lossless Image Compression: add "
            f"{JPEG_LS} to [receive] transfer_syntaxes, or have it propose Explicit VR Little Endian as well"
        )
        unknown = by_outcome["rejected", "calling-ae"]
        assert [one["abstract_syntax"] for one in unknown["contexts"]] == [CT, VERIFICATION]
        assert node.events("association-rejected")[0]["trace_id"] == unknown["association_id"]
        broken = by_outcome["rejected", "request"]
        assert node.events("association-request-broken")[0]["trace_id"] == broken["association_id"]
        assert len(shown("--rejected")) == 3
        assert node.ledger()["imbalance"] == 0

        added = node.cli("caller", "add", "--from-rejected", unknown["association_id"])
        assert added.returncode == 0, added.stderr
        wait_until(lambda: ask(node.port, calling=b"CT_9")[0] == AC, "the running node lets it in", 15.0)


@pytest.mark.timeout(1800)
def test_hostile_uids_and_ae_titles(tmp_path: Path, long_run: bool) -> None:
    """Nothing outside the node's folder, one line of log per event, no new metric series."""
    tricks = [
        "../../etc/x",
        "/etc/passwd",
        "%s%n",
        "\n{}",
        "\r\n",
        "\0",
        "\x1b[2J",
        "'; --",
        '"}',
        "${x}",
        "é",
        "1..2",
        "",
    ]
    house = tmp_path / "house"
    with Node(house / "node", callers=[{"ae_title": "*"}]) as node:

        def series() -> set[str]:
            return {line.rpartition(" ")[0] for line in node.get("/metrics")[1].splitlines() if line[0] != "#"}

        def hostile(number: int) -> None:
            trick = tricks[number % len(tricks)]
            title = f"{trick}{number}"[:16].encode("latin-1", "replace")
            with Raw(node.port) as peer:
                uid = f"{trick}{number}".encode("latin-1", "replace").decode("latin-1")
                if number % 3 == 0:
                    peer.associate(calling=title or b" ")
                elif number % 3 == 1:
                    peer.associate(calling=b"CT_1", called=title)
                else:
                    assert peer.associate(calling=b"CT_1") == AC
                    peer.send_message(store_hostile(uid.encode("latin-1")), DATASET)
                    assert peer.read_status() in (0x0117, 0xC000, 0)

        for number in (*range(3 * len(tricks)), *range(3 * len(tricks))):
            hostile(number)
        # What is stored (a number alone is a UID, also padded) has become rows, of both kinds there can be.
        duplicates = 'relaypacs_intake_instances_total{as="duplicate"}'
        wait_until(lambda: node.metric(duplicates) == 2, "intake", 30.0)
        before = series()
        rooms = {"staging", *(path.name for path in node.state_dir.iterdir())}
        outside = {path for path in tmp_path.rglob("*") if not path.is_relative_to(node.state_dir)}
        for number in range(5000 if long_run else 300):
            hostile(number)
        assert series() == before
        assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(node.state_dir)} == outside
        assert {path.name for path in node.state_dir.iterdir()} <= rooms
        names = [path.name for path in tmp_path.rglob("*")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.@-]+", name) for name in names), names
        lines = node.log().splitlines()
        assert all(line.startswith("{") for line in lines)
        assert len(node.events()) == len(lines)
        assert node.stop() == 0


def store_hostile(uid: bytes) -> bytes:
    """A C-STORE-RQ whose SOP Instance UID is anything."""
    from tests.peers.raw import element
    from tests.peers.raw import uid as padded

    data = element(0x0002, padded(CT)) + element(0x0100, b"\1\0") + element(0x0110, b"\1\0")
    data += element(0x0700, b"\0\0") + element(0x0800, b"\0\0") + element(0x1000, uid + b"\0" * (len(uid) % 2))
    return element(0, len(data).to_bytes(4, "little")) + data


@pytest.mark.timeout(3600)
def test_unauthorised_tries(tmp_path: Path, long_run: bool) -> None:
    """However many try: nobody is admitted, and neither memory, files, disk, rows nor log grow with them."""
    tries = 100_000 if long_run else 1_000
    sections = {"receive": {"processes": 1, "max_association_rate_per_address": 0}}
    with Node(tmp_path / "node", callers=[{"ae_title": "CT_1"}], sections=sections) as node:
        receive = next(
            one
            for one in psutil.Process(node.program.pid).children()
            if any(conn.laddr.port == node.port for conn in one.net_connections("tcp"))
        )

        def attack(first: int, last: int) -> None:
            for number in range(first, last):
                calling = f"X{number % 5000:05d}".encode()
                assert ask(node.port, calling=calling)[0] == RJ

        began = time.monotonic()
        attack(0, 200)
        rss, fds = receive.memory_info().rss, receive.num_fds()
        attack(200, tries)
        assert node.metric('relaypacs_association_rejected_total{reason="calling-ae"}') == tries
        assert node.metric('relaypacs_associations_total{caller="CT1",outcome="released"}') == 0
        assert receive.memory_info().rss - rss < 16 << 20
        assert receive.num_fds() <= fds + 260, "the refused whose close is awaited"
        # 64 kinds of this address and one for all others, 5 lines of each a minute and one with the number.
        minutes = 1 + int((time.monotonic() - began) / 60)
        lines = len(node.events("association-rejected")) + len(node.events("association-rejected-again"))
        assert lines <= 65 * (LINES + 1) * minutes
        spool = sum(path.stat().st_size for path in (node.state_dir / "spool" / "segments").iterdir())
        assert spool < 64 << 20
        assert node.stop() == 0

        def shown() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = node.cli_json("associations", "--rejected", "--limit", "1000")["associations"]
            return found

        node.start()  # what was still only in the spool becomes rows
        wait_until(lambda: sum(one["tries"] for one in shown()) == tries, "every try told", 30.0)
        assert len(shown()) == 65


@pytest.mark.parametrize("outcome", ["timeout", "connection-lost"])
def test_how_it_ended_is_found(tmp_path: Path, outcome: str) -> None:
    with Receiver(tmp_path / "spool", idle_timeout_seconds=0.2) as receiver:
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            if outcome == "timeout":
                assert peer.read_pdu()[0] == 7
        (end,) = receiver.wait_ends(1)
        assert end["outcome"] == outcome
        assert end["reason"]
