"""Which of the node's processes are serving, told by file locks.

A worker calls `hold(run_dir / "alive" / "receive-0")` when it is ready and keeps the descriptor; the kernel drops the
lock when the process dies, however it dies. The sidecar asks `is_held`. Nobody writes a heartbeat, so an idle node
sleeps. A stopped process (SIGSTOP) still counts as serving.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_PROBE_SECONDS = 1.0
"""How long `hold` lets others look: `is_held` borrows the lock for microseconds, a live holder keeps it."""


def hold(path: Path) -> int:
    """Hold `path` (made with its folder if absent) and return the descriptor: held until it is closed or we die.

    A child forked later shares the lock, so call it in the process that serves. BlockingIOError if another process
    holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    deadline = time.monotonic() + _PROBE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise
            time.sleep(0.005)


def is_held(path: Path) -> bool:
    """Whether a living process holds `path`; False if the file is absent. OSError if it can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
