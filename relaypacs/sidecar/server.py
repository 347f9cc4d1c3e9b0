"""uvicorn, made to sleep when nothing happens and to give a silent client up.

Stock uvicorn wakes ten times a second to see whether it should exit and to renew its Date header (the application
dates its answers itself), and waits for ever for a request that never ends. `process.run` calls `serve`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from relaypacs import log

REQUEST_SECONDS = 10.0
"""Time a client has to send a request's head once it has connected or begun to send."""
ANSWER_SECONDS = 30.0
"""Time an answer may take, to its last byte read by the client."""
KEEP_ALIVE_SECONDS = 60
"""How long an idle connection stays open: Prometheus comes every 15 s."""
GRACE_SECONDS = 1
"""Time running answers have when told to stop."""
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 64
"""More take the place of those that ask nothing; where all are being answered, they get a 503 at once."""


class BoundedHttp(H11Protocol):
    """HTTP/1.1 where every wait for the client has an end."""

    request_seconds = REQUEST_SECONDS
    _deadline: asyncio.TimerHandle | None = None
    _asked_nothing_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._asked_nothing_since = self.loop.time()
        self._give_up_in(self.request_seconds)
        if len(self.connections) >= MAX_CONNECTIONS:
            self._take_a_place()

    def _take_a_place(self) -> None:
        """So that a probe is answered however many connections somebody leaves open."""
        idle = [
            one for one in self.connections if isinstance(one, BoundedHttp) and one is not self and one.asks_nothing
        ]
        if idle:
            longest = min(idle, key=lambda one: one._asked_nothing_since)
            self.connections.discard(longest)
            longest.transport.abort()

    @property
    def asks_nothing(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up_in(None)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.asks_nothing:
            self._give_up_in(ANSWER_SECONDS)
        elif self._deadline is None:
            self._give_up_in(self.request_seconds)

    def on_response_complete(self) -> None:
        self._asked_nothing_since = self.loop.time()
        self._give_up_in(None)
        super().on_response_complete()

    def _give_up_in(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort) if seconds else None


class Stop(Protocol):
    """The order to stop: its descriptor becomes readable (or hung up) with the order, and stays so."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class QuietServer(Server):
    """uvicorn that sleeps until a request comes or it is told to stop. Signals are left to its process."""

    def __init__(self, config: Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop

    async def main_loop(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        descriptor = self._stop.fileno()
        loop.add_reader(descriptor, stopped.set)
        try:
            await stopped.wait()
        finally:
            loop.remove_reader(descriptor)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    app: ASGIApp,
    listener: socket.socket,
    stop: Stop,
    protocol: type[BoundedHttp] = BoundedHttp,
    *,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Answer requests on `listener` (with `tls`: HTTPS) until `stop`; running answers then have `GRACE_SECONDS`."""
    _quiet_library_logs()
    config = Config(
        app,
        loop="asyncio",
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    QuietServer(config, stop).run(sockets=[listener])


class _ToOurLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Only what ended in an exception is news, and of that not the text: it may quote a request.
        if record.exc_info and record.exc_info[1]:
            kind = type(record.exc_info[1]).__name__
            log.event(log.ERROR, "sidecar-error", "The sidecar's HTTP server met an error.", error=kind)


def _quiet_library_logs() -> None:
    """Send uvicorn's and asyncio's errors to our log, and drop the rest: it is clients' noise."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        library = logging.getLogger(name)
        library.handlers, library.propagate, library.level = [], False, logging.ERROR
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).handlers = [_ToOurLog()]
