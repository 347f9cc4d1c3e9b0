"""The job table: the one door to instances, deliveries and what became of them.

Opened once per process by intake and forward workers (relay), the sidecar and the CLI; any number of threads may use
one store, any number of processes one table. Each method is one transaction: it happened entirely and is on disk when
it returns, or it did not happen. Every failure of the database is a JobsError; the store stays usable, and the caller
decides when to try again. Times are arguments, in seconds since the epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from relaypacs.errors import JobsError, Overtaken
from relaypacs.failpoint import reach
from relaypacs.jobs import associations, delivery, dialect, intake, nodes, people, reports, retention, upgrade
from relaypacs.jobs import bytes as instance_bytes
from relaypacs.jobs import ledger as books
from relaypacs.jobs.again import until_alone
from relaypacs.jobs.audit import Audit
from relaypacs.jobs.batch import Leased
from relaypacs.jobs.clock import Clock
from relaypacs.jobs.copies import Copies
from relaypacs.jobs.destinations import Destinations
from relaypacs.jobs.leases import Leases
from relaypacs.jobs.marks import Marks
from relaypacs.jobs.purges import Purges
from relaypacs.jobs.restore import Restoring
from relaypacs.jobs.states import Verb
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import (
    Acted,
    Arrival,
    AssociationEnd,
    AtOnce,
    Found,
    Joined,
    Ledger,
    QueueRow,
    Selection,
    TakenIn,
    TraceRow,
    Unstaged,
)
from relaypacs.model import Checkpoint, Claim, Settlement


class JobStore:
    """See the module; methods in the order an object meets them."""

    def __init__(
        self, reader: Engine, writer: Engine, *, identifiers: bool, shared_staging: bool, now: Callable[[], float]
    ) -> None:
        self._reader, self._writer, self._identifiers = reader, writer, identifiers
        self._errors = dialect.driver_errors(writer)
        self._clock = Clock(now)
        self._leases = Leases(self._writing, self._clock, shared=shared_staging)
        self.restoring = Restoring(self._reading, self._writing, identifiers=identifiers, shared=shared_staging)
        self.purges = Purges(self._reading, self._writing, shared=shared_staging)
        self.destinations = Destinations(self._reading, self._writing, self._leases.homes)
        self._forget_after = (0.0, 0)  # where the next `forget` goes on: (received_at, instance id)
        self.nodes = nodes.Nodes(self._reading, self._writing)
        self.associations = associations.Book(self._reading, self._writing)
        self.copies = Copies(self._reading)
        self.audit = Audit(self._reading, self._writing)
        self.marks = Marks(self._reading)

    @staticmethod
    def open(
        url: str, *, identifiers: bool = True, shared_staging: bool = False, now: Callable[[], float] = time.time
    ) -> JobStore:
        """The job table at a SQLAlchemy URL; connects when first used. JobsError if the URL is none we know.

        `identifiers=False` keeps accession number and patient ID out of it. With `shared_staging` any node claims what
        is staged. `now` is the clock of the callers' times; leases and next attempts go by the database's.
        """
        engines = dialect.open_engines(url)
        return JobStore(*engines, identifiers=identifiers, shared_staging=shared_staging, now=now)

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._reader.dispose()
        self._writer.dispose()

    def migrate(self) -> None:
        """Bring the schema up to date, in one transaction. SchemaTooNew if a newer RelayPACS has."""
        with self._writing() as connection:
            upgrade.migrate(connection)

    def check_schema(self) -> None:
        """Return if the schema is this program's; JobsError if it wants migrating, SchemaTooNew if it is newer."""
        with self._reading() as connection:
            revision = upgrade.revision_of(connection)
        upgrade.check(revision)

    def ping(self) -> None:
        """Return if the database answers; JobsError if not."""
        with self._reading() as connection:
            connection.execute(text("SELECT 1"))

    def join(self, node: str, identity: str, now: float) -> Joined:
        """The node's only relay process starts: its earlier leases end. JobsError if `identity` is not the name's."""
        with self._writing() as connection:
            return nodes.join(connection, node, identity, now)

    def owes(self, node: str) -> int | None:
        """How many deliveries only that node can make; None if no such node has joined."""
        with self._reading() as connection:
            return nodes.owes(connection, node)

    def drain(self, node: str, now: float, *, limit: int = 1000) -> int:
        """Give up what a node owes that is gone for good, `limit` instances at a time; at 0 its name is free."""
        return until_alone(self._writing, lambda connection: nodes.drain(connection, node, now, limit=limit))

    def checkpoints(self, node: str) -> dict[str, Checkpoint]:
        """How far the node's segments have been taken in, by generation."""
        with self._reading() as connection:
            return intake.checkpoints(connection, node)

    def take_in(
        self,
        node: str,
        arrivals: Sequence[Arrival],
        ends: Sequence[AssociationEnd],
        checkpoints: Sequence[Checkpoint],
        now: float,
        *,
        begun: Mapping[str, int] | None = None,
        at_once: AtOnce | None = None,
    ) -> TakenIn:
        """Write everything `arrivals` (in order) and `ends` come to, and how far the segments have been read.

        `begun`: how far the caller has taken in the segments before; RowsLost if the table does not have that any more.
        `at_once`: what is claimed in the same transaction; if its answer was lost, the next claims find it.
        """
        kept = {"identifiers": self._identifiers, "shared": self._leases.shared}

        def write(connection: Connection, leased: Leased | None) -> TakenIn:
            intake.check_begun(connection, node, begun or {})
            return intake.take_in(connection, node, arrivals, ends, checkpoints, now=now, leased=leased, **kept)

        return self._leases.taken_in(write, at_once or AtOnce({}, 0.0), node, now)

    def forget_segment(self, node: str, generation: str) -> None:
        """The segment's file is gone: so are its checkpoint and whatever still points at it."""
        with self._writing() as connection:
            instance_bytes.forget_segment(connection, node, generation)

    def claim(self, destination: str, *, node: str, limit: int, lease_seconds: float, now: float) -> list[Claim]:
        """Lease up to `limit` deliveries (queued, deferred until now, of an ended lease): by priority, a study at a
        time, the longest waiting first, then by age. A claim is its worker's own for `lease_seconds`; it can be settled
        while nobody else has it. What was leased before without an answer comes first, and alone."""
        return self._leases.claim(destination, node=node, limit=limit, lease_seconds=lease_seconds, now=now)

    def renew(self, claims: Sequence[Claim], *, lease_seconds: float, now: float) -> None:
        """Lengthen the leases, as far as they are still the claims' own, to `now + lease_seconds`."""
        if claims:
            with self._writing() as connection:
                delivery.renew(connection, claims, due_at=now + lease_seconds + self._clock.shift(connection))

    def settle(self, settlements: Sequence[Settlement], now: float) -> int:
        """Write how claims ended; returns how many took effect: those whose token is still the delivery's own.

        A deferral without `retry_at` is a dead letter.
        """
        if not settlements:
            return 0
        return until_alone(
            self._writing,
            lambda connection: delivery.settle(connection, settlements, now, shift=self._clock.shift(connection)),
        )

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Return claims that were not tried, ready at once, with no attempt counted."""
        if claims:
            with self._writing() as connection:
                delivery.give_back(connection, claims)

    def next_due(self, destination: str, now: float, *, node: str | None = None) -> float | None:
        """When a claim (of `node`) will next find something: `now`, or a time in seconds; None if nothing waits."""
        with self._reading() as connection:
            shift = self._clock.shift(connection)
            homes = () if node is None else self._leases.homes(node)
            due = delivery.next_due(connection, destination, homes=homes, now=now + shift)
            return None if due is None else due - shift

    def to_stage(self, node: str, *, received_before: float, keep: bool, limit: int) -> list[Unstaged]:
        """Instances whose only bytes are in the spool, and owed or (`keep`) kept; oldest first."""
        with self._reading() as connection:
            return instance_bytes.to_stage(connection, node, received_before=received_before, keep=keep, limit=limit)

    def will_stage(self, keys: Sequence[tuple[int, str]], *, node: str) -> set[int]:
        """The node's files are about to be put under these keys, by instance id; returns the ids that may be.

        Say so before the first is put: until `staged` is said, `purgeable` names them, whatever happens in between.
        """
        with self._writing() as connection:
            return instance_bytes.will_stage(connection, keys, node)

    def staged(self, keys: Sequence[tuple[int, str]], now: float, *, copied: Sequence[Unstaged] = ()) -> None:
        """The instances (id, staged key) are durable in staging, under the keys that `will_stage` was told.

        In shared staging nothing is told before, for the same bytes can be put again; `copied` holds what was read of
        the instances before the puts, and one whose bytes are not there any more is not staged by this.
        """
        if keys:
            with self._writing() as connection:
                if self._leases.shared:
                    instance_bytes.staged_for_all(connection, keys, now, copied=copied)
                else:
                    instance_bytes.staged(connection, keys, now)

    def segment_wanted(self, node: str, generation: str, keep: bool) -> bool:
        """Whether some instance's only bytes are in the segment, and owed or (`keep`) kept."""
        with self._reading() as connection:
            return instance_bytes.segment_needed(connection, node, generation, keep)

    def segment_needed(self, node: str, generation: str, keep: bool, *, end: int = 0) -> bool:
        """As `segment_wanted`, but False is a promise: in the same transaction every instance ceased to count on the
        segment, so it may be freed whatever is received or re-sent meanwhile.

        Ask when everything in the segment, to its `end` (bytes), has been taken in; RowsLost if the table lacks it.
        """
        if self.segment_wanted(node, generation, keep):
            return True
        with self._writing() as connection:
            intake.check_begun(connection, node, {generation: end})
            return not instance_bytes.detach_unneeded(connection, node, generation, keep)

    def purgeable(self, node: str, *, settled_before: float | None, limit: int) -> list[tuple[int, str]]:
        """Instances (id, staged key) staged and settled before that time: delete the files, then say `purged`.

        For one who is `purges.alone`. From now on the bytes count as gone; what was not finished before comes first,
        and alone without a time. Looks at a bounded number of instances and goes on from there the next time.
        """
        return self.purges.purgeable(node, settled_before=settled_before, limit=limit)

    def purged(self, keys: Sequence[tuple[int, str]]) -> None:
        """The files that `purgeable` named are deleted."""
        if keys:
            with self._writing() as connection:
                instance_bytes.purged(connection, keys)

    def forget(self, *, settled_before: float, limit: int) -> int:
        """Delete at most `limit` instances that have no bytes and were over before that time; returns how many.

        Looks at a bounded number and goes on from there the next time; the ledger goes on counting what went.
        """
        with self._reading() as connection:
            chosen, end = retention.over(
                connection, settled_before=settled_before, after=self._forget_after, limit=limit
            )
        self._forget_after = end or (0.0, 0)
        if not chosen:
            return 0
        with self._writing() as connection:
            return retention.forget(connection, chosen)

    def queue(self, now: float, *, next_attempts: bool = False) -> list[QueueRow]:
        """What each destination is owed, by name; none for one that is owed nothing. When they are tried if asked."""
        with self._reading() as connection:
            return reports.queue(connection, now, next_attempts=next_attempts)

    def trace(self, term: str, *, limit: int = 10_000) -> list[TraceRow]:
        """Instances by study, series or SOP instance UID, accession number or patient ID, with their deliveries."""
        with self._reading() as connection:
            return reports.trace(connection, storable(term), limit)

    def find(self, verb: Verb, which: Selection) -> Found:
        """What `verb` would concern, for `act`; ids only, whatever their number."""
        with self._reading() as connection:
            return people.find(connection, verb, which)

    def act(self, verb: Verb, ids: Sequence[int], which: Selection, now: float, *, by: str = "") -> Acted:
        """Do what `verb` says to those of `ids` (some of what was found) that it still concerns.

        Leaves an audit line. One transaction, so give it a few hundred at a time. `by` is who asked.
        """
        said = {"by": by, "node": self.audit.node}
        return until_alone(self._writing, lambda connection: people.act(connection, verb, ids, which, now, **said))

    def ledger(self, *, association: str | None = None, study: str | None = None) -> Ledger:
        """Received and routed against what there is: in total, of one association, of one study, or of both."""
        with self._reading() as connection:
            return books.ledger(
                connection,
                association_id=None if association is None else storable(association),
                study=None if study is None else storable(study),
            )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment and waits for no writer."""
        with self._named_errors(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that is alone from its first line and on disk when it ends."""
        with self._named_errors(), self._writer.begin() as connection:
            yield connection
            reach("jobs.before-commit")
        reach("jobs.after-commit")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except self._errors as problem:
            # Without the original: a driver's own text can quote a row.
            kind = Overtaken if dialect.is_overtaken(problem) else JobsError
            raise kind(dialect.sentence(problem)) from None
