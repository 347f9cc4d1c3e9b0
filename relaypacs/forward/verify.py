"""Asks destinations with `verify` whether what was delivered is there, and has sent again what is not.

`dispatch` runs one. A study is noted in the job table before a delivery of it is settled, so no crash leaves one out;
`verify_after_seconds` after the last of them the destination is asked for the instances that it said it has. Those
that it does not list, and does not know by their names either, are queued anew, `verify_rounds` times with longer and
longer waits; then they are dead letters. What can't be asked says nothing: it is asked later, for about a day. A
destination that is down or outside its hours is not asked. Each is asked by a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import Counter

from relaypacs import log
from relaypacs.config.model import Destination
from relaypacs.dicom.command import is_valid_uid
from relaypacs.errors import JobsError
from relaypacs.forward.listed import Ask
from relaypacs.forward.site import Site
from relaypacs.jobs.verification import Expected, Verifications, Verified
from relaypacs.model import Delivered, Settlement

_LOOK_SECONDS = 15.0
"""The job table is looked at so often even if nothing is known to be due, and when a destination can't be asked."""
_JOBS_PAUSE_SECONDS = 5.0
_AT_ONCE = 100
_LONGEST_WAIT_SECONDS = 3600.0
_MOST_TRIES = 30
"""Waits double up to an hour, so this is about a day."""
_SLOWER = 4
"""Each round waits so many times as long as the one before."""
_FIRST_BY_NAME = 100
"""So many missing instances are asked for by name; if any of them is known, so are all the others."""

_verifications = Counter(
    "relaypacs_verifications_total",
    "Studies looked for at their destination after delivery: complete, missing (not all was there), unknown.",
    ["destination", "outcome"],
)
_missing = Counter(
    "relaypacs_verified_missing_total",
    "Instances that a destination said it stored and then did not have.",
    ["destination"],
)


@dataclass(slots=True)
class Asked:
    """A destination that is asked, and how. `told`: whether it was said that it can't be."""

    destination: Destination
    site: Site
    ask: Ask
    thread: threading.Thread | None = None
    told: bool = False

    @property
    def is_free(self) -> bool:
        """Whether it may be asked now."""
        busy = self.thread is not None and self.thread.is_alive()
        return not busy and not self.site.is_down and self.site.within_hours()


class Verify:
    """`start` and `stop` its thread; `watch` whenever the destinations change; the settler calls `before`."""

    def __init__(self, book: Verifications, *, node: str, wake: Callable[[str], None]) -> None:
        """`wake(destination)`: something is queued for it anew."""
        self._book, self._node, self._wake = book, node, wake
        self._places: dict[str, Asked] = {}
        self._condition = threading.Condition()
        self._look_at = 0.0
        self._changed = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def watch(self, places: Iterable[Asked]) -> None:
        """These are the destinations now; those that ask for no verification are left out."""
        self._places = {one.destination.name: one for one in places if one.destination.verify != "none"}
        self._changed = True
        self._expect(0.0)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. A question that is under way is not waited for."""
        self._stopping = True
        self._expect(0.0)
        self._thread.join(5)

    def before(self, settlements: Sequence[Settlement], now: float) -> None:
        """These are about to be settled: note what has to be looked for. Raises JobsError."""
        places = self._places
        if not places:
            return
        due: dict[float, set[tuple[str, str]]] = {}
        for claim in (one.claim for one in settlements if isinstance(one.outcome, Delivered)):
            if claim.destination in places and claim.study_instance_uid:
                after = places[claim.destination].destination.verify_after_seconds
                due.setdefault(now + after, set()).add((claim.destination, claim.study_instance_uid))
        for due_at, studies in due.items():
            self._book.note(studies, self._node, now, due_at=due_at)
            self._expect(due_at)

    def _expect(self, due_at: float) -> None:
        """Something is due then."""
        with self._condition:
            self._look_at = min(self._look_at, due_at)
            self._condition.notify_all()

    def _run(self) -> None:
        while not self._stopping:
            with self._condition:
                while not self._stopping and (left := self._look_at - time.time()) > 0:
                    self._condition.wait(min(left, _LOOK_SECONDS))
                self._look_at = time.time() + _LOOK_SECONDS
            if not self._stopping:
                try:
                    self._look(time.time())
                except JobsError:  # the settler says so
                    self._expect(time.time() + _JOBS_PAUSE_SECONDS)

    def _look(self, now: float) -> None:
        places = self._places
        if self._changed:
            self._book.give_up(places, self._node)
            self._changed = False
        free = [name for name, one in places.items() if one.is_free]
        rows: dict[str, list[Verified]] = {}
        for row in self._book.due(free, self._node, now, limit=_AT_ONCE) if free else ():
            rows.setdefault(row.destination, []).append(row)
        others = [name for name in free if name not in rows]
        next_due = self._book.next_due(others, self._node) if others else None
        if next_due is not None:
            self._expect(next_due)
        for name, some in rows.items():
            thread = threading.Thread(target=self._work, args=(places[name], some), name=f"verify-{name}", daemon=True)
            places[name].thread = thread
            thread.start()

    def _work(self, place: Asked, rows: Sequence[Verified]) -> None:
        again = 0.0
        try:
            for row in rows:
                if self._stopping or place.site.is_down or self._places.get(place.destination.name) is not place:
                    break
                self._one(place, row)
        except JobsError:
            again = time.time() + _JOBS_PAUSE_SECONDS
        place.thread = None
        self._expect(again)  # and see what is due next

    def _one(self, place: Asked, row: Verified) -> None:
        """Ask for one study, and write what came of it."""
        now, one = time.time(), place.destination
        earliest = 0.0 if row.checked_at is None or not row.rounds else row.checked_at + _wait(one, row.rounds)
        if now < earliest:
            self._book.later(row, earliest, tries=row.tries, reason="")
            return
        expected, pending = self._book.expected(row)
        wanted = [each for each in expected if _askable(row.study_instance_uid, each)]
        trouble, lost = not_there(place.ask, row.study_instance_uid, wanted) if wanted else ("", [])
        if self._stopping:
            return
        now = time.time()
        if trouble:
            self._unknown(place, row, len(wanted), trouble, now)
        elif lost:
            self._lost(place, row, wanted, lost, now)
        elif pending and row.rounds:
            # What was sent again is not there yet: this study is not settled before.
            self._book.later(row, now + _wait(one, row.rounds), tries=0, reason="")
        else:
            left = len(expected) - len(wanted)
            reason = f"{left} can't be asked for: their UIDs are none" if left else ""
            self._book.settled(row, expected=len(expected), found=len(wanted), now=now, reason=reason)
            if wanted:
                _verifications.labels(one.name, "complete").inc()
        if not trouble and place.told:
            place.told = False
            log.event(log.INFO, "verify-resumed", "What was delivered can be looked for again.", destination=one.name)

    def _unknown(self, place: Asked, row: Verified, wanted: int, trouble: str, now: float) -> None:
        one = place.destination
        _verifications.labels(one.name, "unknown").inc()
        if not place.told:
            place.told = True
            said = f"What was delivered can't be looked for, and nothing is sent again for that: {trouble}"
            log.event(log.WARNING, "verify-waits", said, destination=one.name)
        if row.tries < _MOST_TRIES:
            wait = min(max(one.verify_after_seconds, 1.0) * 2.0**row.tries, _LONGEST_WAIT_SECONDS)
            self._book.later(row, now + wait, tries=row.tries + 1, reason=trouble)
            return
        self._book.settled(row, expected=wanted, found=0, now=now, reason=f"not known: {trouble}")
        log.event(
            log.WARNING,
            "verify-given-up",
            f"It is not known whether what was delivered is there: {trouble}",
            destination=one.name,
            upload_id=log.uid_hash(row.study_instance_uid),
            instances=wanted,
        )

    def _lost(
        self, place: Asked, row: Verified, wanted: Sequence[Expected], lost: Sequence[Expected], now: float
    ) -> None:
        one = place.destination
        due_at = now + _wait(one, row.rounds + 1)
        queued, dead = self._book.missing(
            row,
            lost,
            expected=len(wanted),
            rounds=one.verify_rounds,
            now=now,
            due_at=due_at,
            reason="the destination said that it stored it and does not have it: check its log, disk and rules",
        )
        _verifications.labels(one.name, "missing").inc()
        _missing.labels(one.name).inc(len(lost))
        if queued:
            self._wake(one.name)
        said = f"It does not have {len(lost)} of {len(wanted)} instances that it said it stored: "
        said += f"{queued} queued anew, {dead} dead letters."
        log.event(
            log.ERROR if dead else log.WARNING,
            "verify-missing",
            said,
            destination=one.name,
            upload_id=log.uid_hash(row.study_instance_uid),
            missing=len(lost),
            queued=queued,
            failed=dead,
        )


def _wait(one: Destination, rounds: int) -> float:
    """Seconds before what was sent again for the `rounds`th time is looked for."""
    return min(one.verify_after_seconds * float(_SLOWER) ** (rounds - 1), _LONGEST_WAIT_SECONDS)


def _askable(study: str, each: Expected) -> bool:
    """Whether an instance can be asked for: what is no UID may be a wildcard, or a path."""
    return all(map(is_valid_uid, (study, each.series_instance_uid, each.sop_instance_uid)))


def not_there(ask: Ask, study: str, wanted: Sequence[Expected]) -> tuple[str, list[Expected]]:
    """Why it can't be known what is there, or what of `wanted` is neither listed nor known by its name.

    Lists are not trusted alone: some are cut, and tiny-pacs' name one instance for all.
    """
    listed = ask(study, _by_series(wanted), False)
    lost = [each for each in wanted if each.sop_instance_uid not in listed.uids]
    for some in (lost[:_FIRST_BY_NAME], lost[_FIRST_BY_NAME:]) if not listed.trouble else ():
        if not some:
            break
        named = ask(study, _by_series(some), True)
        if named.trouble:
            return named.trouble, []
        left = [each for each in lost if each.sop_instance_uid not in named.uids]
        if len(left) == len(lost):
            break
        lost = left
    return listed.trouble, [] if listed.trouble else lost


def _by_series(wanted: Sequence[Expected]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in wanted:
        found.setdefault(each.series_instance_uid, []).append(each.sop_instance_uid)
    return found
