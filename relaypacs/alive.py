"""Which of the node's processes are serving, told by file locks.

A worker calls `serve(run_dir / "alive" / "receive-0")` when it is ready and keeps the descriptor; the kernel drops the
lock when the process dies, however it dies. `is_held` looks at the lock alone. The sidecar calls `ask`: a process that
is stopped or hangs holds its lock, and doesn't answer. Nobody writes a heartbeat, so an idle node sleeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_PROBE_SECONDS = 1.0
"""How long `hold` lets others look: `is_held` borrows the lock for microseconds, a live holder keeps it."""
_QUEUE = 16
_LONGEST_ANSWER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used since it started (processor time, disk) or uses now."""

    cpu_seconds: float
    resident_bytes: int
    open_files: int
    threads: int
    disk_read_bytes: int
    disk_written_bytes: int


def serve(path: Path) -> int:
    """`hold` it, and answer those who `ask` from now on, in a thread that sleeps otherwise. For the node's processes:
    the thread ends with the process. OSError if there can be no socket beside `path`.
    """
    descriptor = hold(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place = _socket_of(path)
    place.unlink(missing_ok=True)
    with _address(place) as address:
        listener.bind(address)
    listener.listen(_QUEUE)
    threading.Thread(target=_answer, args=(listener,), name="alive", daemon=True).start()
    return descriptor


def ask(paths: Iterable[Path], *, wait_seconds: float) -> dict[Path, Usage | None]:
    """What the processes that serve at `paths` use; None for one that doesn't serve, or doesn't answer in that time."""
    found: dict[Path, Usage | None] = dict.fromkeys(paths)
    deadline = time.monotonic() + wait_seconds
    with selectors.DefaultSelector() as waiting, contextlib.ExitStack() as opened:
        for path in found:
            asking = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            asking.setblocking(False)
            # Nobody is there, or its queue is full because it has not answered for long.
            with contextlib.suppress(OSError):
                if is_held(path):
                    with _address(_socket_of(path)) as address:
                        asking.connect(address)
                    waiting.register(asking, selectors.EVENT_READ, path)
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                waiting.unregister(key.fileobj)
                assert isinstance(key.fileobj, socket.socket)
                # It is shorter than what a socket takes at once.
                with contextlib.suppress(OSError, ValueError, TypeError):
                    found[key.data] = Usage(**json.loads(key.fileobj.recv(_LONGEST_ANSWER_BYTES)))
    return found


def usage() -> Usage:
    """What this process uses. OSError without /proc."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    disk = {"read_bytes": 0, "write_bytes": 0}
    with contextlib.suppress(OSError):  # some containers hide it
        for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
            name, _, number = line.partition(":")
            disk[name] = int(number)
    return Usage(
        cpu_seconds=times.ru_utime + times.ru_stime,
        resident_bytes=pages * resource.getpagesize(),
        open_files=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        disk_read_bytes=disk["read_bytes"],
        disk_written_bytes=disk["write_bytes"],
    )


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            asked, _ = listener.accept()
            with asked:
                asked.sendall(json.dumps(asdict(usage())).encode())
        except OSError:  # who asked has gone, or descriptors are short
            time.sleep(0.01)


def _socket_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sock")


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """`path` as a socket address, which may have 107 bytes (unix(7)): through its folder's descriptor."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


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
