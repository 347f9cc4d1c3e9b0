"""Two real nodes and a real Redis: limits over both, exact while it is there; nothing of a patient in it.

One pair for all tests, in this order: the last ones look back at everything Redis was told, and kill a node.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from tests.peers.node import Node, dimse
from tests.peers.pki import Authority
from tests.peers.ports import free_port, wait_until
from tests.peers.raw import ABORT, AC, RJ, Raw, associate_rq
from tests.peers.redis import RedisServer
from tests.peers.stock import StockScp, Stored, storescu
from tests.samples import write_mr_series

TRANSIENT = (RJ, b"\0\x02\x03\x02")
NOT_RECOGNISED = (RJ, b"\0\x01\x01\x03")
PATIENT = ("TEST^GENERATED", "GENERATED", "ID-canary")
"""What `write_mr_series` writes."""


class Counting(StockScp):
    """Counts how many C-STOREs run at once, which is how many associations send."""

    def __init__(self) -> None:
        super().__init__(answer=self._count)
        self._running = threading.Lock()
        self._now = 0
        self.most_at_once = 0

    def _count(self, _: Stored) -> int:
        with self._running:
            self._now += 1
            self.most_at_once = max(self._now, self.most_at_once)
        threading.Event().wait(0.01)
        with self._running:
            self._now -= 1
        return 0


@dataclass
class House:
    """The Redis, what it was told, the nodes, and the archive that both deliver to."""

    server: RedisServer
    one: Node
    two: Node
    archive: Counting
    tls_port: int
    """Of node one."""
    heard: list[str] = field(default_factory=list)

    def calls(self) -> int:
        """How often the script has run."""
        return int(self.server.client.info("commandstats")["cmdstat_evalsha"]["calls"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("redis")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(folder / "redis"))
        heard = stack.enter_context(overheard(server))
        archive = stack.enter_context(Counting())
        to = dimse("archive", archive.port, archive.aet, associations=3, associations_all_nodes=1, idle_seconds=0.5)
        limits = {"max_associations_per_ae": 8, "max_failed_associations_per_address": 4, "refuse_seconds": 4}
        shared = {"url": server.url, "timeout_seconds": 5.0, "lease_seconds": 3, **limits}
        callers = [{"ae_title": "CT_1"}, {"ae_title": "STORE*"}]
        identity, tls_ports = Authority(folder / "ca").issue(), [free_port(), free_port()]
        nodes = [
            Node(
                folder / name,
                destinations=[to],
                callers=callers,
                sections={
                    "node": {"name": name},
                    "redis": shared,
                    "receive": {"processes": 2},
                    "tls": identity.tls(listen=[f"127.0.0.1:{tls_port}"]),
                },
            )
            for name, tls_port in zip(("one", "two"), tls_ports, strict=True)
        ]
        for node in nodes:
            node.launch()
        for node in nodes:
            stack.callback(node.stop)
            node.program.wait_ready(node.is_ready, 30)
        yield House(server, nodes[0], nodes[1], archive, tls_ports[0], heard)


@contextlib.contextmanager
def overheard(server: RedisServer) -> Iterator[list[str]]:
    """Every command the server is given meanwhile."""
    heard: list[str] = []

    def listen() -> None:
        client = redis.Redis.from_url(server.url, socket_timeout=None)
        with contextlib.suppress(redis.ConnectionError, ValueError), client.monitor() as said:
            heard.extend(command["command"] for command in said.listen())

    threading.Thread(target=listen, daemon=True).start()
    wait_until(lambda: bool(server.client.ping() and heard), "the monitor", 10)
    yield heard
    server.kill()


def ask(stack: ExitStack, port: int, calling: bytes = b"CT_1") -> tuple[int, bytes]:
    """A connection that stays open, and the answer to its association request (no body when accepted)."""
    peer = stack.enter_context(Raw(port, timeout_seconds=30))
    peer.send(associate_rq(calling=calling))
    kind, body = peer.read_pdu()
    return kind, b"" if kind == AC else body


def ask_all(stack: ExitStack, *ports: int, calling: bytes = b"CT_1") -> list[tuple[int, bytes]]:
    """All at once."""
    with ThreadPoolExecutor(len(ports)) as pool:
        return list(pool.map(lambda port: ask(stack, port, calling), ports))


def reasons(node: Node) -> set[str]:
    return {line["reason"] for line in node.events("association-rejected")}


def test_associations_of_a_caller_are_exact_over_two_nodes(house: House) -> None:
    one, two = house.one, house.two
    for _ in range(2):
        with ExitStack() as stack:
            answers = ask_all(stack, *(8 * [one.port, two.port]))
            assert (answers.count((AC, b"")), answers.count(TRANSIENT)) == (8, 8)
            assert ask(stack, two.port, b"STORE_1") == (AC, b""), "another caller has its own"
        house.server.wait_slots(0, "associations", "title", "CT_1", seconds=15)
    assert reasons(one) | reasons(two) == {"association-limit-ae-nodes"}
    words = 'relaypacs_association_rejected_total{reason="association-limit-ae-nodes"}'
    assert one.metric(words) + two.metric(words) == 16
    with ExitStack() as stack:
        assert ask(stack, one.port) == (AC, b""), "having reached a limit is no failure"


def test_failed_requests_of_an_address_are_counted_over_all_nodes(house: House) -> None:
    one, two = house.one, house.two
    with ExitStack() as stack:
        assert ask(stack, one.port) == (AC, b"")
        for port in (one.port, two.port, one.port):
            assert ask(stack, port, b"GUESS") == NOT_RECOGNISED
        assert ask(stack, two.port) == (AC, b"")
        assert ask(stack, one.port, b"GUESS") == NOT_RECOGNISED
        wait_until(lambda: ask(stack, two.port) == TRANSIENT, "the refusal, also at the other node", 3)
        assert ask(stack, one.port) == TRANSIENT
        wait_until(lambda: ask(stack, two.port) == (AC, b""), "the end of it", 15, every_seconds=0.5)
    assert "failed-associations" in reasons(one) & reasons(two)


def test_failed_handshakes_count_as_failed_requests(house: House) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(Raw(house.tls_port, timeout_seconds=30))
            peer.send(associate_rq())  # without TLS
            assert peer.read_pdu()[0] == ABORT
        wait_until(lambda: ask(stack, house.two.port) == TRANSIENT, "the refusal, also at the other node", 3)
        wait_until(lambda: ask(stack, house.two.port) == (AC, b""), "the end of it", 15, every_seconds=0.5)


def test_an_open_association_asks_redis_nothing(house: House) -> None:
    with Raw(house.one.port) as peer:
        assert peer.associate(calling=b"CT_1") == AC
        before = house.calls()
        assert {peer.store(b"data", sop_instance=f"1.2.{number}") for number in range(200)} == {0}
        assert house.calls() - before < 100, "only leases are renewed, and other relay processes woken"
        peer.release()
    house.archive.wait_stored(200, 60)


def test_a_destination_gets_one_association_of_all_nodes(tmp_path: Path, house: House) -> None:
    before = len(house.archive.stored)
    files = write_mr_series(tmp_path, 50, seed="canary")
    with ThreadPoolExecutor(2) as pool:
        sent = pool.map(storescu, (house.one.port, house.two.port), (files[:25], files[25:]))
        assert [one.returncode for one in sent] == [0, 0]
    house.archive.wait_stored(before + 50, 60)
    assert len({stored.sop_instance_uid for stored in house.archive.stored}) == before + 50
    assert house.archive.most_at_once == 1


def test_nothing_of_a_patient_and_no_address_reached_redis(house: House) -> None:
    said = "\n".join([*house.heard, *house.server.everything()])
    for expected in (":window:archive", ":associations:title:CT_1", ":associations:hash:", ":failed:", ":refused:"):
        assert expected in said
    uids = {uid for stored in house.archive.stored for uid in (stored.sop_instance_uid, stored.sop_class_uid)}
    assert len(uids) > 200
    for secret in (*PATIENT, "STORESCU", "STORE_1", "GUESS", "127.0.0.1", *uids):
        assert secret not in said, secret


def test_what_a_killed_node_held_is_free_after_its_lease(house: House) -> None:
    one, two = house.one, house.two
    with ExitStack() as stack:
        assert ask_all(stack, *(5 * [one.port])) == [(AC, b"")] * 5
        one.kill()
        answers = ask_all(stack, *(5 * [two.port]))
        assert (answers.count((AC, b"")), answers.count(TRANSIENT)) == (3, 2), "not before"
        wait_until(lambda: ask(stack, two.port) == (AC, b""), "the killed node's share", 15, every_seconds=0.3)
        assert ask_all(stack, *(6 * [two.port])).count((AC, b"")) == 4
