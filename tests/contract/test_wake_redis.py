"""How every kind of trouble with Redis reads, that it ends by itself, and TLS and a Redis Cluster as they are meant."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from relaypacs import log
from relaypacs.config.redis import Redis
from relaypacs.wake import link
from relaypacs.wake.keeper import Keeper
from relaypacs.wake.remote import RedisWake
from relaypacs.wake.script import claim, fail, take
from tests.peers.ports import free_port, wait_until
from tests.peers.redis import RedisServer

SECRET = "hunter2"
DOCUMENTED = Path(__file__).parents[2] / "docs" / "redis.md"
Mend = Callable[[], Any]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    stream = io.StringIO()
    log.setup(level="info", json_lines=True, service="test", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.setup(level="info", json_lines=True, service="relaypacs")


def keeper_of(stack: ExitStack, settings: Redis) -> Keeper:
    keeper = Keeper(settings, node="one", process="test")
    stack.callback(keeper.close)
    keeper.start()
    return keeper


def try_take(keeper: Keeper) -> int | None:
    slots, member = keeper.key("test"), keeper.member()
    return keeper.ask(take(slots, keeper.key("refused"), 1000, member), slots=slots, member=member)


def out_of_memory(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = stack.enter_context(RedisServer(folder, maxmemory="1", maxmemory_policy="noeviction"))
    return server.settings(), lambda: server.client.config_set("maxmemory", "0")


def read_only(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    primary = stack.enter_context(RedisServer(folder / "primary"))
    server = stack.enter_context(RedisServer(folder / "replica", replicaof=f"127.0.0.1 {primary.port}"))
    return server.settings(), lambda: server.client.replicaof("NO", "ONE")


def other_password(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = stack.enter_context(RedisServer(folder, password="another"))
    client = server.client
    server.password = SECRET
    return server.settings(), lambda: client.config_set("requirepass", SECRET)


def no_password(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = stack.enter_context(RedisServer(folder, password=SECRET))
    client = server.client
    server.password = ""
    return server.settings(), lambda: client.config_set("requirepass", "")


def no_permission(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = stack.enter_context(RedisServer(folder))
    client = server.client
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    return server.settings(), lambda: client.execute_command("ACL", "SETUSER", "default", "+@all")


def nobody_there(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = RedisServer(folder)
    stack.callback(server.kill)
    return server.settings(), server.start


def another_program(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = RedisServer(folder)
    stack.callback(server.kill)
    listener = socket.create_server(("127.0.0.1", server.port))

    def serve() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()

    def mend() -> None:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.start()

    return server.settings(), mend


def silent(folder: Path, stack: ExitStack) -> tuple[Redis, Mend]:
    server = stack.enter_context(RedisServer(folder))
    server.halt()
    return server.settings(), server.go_on


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (out_of_memory, "it is out of memory and refuses writes"),
        (read_only, "it is a read-only replica"),
        (other_password, "it refuses our user or password"),
        (no_password, "it refuses our user or password"),
        (no_permission, "our user may not do what is needed"),
        (nobody_there, "it can't be reached"),
        (another_program, "it can't be reached: check [redis] url"),
        (silent, "it does not answer in time"),
    ],
)
def test_trouble_is_said_once_and_ends_by_itself(
    tmp_path: Path,
    stack: ExitStack,
    lines: Callable[[], list[dict[str, Any]]],
    make: Callable[[Path, ExitStack], tuple[Redis, Mend]],
    says: str,
) -> None:
    settings, mend = make(tmp_path, stack)
    keeper = keeper_of(stack, settings)
    wait_until(lambda: not keeper.there, "the loss to be seen", 10)
    assert try_take(keeper) is None
    if make is not no_permission:  # the probe of readiness only writes
        assert link.probe(settings).startswith(says)
    mend()
    wait_until(lambda: try_take(keeper) == 1, "an answer", 30)
    assert link.probe(settings) == ""
    (lost, back) = (line for line in lines() if line["event"].startswith("redis-"))
    assert (lost["event"], lost["level"], back["event"], back["level"]) == (
        "redis-lost",
        "WARNING",
        "redis-back",
        "INFO",
    )
    assert f"Redis is no help, {says}" in lost["message"]
    assert SECRET not in str(lines())


def test_a_host_that_is_none(stack: ExitStack, lines: Callable[[], list[dict[str, Any]]]) -> None:
    keeper = keeper_of(stack, Redis(url="redis://redis.invalid:6379"))
    wait_until(lambda: not keeper.there, "the loss to be seen", 20)
    assert "it can't be reached" in lines()[0]["message"]


def test_the_user_of_the_documentation_may_do_all_of_it(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(RedisServer(tmp_path))
    (line,) = (line for line in DOCUMENTED.read_text().splitlines() if line.startswith("ACL SETUSER relaypacs "))
    server.client.execute_command(*line.replace("PASSWORD", SECRET).split())
    settings = Redis(url=f"redis://relaypacs:{SECRET}@127.0.0.1:{server.port}", timeout_seconds=5, lease_seconds=3)
    keeper = keeper_of(stack, settings)
    assert try_take(keeper) == 1
    slots, address = keeper.key("window", "pacs"), keeper.key("failed", "address")
    wake = RedisWake(keeper)
    wake.start()
    assert wake.subscribed.wait(10)
    wake.notify("pacs")
    for most in (2, 1):
        op = claim(slots, f"{slots}:queue", most, keeper.member(), keeper.who, waits=True, wait_ms=500)
        assert keeper.ask(op, slots=slots, member=f"m{most}") == most - 1
    heard: list[int] = []
    for _ in range(2):
        keeper.tell(object(), fail(address, keeper.key("refused", "address"), 2, 60_000, 60_000), heard.append)
    wait_until(lambda: len(heard) == 2 and heard[1] > 0, "the failures counted", 10)
    wait_until(lambda: server.slots("window", "pacs", "queue") == 1, "a renewal and the queue", 10)
    server.client.delete(slots)
    server.wait_slots(1, "window", "pacs")
    assert keeper.there
    assert link.probe(settings) == ""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and an authority that has nothing to do with it."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "other"):
        key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-days", "2"]
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return {"ca": folder / "server.pem", "certificate": folder / "server.pem", "key": folder / "server.key"}


def test_tls(tmp_path: Path, stack: ExitStack, certificates: dict[str, Path]) -> None:
    server = stack.enter_context(RedisServer(tmp_path, tls=certificates, password=SECRET))
    good = server.settings(tls_ca_file=str(certificates["ca"]))
    keeper = keeper_of(stack, good)
    assert try_take(keeper) == 1
    wake = RedisWake(keeper)
    wake.start()
    assert wake.subscribed.wait(10)
    other = str(certificates["ca"].with_name("other.pem"))
    for bad in (server.settings(tls_ca_file=other), server.settings()):
        assert link.probe(bad).startswith("TLS with it fails"), "its certificate must be signed by whom we trust"
    plain = Redis(url=server.url.replace("rediss:", "redis:"))
    assert link.probe(plain) != ""
    assert "missing.pem" not in link.probe(server.settings(tls_ca_file="/missing.pem"))


def test_a_certificate_for_another_host_is_refused(
    tmp_path: Path, stack: ExitStack, certificates: dict[str, Path]
) -> None:
    server = stack.enter_context(RedisServer(tmp_path, tls=certificates))
    settings = Redis(url=f"rediss://localhost:{server.port}", tls_ca_file=str(certificates["ca"]))
    assert link.probe(settings).startswith("TLS with it fails")


def test_a_redis_cluster(tmp_path: Path, stack: ExitStack) -> None:
    servers = [
        stack.enter_context(RedisServer(tmp_path / str(number), cluster_enabled="yes", cluster_port=free_port()))
        for number in range(3)
    ]
    places = [f"127.0.0.1:{server.port}" for server in servers]
    command = ["/usr/bin/redis-cli", "--cluster", "create", *places, "--cluster-yes"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    keepers = [keeper_of(stack, server.settings()) for server in servers]
    for keeper in keepers:
        wait_until(lambda: try_take(keeper) == 1, "an answer of the cluster", 20)  # noqa: B023
    assert [link.probe(server.settings()) for server in servers] == [""] * 3
    counts = [server.client.dbsize() for server in servers]
    assert sorted(counts)[:2] == [0, 0], "all keys are on one of its nodes"
    wakes = [RedisWake(keeper) for keeper in keepers]
    for wake in wakes:
        wake.start()
        assert wake.subscribed.wait(20)
        wake.wait("pacs", 0)
    wakes[0].notify("pacs")
    assert [wake.wait("pacs", 20) for wake in wakes] == [True] * 3
