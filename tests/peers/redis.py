"""A real redis-server on a loopback port, kept in memory only; it can be killed, halted, and started again empty."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from relaypacs.config.redis import Redis
from tests.peers.ports import free_port, wait_until
from tests.peers.program import Program

PROGRAM = "/usr/bin/redis-server"


class RedisServer:
    """Context manager. `options` as on its command line (`maxmemory="3mb"`); `tls` names ca, certificate and key."""

    def __init__(
        self, folder: Path, *, password: str = "", tls: Mapping[str, Path] | None = None, **options: str | int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.password = password
        self._tls = tls
        self._options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        self._program: Program | None = None

    @property
    def url(self) -> str:
        """What `[redis] url` says."""
        user = f":{self.password}@" if self.password else ""
        return f"{'rediss' if self._tls else 'redis'}://{user}127.0.0.1:{self.port}/0"

    def settings(self, **options: Any) -> Redis:
        """`[redis]` for it. Generous with time, because a test's machine may be slow; see also `lease_seconds`."""
        return Redis(**{"url": self.url, "timeout_seconds": 5.0, **options})

    @property
    def client(self) -> redis.Redis:
        """A client of the test's own."""
        tls = {"ssl_ca_certs": str(self._tls["ca"])} if self._tls else {}
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=5, **tls)

    def start(self) -> None:
        """Start it, empty, and return when it answers."""
        command = [PROGRAM, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        if self._tls:
            ca, certificate, key = (str(self._tls[part]) for part in ("ca", "certificate", "key"))
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            command += ["--tls-ca-cert-file", ca, "--tls-cert-file", certificate, "--tls-key-file", key]
        else:
            command += ["--port", str(self.port)]
        if self.password:
            command += ["--requirepass", self.password]
        for name, value in self._options.items():
            command += [f"--{name}", *value.split(" ")]
        self._program = Program(command, log_path=self.folder / "redis.log")
        self._program.wait_ready(self._answers, 10)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._program is not None
        return self._program.pid

    def kill(self) -> None:
        """SIGKILL."""
        if self._program is not None:
            self._program.kill()
            self._program = None

    def halt(self) -> None:
        """SIGSTOP: its connections stay and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def slots(self, *parts: str, prefix: str = "relaypacs") -> int:
        """How many entries the sorted set of these parts has, over or not."""
        return int(self.client.zcard(":".join((f"{{{prefix}}}", *parts))))

    def everything(self) -> Iterator[str]:
        """Every key and every value."""
        client = self.client
        for key in client.scan_iter(count=1000):
            yield str(key)
            kind = client.type(key)
            if kind == "zset":
                yield from (f"{member} {score}" for member, score in client.zrange(key, 0, -1, withscores=True))
            elif kind == "string":
                yield str(client.get(key))
            else:
                raise AssertionError(f"{key} is a {kind}")

    def wait_slots(self, count: int, *parts: str, seconds: float = 10.0) -> None:
        """Return when the sorted set has so many entries."""
        wait_until(lambda: self.slots(*parts) == count, f"{count} entries in {parts}", seconds)
