"""Hands audit messages to a syslog collector over TLS (RFC 5425), and knows that it has read them.

Syslog has no acknowledgement. So each batch has a connection of its own, which is closed as RFC 5425 4.4 says: our
close_notify, then the collector's, then both ends of TCP. A kernel whose program closes with something unread, or to
which something comes afterwards, resets the connection: an end without a reset, and nothing of ours unacknowledged, is
the proof that all was read. Otherwise the batch is sent again. What a collector had in memory when it died is lost with
it. Called by `trail.sending`; every failure is a `CollectorDown`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterable
from pathlib import Path

from relaypacs.config.audit import Audit
from relaypacs.config.options import endpoint
from relaypacs.errors import RelayPacsError
from relaypacs.policy.tls import handshake_failure
from relaypacs.trail.syslog import frame
from relaypacs.upper.tls import ClientTls, TlsFailed

CONNECT_SECONDS = 10.0
SEND_SECONDS = 30.0
"""Longest silence while it takes a batch, or while it closes."""


class CollectorDown(RelayPacsError):
    """The collector did not take a batch, or did not say that it has; one sentence."""


class Collector:
    """For one thread. Its files are read again when they have changed."""

    def __init__(self, config: Audit, *, silence_seconds: float = SEND_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        self._host, self._port = endpoint(config.collector)
        self._server_name = config.tls_server_name or self._host
        self._tls = ClientTls(
            ca=_path(config.tls_ca), certificate=_path(config.tls_certificate), key=_path(config.tls_key)
        )

    def hand_over(self, messages: Iterable[bytes]) -> None:
        """Return when the collector has read all of them; CollectorDown if that is not known."""
        where = f"the audit collector {self._host}:{self._port}"
        try:
            context = self._tls.context()
        except TlsFailed as problem:
            raise CollectorDown(f"[audit] {problem}") from None
        try:
            with socket.create_connection((self._host, self._port), CONNECT_SECONDS) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with context.wrap_socket(plain, server_hostname=self._server_name) as secured:
                    secured.settimeout(self._silence_seconds)
                    secured.sendall(b"".join(map(frame, messages)))
                    _close(secured)
        except ssl.SSLError as error:
            failure = handshake_failure(error, acceptor=False)
            raise CollectorDown(f"{where}: {failure.sentence}") from None
        except ValueError:
            raise CollectorDown(
                f"{where}: its name can't be that of a certificate, set [audit] tls_server_name"
            ) from None
        except TimeoutError:
            raise CollectorDown(f"{where} does not answer in time, or does not close when it has read all") from None
        except (ConnectionResetError, BrokenPipeError):
            raise CollectorDown(
                f"{where} ended the connection before it had read all; its log says why, maybe it does not permit our "
                "certificate"
            ) from None
        except OSError as error:
            raise CollectorDown(f"{where}: {error.strerror or type(error).__name__}") from None


def _close(secured: ssl.SSLSocket) -> None:
    """Say that nothing follows, and wait until the collector has read that. OSError or SSLError if it has not."""
    deadline = time.monotonic() + (secured.gettimeout() or 0.0)
    # Many end the stream without a close_notify of their own. It proves nothing anyway: one that goes down says so too.
    with contextlib.suppress(ssl.SSLEOFError):
        secured.unwrap()
    secured.shutdown(socket.SHUT_WR)
    while secured.recv(4096):
        pass
    while True:
        if error := secured.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise ConnectionResetError(error, os.strerror(error))
        (unacknowledged,) = struct.unpack("i", fcntl.ioctl(secured.fileno(), termios.TIOCOUTQ, b"\0" * 4))
        if not unacknowledged:
            return
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def _path(option: str) -> Path | None:
    return Path(option) if option else None
