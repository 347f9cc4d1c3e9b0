"""Refused association requests, gathered: each kind is told once at once, and then by its number of tries.

A kind is an address, both AE titles and a reason. `receive.association_log` asks `due` for what is to be written;
whoever refuses says so with `note`, which costs a look into a dictionary. However many try, and with however many
titles and addresses: the kinds are bounded, and beyond the bounds tries are counted by address, then all together.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

from relaypacs.receive.association_id import new_association_id
from relaypacs.receive.limits import network

MOST_KINDS = 1024
"""Kinds remembered at once."""
MOST_KINDS_OF_ADDRESS = 64
NEW_KINDS_PER_HOUR = 256
"""Rows a process adds in an hour, beside those for what is counted together."""
REPEAT_SECONDS = 60.0
"""How often the number of tries is written again."""
FORGET_SECONDS = 3600.0
"""A kind that was quiet for so long is a new one when it comes again."""
LINES = 5
"""Log lines of a kind in `REPEAT_SECONDS`; what comes beyond is told as a number."""
LONGEST_CONTEXTS_BYTES = 32 << 10
"""More of what a refused peer proposed is not kept."""

_Kind = tuple[str, str, str, str]
"""Network, calling AE, called AE, word. Without AE titles, and without a network, it stands for many."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused. `host` is numeric, `peer` has the port; the AE titles are cleaned."""

    host: str
    peer: str
    calling_ae: str
    called_ae: str
    word: str
    sentence: str
    tls: bool = False
    contexts: bytes = b""
    """The presentation context items, as they came."""


@dataclass(slots=True)
class _Kept:
    refusal: Refusal
    row: str
    began_at: float
    last_at: float
    tries: int = 0
    told: int = 0
    told_at: float = 0.0
    lines: int = 0
    lines_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """A kind whose number of tries is to be written, under the id of its row."""

    row: str
    refusal: Refusal
    began_at: float
    last_at: float
    tries: int
    lines_left_out: int
    """Tries since the last time that had no log line."""


class Rejections:
    """The kinds of refusal of one process. Times are seconds since the epoch. Not thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Kind, _Kept] = OrderedDict()
        self._of_address: Counter[str] = Counter()
        self._untold: dict[_Kind, None] = {}
        self._hour = 0.0
        self._new_kinds = 0

    def note(self, refusal: Refusal, now: float) -> str:
        """Count a refusal; returns the id of its row if it deserves a log line of its own, else nothing."""
        kind = self._kind(refusal, now)
        kept = self._kept.get(kind)
        if kept is None:
            kept = self._kept[kind] = _Kept(_as_kind(refusal, kind), new_association_id(now), now, now)
            self._of_address[kind[0]] += 1
        self._kept.move_to_end(kind)
        self._untold[kind] = None
        kept.tries += 1
        kept.last_at = now
        if kept.lines < LINES:
            kept.lines += 1
            return kept.row
        kept.lines_left_out += 1
        return ""

    def untold(self) -> int:
        """Kinds that have something to be written."""
        return len(self._untold)

    def due_in(self, now: float) -> float | None:
        """Seconds until something is to be written; None while there is nothing."""
        times = [self._kept[kind].told_at + REPEAT_SECONDS for kind in self._untold]
        return max(0.0, min(times) - now) if times else None

    def due(self, now: float, *, everything: bool = False) -> list[Tried]:
        """What is to be written now: new kinds, and those whose number was last written long enough ago."""
        found = []
        for kind in list(self._untold):
            kept = self._kept[kind]
            if everything or kept.told == 0 or kept.told_at + REPEAT_SECONDS <= now:
                found.append(
                    Tried(kept.row, kept.refusal, kept.began_at, kept.last_at, kept.tries, kept.lines_left_out)
                )
                if kept.told:
                    kept.lines = 0
                kept.told, kept.told_at, kept.lines_left_out = kept.tries, now, 0
                kept.refusal = replace(kept.refusal, contexts=b"")  # written once
                del self._untold[kind]
        return found

    def _kind(self, refusal: Refusal, now: float) -> _Kind:
        """The kind it counts for: its own, or one that stands for many."""
        of_address = network(refusal.host)
        own = (of_address, refusal.calling_ae, refusal.called_ae, refusal.word)
        if own in self._kept and now - self._kept[own].last_at < FORGET_SECONDS:
            return own
        self._forget_quiet(now)
        if own in self._kept:
            return own
        if now - self._hour >= 3600.0 or now < self._hour:
            self._hour, self._new_kinds = now, 0
        room = len(self._kept) < MOST_KINDS and self._new_kinds < NEW_KINDS_PER_HOUR
        together = (of_address, "", "", refusal.word)
        if room and self._of_address.get(of_address, 0) < MOST_KINDS_OF_ADDRESS:
            together = own
        elif not room and together not in self._kept:
            together = ("", "", "", refusal.word)
        if together not in self._kept:
            self._new_kinds += 1
        return together

    def _forget_quiet(self, now: float) -> None:
        while self._kept:
            kind, kept = next(iter(self._kept.items()))
            if kind in self._untold or now - kept.last_at < FORGET_SECONDS:
                return
            del self._kept[kind]
            self._of_address[kind[0]] -= 1
            if self._of_address[kind[0]] <= 0:
                del self._of_address[kind[0]]


def _as_kind(refusal: Refusal, kind: _Kind) -> Refusal:
    """What is told of a kind: of one that stands for many no AE titles, and no peer if it stands for many of them."""
    if kind[1] == refusal.calling_ae and kind[2] == refusal.called_ae and kind[0]:
        return refusal if len(refusal.contexts) <= LONGEST_CONTEXTS_BYTES else replace(refusal, contexts=b"")
    many = "many AE titles from this address" if kind[0] else "many AE titles from many addresses"
    return replace(
        refusal,
        host=refusal.host if kind[0] else "",
        peer=refusal.peer if kind[0] else "",
        calling_ae="",
        called_ae="",
        sentence=f"{refusal.sentence} ({many}, counted together)",
        contexts=b"",
    )
