"""Free loopback TCP ports, and waiting for one to answer.

Ports come from below the ephemeral range, so that no outgoing connection takes one between choosing and binding.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

_LOWEST, _HIGHEST = 20_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody is bound to now, never the same one twice in this process."""
    while True:
        port = random.randint(_LOWEST, _HIGHEST)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        _given.add(port)
        return port


def answers(port: int) -> bool:
    """Whether something on 127.0.0.1 accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    condition: Callable[[], bool], what: str, timeout_seconds: float, *, every_seconds: float = 0.05
) -> None:
    """Return when `condition()` is true; TimeoutError naming `what` after `timeout_seconds`."""
    end = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s")
        time.sleep(every_seconds)
