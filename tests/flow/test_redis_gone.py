"""A node whose Redis dies, hangs or refuses: reception and delivery go on, limits are kept alone, it says so once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until
from tests.peers.raw import AC, RJ, Raw
from tests.peers.redis import RedisServer
from tests.peers.stock import StockScp

PROCESSES = ("receive-0", "receive-1", "relay")
HANG_SECONDS = 60.0
"""A bound for hangs, not a measure."""


@pytest.fixture
def server(tmp_path: Path, peers: ExitStack) -> RedisServer:
    return peers.enter_context(RedisServer(tmp_path / "redis"))


def up(node: Node) -> list[float]:
    return [node.metric(f'relaypacs_redis_up{{process="{name}"}}') for name in PROCESSES]


def readiness(node: Node) -> tuple[int, dict[str, Any]]:
    status, body = node.get("/readyz")
    check: dict[str, Any] = json.loads(body)["checks"]["redis"]
    return status, check


def associate(stack: ExitStack, node: Node, count: int, calling: bytes = b"CT_1") -> list[int]:
    return [stack.enter_context(Raw(node.port, timeout_seconds=30)).associate(calling=calling) for _ in range(count)]


class Sender:
    """Sends small objects until it is stopped, each over an association of its own."""

    def __init__(self, port: int) -> None:
        self.sent = 0
        self.trouble: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with Raw(self._port, timeout_seconds=30) as peer:
                answer = peer.associate(calling=b"SENDER")
                status = peer.store(b"data", sop_instance=f"1.2.3.{self.sent + 1}") if answer == AC else -1
                if status != 0:
                    self.trouble.append(f"{answer} {status}")
                    return
                peer.release()
            self.sent += 1

    def stop(self) -> int:
        self._stop.set()
        self._thread.join(30)
        return self.sent


def test_killed_and_halted_under_traffic(server: RedisServer, node: Callable[..., Node], peers: ExitStack) -> None:
    archive = peers.enter_context(StockScp())
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet, associations_all_nodes=2)],
        sections={"redis": {"url": server.url, "lease_seconds": 30, "max_associations_per_ae": 8}},
    )
    wait_until(lambda: up(relay) == [1, 1, 1], "Redis to be used", 10)
    assert readiness(relay) == (200, {"ok": True, "needed": False, "reason": "does what is asked"})
    sender = Sender(relay.port)
    peers.callback(sender.stop)
    for lose, back in ((server.kill, server.start), (server.halt, server.go_on)):
        lose()
        wait_until(lambda: up(relay) == [0, 0, 0], "the loss to be seen", 20)
        wait_until(lambda: not readiness(relay)[1]["ok"], "readiness to name it", 10)
        status, check = readiness(relay)
        assert (status, check["ok"]) == (200, False)
        assert check["reason"].endswith("degraded: each node keeps to its part of shared limits")
        archive.wait_stored(len(archive.stored) + 5, HANG_SECONDS)
        with ExitStack() as stack:
            began = time.monotonic()
            assert associate(stack, relay, 6) == [AC] * 4 + [RJ] * 2, "its part of 8 on two nodes"
            assert associate(stack, relay, 4, b"OTHER") == [AC] * 4
            assert time.monotonic() - began < 10.0, "nobody waits for a Redis that is known to be gone"
            back()
            wait_until(lambda: up(relay) == [1, 1, 1], "Redis to be used again", 40)
            assert associate(stack, relay, 6) == [AC] * 4 + [RJ] * 2, "what was held alone counts again"
    sent = sender.stop()
    assert sender.trouble == []
    book = relay.wait_settled(sent, 60)
    assert (book["received"], book["delivered"], book["imbalance"]) == (sent, sent, 0)
    for name in PROCESSES:
        said = [line["event"] for line in relay.events() if line["service"] == name and "redis-" in line["event"]]
        assert said == ["redis-lost", "redis-back"] * 2, name
    assert not relay.events("process-died") + relay.events("association-failed") + relay.events("forward-bug")


def test_one_that_refuses_writes(server: RedisServer, node: Callable[..., Node]) -> None:
    server.client.config_set("maxmemory", "1")
    relay = node(sections={"redis": {"url": server.url, "max_associations_per_ae": 4}})
    wait_until(lambda: len(relay.events("redis-lost")) == 3, "every process to say so", 10)
    status, check = readiness(relay)
    assert (status, check["ok"], check["needed"]) == (200, False, False)
    assert check["reason"].startswith("it is out of memory")
    assert all("it is out of memory" in line["message"] for line in relay.events("redis-lost"))
    with ExitStack() as stack:
        assert associate(stack, relay, 3) == [AC, AC, RJ]
        server.client.config_set("maxmemory", "0")
        wait_until(lambda: up(relay) == [1, 1, 1], "Redis to be used", 40)
        assert associate(stack, relay, 3) == [AC, AC, RJ]
    assert len(relay.events("redis-lost")) == 3
