"""How long certificates are good that no process of the node tells of: the sidecar's own, and those shown to others.

Files are read again when they have changed; one that can't be read is left out, for whoever connects with it says why.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from relaypacs.upper.expiry import first_expiry
from relaypacs.upper.tls import fingerprint


class Expiries:
    """Called by a scrape; safe to use from several threads."""

    def __init__(self, files: Mapping[str, Path], own: Callable[[], float] | None = None) -> None:
        """`files` by use. `own`: seconds until the sidecar's own certificate expires; None without one."""
        self._files, self._own = files, own
        self._known: dict[str, tuple[tuple[object, ...], float]] = {}

    def __call__(self) -> dict[str, float]:
        """Seconds until each expires, negative afterwards, by use."""
        found = {"sidecar": self._own()} if self._own is not None else {}
        for use, file in self._files.items():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[use] = self._not_after(use, file) - time.time()
        return found

    def _not_after(self, use: str, file: Path) -> float:
        mark = fingerprint(file)
        known = self._known.get(use)
        if known is None or known[0] != mark:
            known = mark, first_expiry(file.read_text(encoding="ascii", errors="replace"))
            self._known[use] = known
        return known[1]
