"""A stand-in for a network that breaks at the worst moment: a TCP proxy that cuts a session at its COMMIT.

In front of a real PostgreSQL. `cut("after")` lets the next COMMIT through, waits until the server has answered it and
drops the answer with the connection; `cut("before")` drops the COMMIT itself.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class CuttingProxy:
    """Context manager; `url` is that of the server, without a database's name. `cuts` counts the cut sessions."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._armed = ""
        self.cuts = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closed alone, a thread that waits in accept(2) would take a connection of whoever gets the descriptor next.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self, when: str) -> None:
        """Cut the session that next commits: `before` or `after` the server has done it."""
        with self._lock:
            self._armed = when

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                silent = threading.Event()
                for pump in (self._to_server, self._to_client):
                    threading.Thread(target=pump, args=(client, server, silent), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                with self._lock:
                    when, self._armed = (self._armed, "") if b"COMMIT\0" in data else ("", self._armed)
                    self.cuts += bool(when)
                if when == "before":
                    break
                if when == "after":
                    silent.set()
                server.sendall(data)
        if not silent.is_set():
            _end(client, server)

    def _to_client(self, client: socket.socket, server: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and not silent.is_set():
                client.sendall(data)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
