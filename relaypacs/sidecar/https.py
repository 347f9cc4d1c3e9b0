"""HTTPS for the sidecar: one context, whose certificate is read again when its files have changed.

`node` makes it before the fork, so that a certificate that can't be used is told at once; the sidecar calls `look`
with each request. Files that can't be used later leave the certificate read before in use.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from relaypacs import log
from relaypacs.config.sidecar import Sidecar
from relaypacs.upper.expiry import first_expiry
from relaypacs.upper.tls import TlsFailed, fingerprint, server_context


class Https:
    """For one thread. TlsFailed with a sentence if the files don't do."""

    def __init__(self, sidecar: Sidecar) -> None:
        """`sidecar` has a certificate."""
        self._certificate = Path(sidecar.certificate)
        self._key = Path(sidecar.key) if sidecar.key else None
        self._mark = fingerprint(self._certificate, self._key)
        self.context = server_context(self._certificate, self._key, None, "none")
        self.not_after = self._read_not_after()

    def look(self) -> None:
        """Take changed files for the next connections. Never raises for what is in them."""
        mark = fingerprint(self._certificate, self._key)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            server_context(self._certificate, self._key, None, "none")  # tried first: a half-loaded one is of no use
            not_after = self._read_not_after()
            self.context.load_cert_chain(self._certificate, self._key)
        except (TlsFailed, OSError, ssl.SSLError) as problem:
            log.event(log.ERROR, "certificate-unusable", f"[sidecar] {problem}; the certificate read before is used on")
        else:
            self.not_after = not_after
            log.event(log.INFO, "certificate-loaded", "The sidecar uses a new certificate.")

    def expires_in(self) -> float:
        """Seconds until the certificate in use, or one of its chain, expires."""
        return self.not_after - time.time()

    def _read_not_after(self) -> float:
        try:
            return first_expiry(self._certificate.read_text(encoding="ascii", errors="replace"))
        except (ValueError, IndexError) as error:
            raise TlsFailed(f"{self._certificate}: holds a certificate that can't be read") from error
