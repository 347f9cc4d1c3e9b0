"""Keeps what destinations refuse in a file (`relaypacs.refusals`), and asks again after a while.

`dispatch` runs one; a thread writes what a destination's memory has more or less of, and takes out of the memory what
somebody took out of the file. What is older than `refused_for_seconds` is proposed in an association without an
instance: refused anew it stays, taken it is forgotten; while the destination can't be reached it stays. What was
refused by a status no association can tell, so it is forgotten then. A file that can't be written is said once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relaypacs import log
from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.memory import Memory
from relaypacs.forward.names import spoken
from relaypacs.refusals import Known, Pair, Seen, Stamp, editing, identity, read, stamp

_LOOK_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 300.0
"""Between two attempts to ask a destination that can't be reached."""
_REFRESH_SECONDS = 600.0
"""A pair refused again and again is written as often."""


@dataclass(slots=True)
class Watched:
    """A destination whose memory is kept. `may_ask`: whether it may be connected to now."""

    destination: Destination
    calling_ae: str
    memory: Memory
    may_ask: Callable[[], bool]
    identity: str = ""
    written: dict[Pair, Seen] = field(default_factory=dict)
    ask_at: float = 0.0

    def __post_init__(self) -> None:
        self.identity = identity(self.destination, self.calling_ae)
        self.written = self.memory.seen()


class Refusals:
    """`start` and `stop` its thread; `remembered` before, `watch` whenever the destinations change."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the file; None keeps nothing."""
        self._path = path
        self._watched: tuple[Watched, ...] = ()
        self._stamp: Stamp | None = None
        self._changed = threading.Event()
        self._stopping = False
        self._told = False
        self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)

    def memory(self, destination: Destination, calling_ae: str) -> Memory:
        """A memory that begins with what is known of a destination as it is configured now."""
        known: Mapping[Pair, Seen] = {}
        if self._path is not None and destination.refused_for_seconds:
            found = read(self._path).get(destination.name)
            if found is not None and found.identity == identity(destination, calling_ae):
                known = found.refused
        return Memory(known, self._changed.set)

    def watch(self, watched: Sequence[Watched]) -> None:
        """These are the destinations now; others are forgotten."""
        self._watched = tuple(watched)
        self._changed.set()

    def start(self) -> None:
        """Start keeping."""
        if self._path is not None:
            self._thread.start()

    def stop(self) -> None:
        """Write what is not written yet, and end."""
        self._stopping = True
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping:
            self._changed.wait(_LOOK_SECONDS)
            self._changed.clear()
            try:
                self._keep(time.time())
            except OSError as problem:
                if not self._told:
                    why = f"What destinations refuse can't be kept: {problem.strerror}; make room in [node] state_dir."
                    log.event(log.ERROR, "refusals-not-kept", why)
                self._told = True
            else:
                self._told = False

    def _keep(self, now: float) -> None:
        assert self._path is not None
        watched = self._watched
        if stamp(self._path) != self._stamp:
            self._take_out(watched, read(self._path))
        for one in watched:
            self._expire(one, now)
        wanted = {one.destination.name: one.memory.seen() for one in watched if one.destination.refused_for_seconds}
        if stamp(self._path) == self._stamp and not any(
            _differ(one.written, wanted.get(one.destination.name, {})) for one in watched
        ):
            return
        with editing(self._path) as found:
            self._take_out(watched, found)
            found.clear()
            for one in watched:
                one.written = one.memory.seen() if one.destination.refused_for_seconds else {}
                if one.written:
                    found[one.destination.name] = Known(one.identity, one.written)
            said = _pairs(found)
        after = stamp(self._path)
        # Somebody may have changed it since: then it is looked at again.
        self._stamp = after if _pairs(read(self._path)) == said else None

    def _take_out(self, watched: Sequence[Watched], found: Mapping[str, Known]) -> None:
        """What we had written and is not there any more, somebody wants forgotten."""
        for one in watched:
            known = found.get(one.destination.name)
            there = known.refused if known is not None and known.identity == one.identity else {}
            gone = one.written.keys() - there.keys()
            if gone:
                one.memory.forget(gone)
                one.written = {pair: seen for pair, seen in one.written.items() if pair not in gone}
                log.event(log.INFO, "refusals-forgotten", f"{len(gone)} refusals.", destination=one.destination.name)

    def _expire(self, one: Watched, now: float) -> None:
        oldest = now - one.destination.refused_for_seconds
        old = {pair: seen for pair, seen in one.memory.seen().items() if seen.at <= oldest}
        asked = [pair for pair, seen in old.items() if not seen.by_status]
        if one.destination.calling_ae == ORIGINAL or not one.destination.refused_for_seconds:
            asked = []
        one.memory.forget(old.keys() - set(asked))
        if asked and now >= one.ask_at and one.may_ask():
            one.ask_at = now + min(_ASK_AGAIN_SECONDS, one.destination.refused_for_seconds)
            name = f"ask-{one.destination.name}"
            threading.Thread(target=_ask, args=(one, asked), name=name, daemon=True).start()


def _ask(one: Watched, pairs: Sequence[Pair]) -> None:
    """Propose `pairs` and nothing else, and remember what is taken of them."""
    asked = Memory(dict.fromkeys(pairs, Seen(0.0)))
    sender = CStoreSender(one.destination, one.calling_ae, asked)
    trouble = sender.prepare()
    sender.close()
    if trouble is not None:
        return
    taken = set(pairs) - asked.refused()
    one.memory.proposed(asked.recent(), taken)
    for sop_class, syntax in sorted(taken):
        said = f"The destination takes {spoken(sop_class)} in {spoken(syntax)} now."
        log.event(log.INFO, "refusal-over", said, destination=one.destination.name)


def _pairs(found: Mapping[str, Known]) -> dict[str, frozenset[Pair]]:
    return {name: frozenset(one.refused) for name, one in found.items()}


def _differ(written: Mapping[Pair, Seen], now: Mapping[Pair, Seen]) -> bool:
    return written.keys() != now.keys() or any(
        seen.at - written[pair].at > _REFRESH_SECONDS or seen.by_status != written[pair].by_status
        for pair, seen in now.items()
    )
