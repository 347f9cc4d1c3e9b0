"""The TLS listeners' certificate, taken anew when its files change; used by `receive.edge` and made by `node`.

The files are looked at when a connection comes, at most every `LOOK_SECONDS`, and every `IDLE_LOOK_SECONDS` without
one. Running associations keep what they have. Files that don't do (half written, not a pair, no permission) are
said once and counted in a metric, and the certificate in use stays.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Gauge

from relaypacs import log
from relaypacs.config.model import Tls
from relaypacs.upper.expiry import first_expiry
from relaypacs.upper.tls import TlsFailed, fingerprint, server_context

NOT_AFTER = Gauge(
    "relaypacs_tls_certificate_not_after_timestamp_seconds",
    "When the certificate (or one of its chain) expires, in seconds since 1970.",
    ["use"],
    multiprocess_mode="livemin",
)
UNUSABLE = Gauge(
    "relaypacs_tls_certificate_unusable",
    "1 while the certificate's files on disk can't be used and the one read before is used on.",
    ["use"],
    multiprocess_mode="livemax",
)
_USE = "reception"
LOOK_SECONDS = 2.0
IDLE_LOOK_SECONDS = 60.0


class Certificates:
    """The context of new TLS connections. For one thread."""

    def __init__(self, tls: Tls) -> None:
        """Reads the files. `TlsFailed` with a sentence if they don't do."""
        self._tls = tls
        self._paths = tuple(Path(one) if one else None for one in (tls.certificate, tls.key, tls.client_ca))
        self._mark = fingerprint(*self._paths)
        self._looked_at = 0.0
        self.context, self._not_after = self._read()

    def begin(self, now: float) -> None:
        """In the process that serves: say what is used (`now`: monotonic seconds)."""
        self._looked_at = now
        NOT_AFTER.labels(_USE).set(self._not_after)
        UNUSABLE.labels(_USE).set(0)

    @property
    def not_after(self) -> float:
        """When the first of the certificates in use expires, in seconds since 1970."""
        return self._not_after

    @property
    def look_at(self) -> float:
        """When to look at the files even if no connection comes, in monotonic seconds."""
        return self._looked_at + IDLE_LOOK_SECONDS

    def look(self, now: float) -> None:
        """Take changed files, if it is time to look. Never raises for what is in them."""
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        mark = fingerprint(*self._paths)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self.context, self._not_after = self._read()
        except TlsFailed as error:
            UNUSABLE.labels(_USE).set(1)
            log.event(log.ERROR, "certificate-unusable", f"{error}; the certificate read before is used on")
            return
        UNUSABLE.labels(_USE).set(0)
        NOT_AFTER.labels(_USE).set(self._not_after)
        until = datetime.fromtimestamp(self._not_after, UTC)
        log.event(log.INFO, "certificate-loaded", f"a new certificate is used, valid until {until:%Y-%m-%d %H:%M} UTC")

    def _read(self) -> tuple[ssl.SSLContext, float]:
        certificate, key, client_ca = self._paths
        if certificate is None:
            raise TlsFailed("[tls] certificate is missing")
        context = server_context(certificate, key, client_ca, self._tls.client_certificates)
        try:
            return context, first_expiry(certificate.read_text(encoding="ascii", errors="replace"))
        except OSError as error:
            raise TlsFailed(f"{certificate}: {error.strerror}") from error
        except (ValueError, IndexError) as error:
            raise TlsFailed(f"{certificate}: holds a certificate that can't be read") from error
