"""What a destination's workers have learned of it: which presentation contexts were of use, and which it refused.

One per destination, shared by its workers. `refused` is what reception may ask, so that it does not offer a modality a
transfer syntax which every one of its destinations refuses. It lives as long as the process, and what a destination
accepts later is forgotten at once: a memory that were wrong would turn a feed away.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from relaypacs.dicom.pdu import MAX_CONTEXTS

Pair = tuple[str, str]
"""Abstract syntax (SOP class) and transfer syntax, as UIDs."""
_MOST_REFUSED = 1024


class Memory:
    """Thread-safe, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: dict[Pair, None] = {}
        self._refused: dict[Pair, None] = {}

    def proposed(self, pairs: Iterable[Pair], accepted: Iterable[Pair]) -> None:
        """An association was negotiated for `pairs`, of which the destination took `accepted`."""
        pairs, taken = tuple(pairs), set(accepted)
        with self._lock:
            for pair in pairs:
                self._recent.pop(pair, None)
                self._refused.pop(pair, None)
                if pair not in taken and len(self._refused) < _MOST_REFUSED:
                    self._refused[pair] = None
            self._recent = dict.fromkeys(pairs) | self._recent
            for pair in list(self._recent)[MAX_CONTEXTS:]:
                del self._recent[pair]

    def refused_by_status(self, pair: Pair) -> None:
        """An accepted context's instance was refused because of its SOP class or transfer syntax."""
        with self._lock:
            if len(self._refused) < _MOST_REFUSED:
                self._refused[pair] = None

    def recent(self) -> list[Pair]:
        """What was proposed last, the latest first."""
        with self._lock:
            return list(self._recent)

    def refused(self) -> frozenset[Pair]:
        """What the destination does not take."""
        with self._lock:
            return frozenset(self._refused)
