"""Errors for Sentry, made of log lines: what may not be in a line can't be in an event.

`serve` hands `Reporter` to `log`. A line of level ERROR and above becomes an event, with the frames of a crash and the
calling AE title as a keyed hash; no exception, local variable, request or breadcrumb ever gets there. sentry-sdk is
loaded with the first event of a process, so a node without errors does not pay for it. Never raises: Sentry that is
gone costs nothing but its events.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relaypacs import __version__, log
from relaypacs.config.sentry import Sentry

if TYPE_CHECKING:
    from sentry_sdk import Client

_FLUSH_SECONDS = 2.0
"""A process that crashes waits so long for its event to leave."""
_PER_MINUTE = 60
"""Events of one process at most, so that a storm of errors is no storm of reports."""
_LEVELS = {"CRITICAL": "fatal", "ERROR": "error"}
_KEYS = frozenset(
    {"timestamp", "level", "service", "event", "trace_id", "user_id", "upload_id", "message", "frames", "peer"}
)


class Reporter:
    """Called with each line of level ERROR and above. Thread-safe, also after a fork."""

    def __init__(self, settings: Sentry, *, node: str) -> None:
        """`settings` has a DSN."""
        self._settings, self._node = settings, node
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._minute, self._sent = 0, 0
        self._supervisor = os.getpid()

    def __call__(self, line: Mapping[str, object], minute: int) -> None:
        """Report a line; `minute` is the current one since the epoch."""
        try:
            with self._lock:
                if minute != self._minute:
                    self._minute, self._sent = minute, 0
                self._sent += 1
                if self._sent > _PER_MINUTE:
                    return
            if os.getpid() == self._supervisor:
                self._report_in_child(line)
                return
            with self._lock:
                client = self._client or self._connect()
            client.capture_event(self._event(line))
            if line["level"] == "CRITICAL":
                client.flush(_FLUSH_SECONDS)
        except Exception:
            # It was logged; reporting it to others must not add to what went wrong.
            return

    def _report_in_child(self, line: Mapping[str, object]) -> None:
        """The supervisor forks, so it may have no threads, and Sentry's client has one. The child is reaped with all
        the others."""
        if os.fork() == 0:
            try:
                client = self._connect()
                client.capture_event(self._event(line))
                client.flush(_FLUSH_SECONDS)
            finally:
                os._exit(0)

    def _connect(self) -> Client:
        from sentry_sdk import Client

        self._client = Client(
            dsn=self._settings.dsn.get_secret_value(),
            release=f"relaypacs@{__version__}",
            environment=self._settings.environment,
            server_name=self._node,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            send_default_pii=False,
            max_breadcrumbs=0,
            auto_session_tracking=False,
            send_client_reports=False,
            traces_sample_rate=None,
            shutdown_timeout=_FLUSH_SECONDS,
        )
        return self._client

    def _event(self, line: Mapping[str, object]) -> Any:
        name = str(line["event"])
        tags = {"node": self._node, "service": line["service"], "event": name, "trace_id": line["trace_id"]}
        found: dict[str, Any] = {
            "level": _LEVELS.get(str(line["level"]), "error"),
            "logger": "relaypacs",
            "message": {"formatted": line["message"]},
            "fingerprint": [name, str(line.get("reason", ""))],
            "tags": {key: str(value) for key, value in tags.items() if value},
            "extra": {key: str(value)[:200] for key, value in line.items() if key not in _KEYS and value is not None},
        }
        if line["user_id"]:
            found["user"] = {"id": log.uid_hash(str(line["user_id"]))}
        if line["upload_id"]:
            found["extra"]["upload_id"] = line["upload_id"]
        if frames := line.get("frames"):
            found["stacktrace"] = {"frames": [_frame(one) for one in frames]} if isinstance(frames, Sequence) else {}
        return found


def _frame(text: object) -> dict[str, object]:
    """`file:line function` of a log line as Sentry's frame."""
    place, _, function = str(text).rpartition(" ")
    file, _, number = place.rpartition(":")
    return {"filename": file, "lineno": int(number) if number.isdigit() else 0, "function": function}
