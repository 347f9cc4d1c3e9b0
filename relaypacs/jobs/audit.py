"""The audit trail of one job table: what is told is added, read, sent, proved unchanged, and deleted in its time.

`JobStore.audit`, for the relay's threads that tell (`gather`), send (`unsent`, `sent`) and keep it (`prune`,
`check_on`), and for the CLI. Each method is one transaction; JobsError if it can't be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from sqlalchemy import Connection, delete, func, select

from relaypacs.jobs import audit_gather, audit_rows
from relaypacs.jobs.audit_dialect import LEAST_SECONDS, USUAL_SECONDS, lock_for_audit, writers
from relaypacs.jobs.audit_rows import LOST_NODE, NOTHING_CHECKED, PRUNED, AuditRow, Checked, Entry, Wanted
from relaypacs.jobs.audit_tables import audit, audit_mark
from relaypacs.jobs.dialect import server_time
from relaypacs.jobs.inserts import upsert

_Transaction = Callable[[], AbstractContextManager[Connection]]
_KEEP = "keep"
_EVER_SECONDS = 10**10
"""What `forever` is to the database: three hundred years."""


class Audit:
    """See the module. `gather` is for one thread."""

    def __init__(self, reading: _Transaction, writing: _Transaction) -> None:
        self._reading, self._writing = reading, writing
        self.node = ""
        """Under whose name rows are added that say none."""
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}
        # The last attempt there was, at what time, and who was writing then: once they have ended nothing comes before.
        self._candidate: tuple[int, float, int] | None = None
        self._told_to = 0.0

    def add(self, entries: Sequence[Entry]) -> None:
        """Add these rows, in this order."""
        if entries:
            with self._writing() as connection:
                audit_rows.add(connection, entries)

    def find(self, wanted: Wanted, *, limit: int) -> list[AuditRow]:
        """The latest rows that `wanted` fits, the latest first."""
        with self._reading() as connection:
            return audit_rows.find(connection, wanted, limit=limit)

    def check(self) -> Checked:
        """Compare every row with the chain."""
        found, more = NOTHING_CHECKED, True
        while more:
            found, more = self.check_on(found)
        return found

    def check_on(self, before: Checked) -> tuple[Checked, bool]:
        """Go on comparing behind `before` (at first `NOTHING_CHECKED`), a thousand rows; whether there are more."""
        with self._reading() as connection:
            return audit_rows.check(connection, before)

    def gather(
        self,
        now: float,
        *,
        quiet_seconds: float = 60.0,
        place_of: Callable[[str], Mapping[str, str]] = lambda _: {},
    ) -> bool:
        """Tell of what came, went and was refused since the last time; whether there is more.

        What an association that is open has brought is told when nothing was added to it for `quiet_seconds`.
        `place_of(destination)`: what else is told of one (`called_ae`, `peer`).
        """
        with self._reading() as connection:
            oldest, next_one = writers(connection)
            if self._candidate is None:
                self._candidate = (audit_gather.latest_attempt(connection), now, next_one)
            upto, at, writers_then = self._candidate
            done = audit_gather.position(connection)
            if oldest < writers_then:
                upto = done
            anything = audit_gather.has_something(connection, done, upto)
        more = more_came = False
        if anything:
            with self._writing() as connection:
                # First: one gathers at a time, and whoever holds it waits for no row.
                lock_for_audit(connection)
                entries, more_came = audit_gather.received(connection, self.node, now, self._seen, quiet_seconds)
                went, more = audit_gather.delivered(connection, self.node, upto, place_of)
                entries += went + audit_gather.refused(connection, self.node, now)
                audit_rows.add(connection, sorted(entries, key=lambda one: one.at))
        if oldest >= writers_then and not more:
            self._told_to, self._candidate = at, None
        return more or more_came

    @property
    def told_to(self) -> float:
        """Every delivery that was settled before this time (seconds) is told of; 0 until that is known."""
        return self._told_to

    def unsent(self, to: str, *, limit: int) -> list[AuditRow]:
        """Rows of the node, then of one that is lost, that the collector `to` has not had: of one node, in order."""
        with self._reading() as connection:
            for name in self._ours(connection):
                if rows := audit_rows.behind(connection, name, self._sent(connection, name, to), limit=limit):
                    return rows
        return []

    def sent(self, to: str, last: AuditRow) -> None:
        """The collector has had this node's rows up to this one."""
        with self._writing() as connection:
            mark = {"mark": _sent_mark(last.entry.node, to), "position": last.id, "at": last.entry.at}
            upsert(connection, audit_mark, [mark], replace=("position", "at"), not_below="position")

    def backlog(self, to: str) -> tuple[int, float | None]:
        """How many rows that `unsent` would give the collector has not had, and the time of the oldest."""
        total, times = 0, []
        with self._reading() as connection:
            for name in self._ours(connection):
                left = select(func.count(), func.min(audit.c.at)).where(
                    audit.c.node == name, audit.c.id > self._sent(connection, name, to)
                )
                count, oldest = connection.execute(left).one()
                total += count
                times += [oldest] if oldest is not None else []
        return total, min(times, default=None)

    def _ours(self, connection: Connection) -> list[str]:
        """The node, and those that are gone for good: whoever is there sends what they could not."""
        lost = connection.scalars(select(audit_mark.c.mark).where(audit_mark.c.mark.startswith(LOST_NODE))).all()
        return [self.node, *sorted(mark.removeprefix(LOST_NODE) for mark in lost)]

    @staticmethod
    def _sent(connection: Connection, node: str, to: str) -> int:
        return connection.scalar(select(audit_mark.c.position).where(audit_mark.c.mark == _sent_mark(node, to))) or 0

    def prune(self, keep_seconds: float | None, now: float, *, limit: int) -> int:
        """Delete at most `limit` rows that are older than `keep_seconds` (None: none ever); returns how many.

        The database deletes none that is younger, nor one younger than 90 days. That the retention is another than
        before is told.
        """
        keep = int(_EVER_SECONDS if keep_seconds is None else max(keep_seconds, LEAST_SECONDS))
        with self._reading() as connection:
            known = self._kept(connection)
            oldest = connection.scalar(select(audit.c.at).order_by(audit.c.id).limit(1))
        if known == keep and (oldest is None or oldest >= now - keep):
            return 0
        with self._writing() as connection:
            lock_for_audit(connection)
            if (known := self._kept(connection)) != keep:
                usual = known or USUAL_SECONDS
                if usual != keep:
                    body = {"before_days": usual // 86400, "days": keep // 86400}
                    audit_rows.add(connection, [Entry(now, "retention", self.node, self.node, body=body)])
                upsert(connection, audit_mark, [{"mark": _KEEP, "position": keep}], replace=("position",))
            # By the database's clock, which its triggers go by; a second less than they would allow.
            before = min(now, server_time(connection) or now) - keep - 1.0
            return _delete_first(connection, before, limit)

    def _kept(self, connection: Connection) -> int | None:
        return connection.scalar(select(audit_mark.c.position).where(audit_mark.c.mark == _KEEP))


def _sent_mark(node: str, to: str) -> str:
    return f"sent {node} {to}"


def _delete_first(connection: Connection, before: float, limit: int) -> int:
    """Delete the first rows, none behind one that stays: the chain goes on from the last of them."""
    first = connection.execute(select(audit.c.id, audit.c.at, audit.c.chain).order_by(audit.c.id).limit(limit)).all()
    gone = 0
    while gone < len(first) and first[gone].at < before:
        gone += 1
    if gone:
        last = first[gone - 1]
        connection.execute(delete(audit).where(audit.c.id <= last.id))
        mark = {"mark": PRUNED, "position": last.id, "at": last.at, "chain": last.chain}
        upsert(connection, audit_mark, [mark], replace=("position", "at", "chain"))
    return gone
