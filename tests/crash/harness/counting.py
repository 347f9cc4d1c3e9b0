"""A peer that keeps nothing but counts everything that came whole, in order, repeats and all: what its kinds share."""

from __future__ import annotations

import hashlib
import socket
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import suppress
from typing import Self

from tests.peers.ports import free_port


class CountingPeer(ABC):
    """Context manager. `delay_seconds` is what each answer takes; arrivals are recorded before it.

    Before it is entered its port refuses connections, and is nobody else's.
    """

    def __init__(self, *, delay_seconds: float) -> None:
        self.port = free_port()
        self.cut = 0
        """Datasets or requests that did not come whole."""
        self._delay_seconds = delay_seconds
        self._lock = threading.Lock()
        self._arrived: dict[str, list[str]] = defaultdict(list)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._accepting = threading.Thread(target=self._accept, name="counting-peer-accept", daemon=True)

    def __enter__(self) -> Self:
        self._listener.listen(64)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closed alone, a thread that waits in accept(2) would take a connection of whoever gets the descriptor next.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._accepting.is_alive():
            self._accepting.join()
        self._listener.close()

    def arrived(self) -> dict[str, list[str]]:
        """SOP Instance UID → SHA-256 of the dataset, once per arrival."""
        with self._lock:
            return {uid: list(digests) for uid, digests in self._arrived.items()}

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), name="counting-peer", daemon=True).start()

    @abstractmethod
    def _serve(self, connection: socket.socket) -> None:
        """Serve a connection to its end, and close it."""

    def _record(self, sop_instance: str, dataset: bytes | bytearray) -> None:
        digest = hashlib.sha256(dataset).hexdigest()
        with self._lock:
            self._arrived[sop_instance].append(digest)

    def _record_cut(self) -> None:
        with self._lock:
            self.cut += 1
