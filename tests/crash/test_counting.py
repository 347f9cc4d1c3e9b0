"""The stand-ins that count arrivals count their own."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time

import pytest

from tests.crash.harness.counting import CountingPeer


class Named(CountingPeer):
    """Says its name to whoever connects."""

    def __init__(self, name: bytes) -> None:
        super().__init__(delay_seconds=0.0)
        self._name = name

    def _serve(self, connection: socket.socket) -> None:
        connection.sendall(self._name)
        connection.close()


def test_one_that_has_ended_takes_no_connection_of_the_next() -> None:
    """As it did when this process was stopped and went on: the kernel begins accept(2) anew, by the descriptor."""
    before = set(threading.enumerate())
    with Named(b"old") as old:
        port = old.port
        time.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with Named(b"new") as new:
        time.sleep(0.1)
        subprocess.run(["sh", "-c", f"(sleep 0.2; kill -STOP {os.getpid()}; sleep 0.1; kill -CONT {os.getpid()}) &"])
        time.sleep(0.8)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", new.port)) as asked:
                assert asked.recv(3) == b"new"
    # The last connection's own thread may still be ending; one that accepts may not.
    assert not [one for one in set(threading.enumerate()) - before if one.name == "counting-peer-accept"]
