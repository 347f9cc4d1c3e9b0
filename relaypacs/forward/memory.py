"""What a destination's workers have learned of it: which presentation contexts were of use, and which it refused.

One per destination, shared by its workers. `refusals` keeps what was refused in a file, where reception finds it, so
that a modality is not offered a transfer syntax which every one of its destinations refuses. What a destination accepts
later is forgotten at once: a memory that were wrong would turn a feed away. So what it refused before is proposed with
every association again, as far as there is room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from relaypacs.dicom.pdu import MAX_CONTEXTS
from relaypacs.refusals import Pair, Seen

__all__ = ["Memory", "Pair"]
_MOST_REFUSED = 1024


class Memory:
    """Thread-safe, bounded."""

    def __init__(
        self, refused: Mapping[Pair, Seen] | None = None, on_change: Callable[[], object] = lambda: None
    ) -> None:
        """`refused`: what is known from before. `on_change` is called when there is more or less of it."""
        self._lock = threading.Lock()
        self._on_change = on_change
        self._refused: dict[Pair, Seen] = dict(refused or {})
        asked_again = [pair for pair, seen in self._refused.items() if not seen.by_status]
        self._recent: dict[Pair, None] = dict.fromkeys(asked_again[:MAX_CONTEXTS])

    def proposed(self, pairs: Iterable[Pair], accepted: Iterable[Pair]) -> None:
        """An association was negotiated for `pairs`, of which the destination took `accepted`."""
        pairs, taken, now = tuple(pairs), set(accepted), time.time()
        with self._lock:
            before = self._refused.keys() | set()
            for pair in pairs:
                self._recent.pop(pair, None)
                seen = self._refused.get(pair)
                if pair not in taken:
                    self._refuse(pair, Seen(now))
                elif seen is not None and not seen.by_status:
                    del self._refused[pair]
            self._recent = dict.fromkeys(pairs) | self._recent
            for pair in list(self._recent)[MAX_CONTEXTS:]:
                del self._recent[pair]
            changed = self._refused.keys() != before
        if changed:
            self._on_change()

    def refused_by_status(self, pair: Pair) -> None:
        """An accepted context's instance was refused because of its SOP class or transfer syntax."""
        with self._lock:
            changed = pair not in self._refused
            self._refuse(pair, Seen(time.time(), by_status=True))
        if changed:
            self._on_change()

    def stored(self, pair: Pair) -> None:
        """An instance of this kind was stored: whatever refused another one, it was not its kind."""
        if pair in self._refused:
            self.forget([pair])
            self._on_change()

    def _refuse(self, pair: Pair, seen: Seen) -> None:
        if pair in self._refused or len(self._refused) < _MOST_REFUSED:
            self._refused[pair] = seen

    def forget(self, pairs: Iterable[Pair]) -> None:
        """These may be taken now: somebody said so, or it is too long ago."""
        with self._lock:
            for pair in pairs:
                self._refused.pop(pair, None)

    def recent(self) -> list[Pair]:
        """What was proposed last, the latest first."""
        with self._lock:
            return list(self._recent)

    def refused(self) -> frozenset[Pair]:
        """What the destination does not take."""
        return frozenset(self.seen())

    def seen(self) -> dict[Pair, Seen]:
        """What the destination does not take, and when that was seen last."""
        with self._lock:
            return dict(self._refused)
