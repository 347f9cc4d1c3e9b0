"""What must be true after a crash, when all is quiet: nothing lost, nothing partial, few repeats, books balanced.

Asks the destinations what they have and the job table what it says, and believes neither without the other.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import create_engine, select

from relaypacs.jobs.audit_rows import Wanted
from relaypacs.jobs.destination_tables import verification
from relaypacs.jobs.schema import delivery, instance
from tests.crash.harness.destinations import Arrived
from tests.crash.harness.rig import Rig
from tests.peers.ports import wait_until

TRAIL_SECONDS = 15.0
"""How long the audit trail may take to tell of the last, and verification to ask for it."""
_ALL = 1_000_000
VISIBLE = {"queued", "active", "deferred", "failed", "held", "discarded"}


@dataclass
class Totals:
    """Sums over all runs; `faults` are sentences, empty when all went as promised."""

    runs: int = 0
    acknowledged: int = 0
    lost: int = 0
    partial: int = 0
    repeats: int = 0
    imbalance: int = 0
    left_over: int = 0
    """Staged objects that no row names any more."""
    server_stops: int = 0
    redis_losses: int = 0
    pauses: int = 0
    taken_over: int = 0
    """Claims of what a paused process had claimed."""
    refused: int = 0
    """Settlements under a token that was not the delivery's any more, and that had no effect."""
    stale: int = 0
    """Those that had one."""
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The last line of a run of the suite."""
        return (
            f"crash: runs={self.runs} acknowledged={self.acknowledged} lost={self.lost} partial={self.partial} "
            f"repeats={self.repeats} imbalance={self.imbalance}"
        )

    def pauses_line(self) -> str:
        """What became of paused workers."""
        return (
            f"paused: {self.pauses} times, {self.taken_over} deliveries taken over, {self.refused} stale settlements "
            f"refused, {self.stale} took effect"
        )

    def fault(self, sentence: str) -> None:
        """Something is not as promised."""
        self.faults.append(sentence)
        print(f"FAULT: {sentence}", file=sys.stderr, flush=True)


class Verdict:
    """Judges one life of a rig. `made` is the digest of every image ever sent to it, by SOP Instance UID."""

    def __init__(self, rig: Rig, totals: Totals) -> None:
        self._rig, self._totals = rig, totals
        self.made: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.in_flight = 0
        """What a paused process held: it may send that again."""
        self.sent_again = 0
        """Sendings of the senders beyond each image's first."""
        self._forgets = rig.setting.rows == "none"
        url = rig.url if rig.server else f"sqlite:///file:{rig.url.removeprefix('sqlite:///')}?mode=ro&uri=true"
        self._engine = create_engine(url, pool_pre_ping=True)

    def check(self, when: str, acknowledged: set[str]) -> None:
        """Compare what was made and acknowledged with what arrived and what the job table says."""
        states = self._deliveries()[0]
        arrived, repeats = self._rig.destinations.arrived(), self.repeats()
        # Read last: an image that comes again meanwhile was claimed before it arrived.
        latest, tokens, rows = self._deliveries()
        for destination, found in arrived.items():
            self._wrong(f"{when}: {destination}", found)
            for uid in acknowledged - found.keys():
                if states[destination].get(uid, set()) & VISIBLE:
                    self._totals.fault(f"{when}: an image is not at {destination}, visibly: {states[destination][uid]}")
                else:
                    self._totals.lost += 1
                    self._totals.fault(f"{when}: lost: an acknowledged image is not at {destination}")
            for uid, said in states[destination].items():
                if "delivered" in said and uid not in found:
                    self._totals.fault(f"{when}: {destination} never got what the job table calls delivered")
        for destination in self._rig.destinations.counting:
            for uid, digests in arrived[destination].items():
                # Rows that are forgotten don't say how often they were claimed.
                if len(digests) > tokens[destination][uid] and not self._forgets:
                    self._totals.fault(
                        f"{when}: {len(digests)} arrivals at {destination} of {tokens[destination][uid]} claims"
                    )
        ledger = self._rig.jobs.ledger()
        if ledger.imbalance:
            self._totals.imbalance += ledger.imbalance
            self._totals.fault(f"{when}: the ledger is out by {ledger.imbalance}: {ledger}")
        allowed = self._allowed(sum(rows[name] - len(latest[name]) for name in self._rig.destinations.counting))
        if repeats > allowed:
            self._totals.fault(f"{when}: {repeats} repeats, {allowed} were in flight")
        if self._rig.watch is not None and (stale := self._rig.watch.stale()):
            self._totals.fault(f"{when}: {stale} settlements under another's token took effect")

    def check_end(self) -> None:
        """At the end of the rig's life, the node started anew: everything once more, staging, and no space held."""
        self.check("end", self.acknowledged)
        known = set(self.made.values())
        staged = self._rig.staged()
        for digest in staged.values():
            if digest not in known:
                self._totals.partial += 1
                self._totals.fault("end: a staged object is not what was sent")
        if self._rig.setting.keep == "none" and staged:
            self._totals.left_over += len(staged)
            self._totals.fault(f"end: {len(staged)} staged objects are left over though nothing was owed or kept")
        elif self._rig.setting.bucket is not None and (orphans := self._orphans()):
            self._totals.left_over += orphans
            self._totals.fault(f"end: {orphans} objects of the bucket are named by no row")
        if left := self._rig.segments():
            self._totals.fault(f"end: {left} segments are held though nothing in them is needed")
        self._check_trail()
        if self._rig.setting.orthanc:
            self._check_verified()

    def _check_verified(self) -> None:
        """Every study was looked for at its destination after its last delivery, and all of it was there."""

        def open_rows() -> list[tuple[str, int, int]]:
            with self._engine.begin() as connection:
                rows = connection.execute(
                    select(verification).where(
                        verification.c.due_at.is_not(None) | (verification.c.found != verification.c.expected)
                    )
                )
                return [(row.reason, row.found, row.expected) for row in rows]

        with suppress(TimeoutError):
            wait_until(lambda: not open_rows(), "the verification of all studies", TRAIL_SECONDS, every_seconds=0.2)
        if left := open_rows():
            self._totals.fault(f"end: {len(left)} studies are not verified: {left[0]}")
        with self._engine.begin() as connection:
            studies = set(connection.scalars(select(instance.c.study_instance_uid).distinct()))
            studies -= set(connection.scalars(select(verification.c.study_instance_uid)))
        if studies:
            self._totals.fault(f"end: {len(studies)} studies were delivered and nobody noted to look for them")

    def _check_trail(self) -> None:
        """The audit trail tells of each object and each delivery, once, and no row of it was changed."""
        book, audit = self._rig.jobs.ledger(), self._rig.jobs.audit

        def told() -> dict[str, int]:
            sums = dict.fromkeys(("received", "delivered"), 0)
            for row in audit.find(Wanted(kinds=frozenset(sums)), limit=_ALL):
                sums[row.entry.kind] += int(str(row.entry.body["instances"]))
            return sums

        wanted = {"received": book.received, "delivered": book.delivered}
        with suppress(TimeoutError):
            wait_until(lambda: told() == wanted, "the audit trail", TRAIL_SECONDS, every_seconds=0.2)
        if (said := told()) != wanted:
            self._totals.fault(f"end: the audit trail tells of {said}, the ledger of {wanted}")
        if (broken_at := audit.check().broken_at) is not None:
            self._totals.fault(f"end: row {broken_at} of the audit trail is not what it was")

    def repeats(self) -> int:
        """Arrivals at the destinations that count, beyond each image's first."""
        return self._rig.destinations.repeats()

    def count(self) -> None:
        """Add what is known only at the end of a life to the totals."""
        self._totals.repeats += self.repeats()
        if self._rig.watch is not None:
            self._totals.stale += self._rig.watch.stale()
            self._totals.taken_over += self._rig.watch.taken_over()
            self._totals.refused += self._rig.leases_lost()
        self._engine.dispose()

    def _allowed(self, queued_anew: int) -> int:
        """How many repeats there may be: what was in flight at a death, and what was sent again and queued anew."""
        allowed = self._rig.leases_ended() + queued_anew + self.in_flight
        if self._rig.server is not None:
            allowed += self._rig.leases_lost()
        return allowed + (self.sent_again * len(self._rig.destinations.counting) if self._forgets else 0)

    def _wrong(self, where: str, found: Arrived) -> None:
        for uid, digests in found.items():
            wrong = sum(digest != self.made.get(uid) for digest in digests)
            if wrong:
                self._totals.partial += wrong
                self._totals.fault(f"{where}: an image is not byte for byte what was sent")

    def _orphans(self) -> int:
        """Objects of the bucket that no row names, and that nobody would ever delete."""
        with self._engine.begin() as connection:
            named = set(connection.scalars(select(instance.c.staged_key)))
        return sum(key.partition("/")[2] not in named for key in self._rig.staged_keys())

    def _deliveries(self) -> tuple[dict[str, dict[str, set[str]]], dict[str, Counter[str]], Counter[str]]:
        """Of each destination: states and sum of claims by image, and the number of deliveries."""
        states: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        tokens: dict[str, Counter[str]] = defaultdict(Counter)
        rows: Counter[str] = Counter()
        with self._engine.begin() as connection:
            for uid, destination, state, token in connection.execute(
                select(
                    instance.c.sop_instance_uid, delivery.c.destination, delivery.c.state, delivery.c.token
                ).join_from(delivery, instance, delivery.c.instance_id == instance.c.id)
            ):
                states[destination][uid].add(str(state))
                tokens[destination][uid] += token
                rows[destination] += 1
        return states, tokens, rows
