"""Log lines: one event, one line, fixed keys, nothing a peer or a patient wrote unescaped.

Every room logs through `event()`. `setup()` is called once per process by `node` or `cli`. The keys are those the
operators' log pipeline knows: timestamp, level, service, trace_id (association), user_id (calling AE), upload_id
(keyed hash of the study), message, latency_ms, plus `event` and the event's own fields. Values are escaped, so a
line can't be forged; callers pass no names and no raw UIDs, only `uid_hash` of them. A line is one write, to standard
error or to a file that may be renamed at any time: no line is lost, cut or mixed with another.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

DEBUG, INFO, WARNING, ERROR, CRITICAL = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL
_LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}
_NAMES = {number: name.upper() for name, number in _LEVELS.items()}
_LONGEST_VALUE = 300
_FILE_MODE = 0o640
"""For whoever ships the lines, by the group of the folder: they hold no secrets and no patients."""


class LogFile:
    """A file that lines are appended to, over all processes that were forked with it. Renamed or removed (as logrotate
    does), it is opened anew before the next line; what is written at that moment is in the one or the other."""

    def __init__(self, path: Path) -> None:
        """OSError if it can't be opened."""
        self._path = path
        self._torn = False
        self._descriptor = self._open()
        self._known = self._identity(os.fstat(self._descriptor))

    def write(self, text: str) -> object:
        """Append a whole line. OSError if it can't be written."""
        with contextlib.suppress(OSError):  # a folder that is gone for a while: the file that is open will do
            if not self._is_here():
                new = self._open()
                known = self._identity(os.fstat(new))
                # Over the same number: another thread may be about to write to it.
                os.dup2(new, self._descriptor, inheritable=False)
                os.close(new)
                self._known = known
        line = (b"\n" if self._torn else b"") + text.encode()
        # Of a full disk: what follows begins on a line of its own.
        self._torn = os.write(self._descriptor, line) < len(line)
        return None

    def _is_here(self) -> bool:
        try:
            return self._identity(os.stat(self._path)) == self._known
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        with contextlib.suppress(FileExistsError):
            made = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            os.fchmod(made, _FILE_MODE)  # whatever the umask
            return made
        return os.open(self._path, flags | os.O_CREAT, _FILE_MODE)

    @staticmethod
    def _identity(about: os.stat_result) -> tuple[int, int]:
        return about.st_dev, about.st_ino


class _Sink:
    """Where lines go and which; one per process, replaced by `setup`."""

    def __init__(self) -> None:
        self.level = INFO
        self.json = True
        self.service = "relaypacs"
        self.stream: TextIO | LogFile | None = None
        self.hash_key = b""
        self.report: Callable[[Mapping[str, object], int], None] | None = None


_sink = _Sink()


def setup(
    *, level: str, json_lines: bool, service: str, hash_key: bytes = b"", stream: TextIO | LogFile | None = None
) -> None:
    """Set this process's level (`debug` … `critical`), format, service name and the key of `uid_hash`.

    `stream` is written to instead of standard error. Also silences the libraries' own loggers: they quote peers' data,
    what they say could hold PHI.
    """
    _sink.level, _sink.json, _sink.service = _LEVELS[level], json_lines, service
    _sink.stream, _sink.hash_key = stream, hash_key
    for name in ("pynetdicom", "pydicom"):
        library = logging.getLogger(name)
        library.handlers, library.propagate, library.level = [logging.NullHandler()], False, CRITICAL + 1
    # Without any handler, logging writes the others' warnings (urllib3 quotes broken headers) to standard error.
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"pydicom|pynetdicom")


def change(*, level: str, json_lines: bool) -> None:
    """Set level and format from now on; the rest of `setup` stays."""
    _sink.level, _sink.json = _LEVELS[level], json_lines


def rename(service: str) -> None:
    """Name this process in its lines from now on; the rest of `setup` stays."""
    _sink.service = service


def report_to(report: Callable[[Mapping[str, object], int], None]) -> None:
    """Hand every line of level ERROR and above to `report` too, with the current minute since the epoch."""
    _sink.report = report


def uid_hash(uid: str) -> str:
    """A keyed hash of a UID (16 hexadecimal digits): the same UID gives the same hash on one node, and no way back."""
    return hmac.digest(_sink.hash_key, uid.encode("utf-8", "replace"), "sha256")[:8].hex() if uid else ""


def event(
    level: int,
    name: str,
    message: str,
    *,
    trace_id: str = "",
    user_id: str = "",
    upload_id: str = "",
    latency_ms: float | None = None,
    **fields: object,
) -> None:
    """Write one line: `name` is the fixed event name (`association-rejected`), `message` one sentence for people.

    `trace_id` is the association id, `user_id` the calling AE title, `upload_id` the study's `uid_hash`, `latency_ms`
    how long it took; every line has them, also where there is nothing to say.
    """
    if level < _sink.level:
        return
    now = time.time()
    line: dict[str, object] = {
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z",
        "level": _NAMES[level],
        "service": _sink.service,
        "event": name,
        "trace_id": trace_id,
        "user_id": user_id,
        "upload_id": upload_id,
        "message": message[:_LONGEST_VALUE],
        "latency_ms": None if latency_ms is None else round(latency_ms, 1),
    }
    for key, value in fields.items():
        line[key] = value[:_LONGEST_VALUE] if isinstance(value, str) else value
    text = json.dumps(line, default=str) if _sink.json else _for_people(line)
    # One write per line: processes share the stream. Nobody reads it, or its disk is full: no reason to stop working.
    with contextlib.suppress(OSError, ValueError):
        (_sink.stream or sys.stderr).write(text + "\n")
    if level >= ERROR and _sink.report is not None:
        _sink.report(line, int(now // 60))


def _for_people(line: dict[str, object]) -> str:
    fixed = ("timestamp", "level", "service", "event", "message")
    said = {key: value for key, value in line.items() if key not in fixed and value not in ("", None)}
    rest = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in said.items())
    message = json.dumps(line["message"])[1:-1]
    return f"{line['timestamp']} {line['level']:<8} {line['service']}: {line['event']}: {message} {rest}".rstrip()
