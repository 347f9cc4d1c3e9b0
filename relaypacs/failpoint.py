"""Named points at which a process kills itself with SIGKILL, for the crash suite (`scripts/crash`).

Any room calls `reach("room.point")` where dying would hurt. That is nothing unless RELAYPACS_FAILPOINT was set when the
process started: `forward.sent:17` kills at the 17th passage in one process, and `forward.sent:17:stop` stops it there
(SIGSTOP) until somebody sends SIGCONT. RELAYPACS_FAILPOINT_ONCE names a file that is made before the kill; while it is
there nobody dies, so a restarted process lives. `@FILE` instead of a point reads the order from FILE whenever that
changes and renames it to FILE.reached before the kill: a running node can be given one order after another. An order
that names no point, or a broken one, kills nobody.
"""

from __future__ import annotations

import os
import signal
import threading

_ORDER = os.environ.get("RELAYPACS_FAILPOINT", "")
_ONCE = os.environ.get("RELAYPACS_FAILPOINT_ONCE", "")


class _Order:
    """What is ordered now, and how many passages are left to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._version = (-1, -1)
        self._name, self._left = "", 0
        self.signal = signal.SIGKILL

    def due(self, name: str) -> bool:
        """Count a passage; whether it is the one."""
        self._read()
        if name != self._name or self._left <= 0:
            return False
        self._left -= 1
        return self._left == 0

    def _read(self) -> None:
        text, version = _ORDER, (0, 0)
        if text.startswith("@"):
            text = ""
            try:
                with open(_ORDER[1:], encoding="ascii") as file:
                    status = os.fstat(file.fileno())
                    version = (status.st_ino, status.st_mtime_ns)
                    text = file.read() if version != self._version else ""
            except FileNotFoundError:
                pass
        if version != self._version:
            name, _, rest = text.strip().partition(":")
            passage, _, how = rest.partition(":")
            known = passage.isdecimal() and how in ("", "stop")
            self._version, self._name, self._left = version, name, int(passage) if known else 0
            self.signal = signal.SIGSTOP if how else signal.SIGKILL


_order = _Order()


def reach(name: str) -> None:
    """Die (or stop) here if it is ordered. `name` is `room.point`, fixed text."""
    if _ORDER:
        with _order.lock:
            if _order.due(name) and _claim():
                os.kill(os.getpid(), _order.signal)


def _claim() -> bool:
    """Make it known, and ours alone, that the order is carried out; False if another process was first."""
    try:
        if _ORDER.startswith("@"):
            os.rename(_ORDER[1:], f"{_ORDER[1:]}.reached")
        elif _ONCE:
            os.close(os.open(_ONCE, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except (FileNotFoundError, FileExistsError):
        return False
    return True
