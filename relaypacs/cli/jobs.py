"""What people ask the job table: `queue`, `trace`, `ledger`. Each returns its exit code."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from relaypacs.cli import say, waits
from relaypacs.cli.tracing import folded, trace_lines
from relaypacs.cli.verified import sentence
from relaypacs.config import Config, Destination
from relaypacs.jobs.fallback import Outage
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import QueueRow, TraceRow
from relaypacs.jobs.verification import Verified
from relaypacs.model import State

_COLUMNS = (State.QUEUED, State.ACTIVE, State.DEFERRED, State.HELD, State.FAILED)

_MOST_TRACED = 10_000
_MOST_VERIFIED = 100
"""Studies of which verification is looked up."""


def queue(store: JobStore, config: Config, *, as_json: bool) -> int:
    """What each destination is owed and what that waits for; those that are owed nothing are listed too."""
    now = time.time()
    configured = {one.name: one for one in config.destination}
    rows = {row.destination: row for row in store.queue(now, next_attempts=True)}
    shown = [rows.get(name) or QueueRow(name, {}, None) for name in sorted({*configured, *rows})]
    known = waits.look(config) if rows else waits.Known()
    waiting = {row.destination: waits.of_row(row, configured.get(row.destination), known, now) for row in shown}
    outages = store.destinations.fallbacks.outages()
    if as_json:
        say.out_json(
            [
                {
                    "destination": row.destination,
                    **{state.value: row.counts.get(state, 0) for state in _COLUMNS},
                    "oldest_seconds": None if row.oldest_seconds is None else round(row.oldest_seconds, 1),
                    "next_attempt_at": say.iso(row.next_attempt_at),
                    "waits_for": {state.value: text for state, text in waiting[row.destination].items()},
                    "outages": [
                        {"node": one.node, "since": say.iso(one.since), "fallback": one.fallback, "given": one.given}
                        for one in outages
                        if one.destination == row.destination
                    ],
                }
                for row in shown
            ]
        )
        return 0
    if shown:
        _queued(shown, waiting, outages, configured, now)
    else:
        say.tell("No destination is configured and nothing is owed.")
    marked = [f"{mark} {count}" for mark, count in store.marks.counts().items() if count]
    if marked:
        say.out(f"Instances that want a person's eye: {', '.join(marked)} (`relaypacs marked` lists them)")
    return 0


def _queued(
    rows: Sequence[QueueRow],
    waiting: Mapping[str, Mapping[State, str]],
    outages: Sequence[Outage],
    configured: Mapping[str, Destination],
    now: float,
) -> None:
    say.out_table(
        ["destination", *_COLUMNS, "oldest waiting"],
        [
            [row.destination, *(str(row.counts.get(state, 0)) for state in _COLUMNS), say.age(row.oldest_seconds)]
            for row in rows
        ],
    )
    lines = [
        f"{row.destination}: {row.counts[state]} {state} {'waits' if row.counts[state] == 1 else 'wait'} for {text}"
        for row in rows
        for state, text in waiting[row.destination].items()
    ]
    for line in folded([*lines, *_outages(outages, configured, now)]):
        say.out(line)


def _outages(outages: Sequence[Outage], configured: Mapping[str, Destination], now: float) -> Iterator[str]:
    """What became, or becomes, of deliveries to destinations that do not answer."""
    for one in outages:
        since = f"{one.destination}: has not answered {one.node} for {say.age(now - one.since)}"
        destination = configured.get(one.destination)
        if one.given:
            verb = "was" if one.given == 1 else "were"
            yield f"{since}; {say.counted(one.given, 'delivery')} {verb} given to {one.fallback}"
        elif destination is not None and destination.fallback:
            left = one.since + destination.fallback_after_seconds - now
            when = f"in {say.age(left)}" if left > 0 else "now"
            yield f"{since}; what waits goes to {destination.fallback} {when}"


def trace(store: JobStore, config: Config, term: str, *, as_json: bool) -> int:
    """Where the instances that `term` names are; 1 if it names none."""
    rows = store.trace(term, limit=_MOST_TRACED)
    held_up = _held_up(rows, config)
    studies = list(dict.fromkeys(row.study_instance_uid for row in rows))[:_MOST_VERIFIED]
    verified = [one for study in studies for one in store.destinations.verifications.of_study(study)]
    if as_json:
        document: dict[str, object] = {"term": term, "instances": [_as_json(row) for row in rows]}
        document |= {"waits_for": held_up} if held_up else {}
        document |= {"verified": [_verified(one) for one in verified]} if verified else {}
        say.out_json(document)
    elif rows:
        now = time.time()
        said = {(one.destination, one.study_instance_uid): sentence(one, now) for one in verified}
        for line in folded(trace_lines(rows, now, held_up, said)):
            say.out(line)
    if len(rows) == _MOST_TRACED:
        say.tell(f"Only the first {_MOST_TRACED} instances are shown; ask by study or series for the others.")
    if not rows:
        say.tell(
            f"Nothing was received under {say.printable(term)!r}; give a study, series or SOP instance UID, "
            "an accession number or a patient ID exactly as the modality sent it."
        )
    return 0 if rows else 1


def _held_up(rows: Sequence[TraceRow], config: Config) -> dict[str, str]:
    """What keeps the deliveries to a destination from going, for those that would."""
    going = {one.destination for row in rows for one in row.deliveries if one.state in (State.QUEUED, State.DEFERRED)}
    known = waits.look(config) if going else waits.Known()
    configured = {one.name: one for one in config.destination}
    found = {name: waits.holding(name, configured.get(name), known, time.time()) for name in sorted(going)}
    return {name: text for name, text in found.items() if text}


def _verified(one: Verified) -> dict[str, object]:
    return asdict(one) | {name: say.iso(getattr(one, name)) for name in ("since", "due_at", "checked_at")}


def _as_json(row: TraceRow) -> dict[str, object]:
    document = asdict(row) | {"received_at": say.iso(row.received_at)}
    document["deliveries"] = [
        asdict(delivery)
        | {name: say.iso(getattr(delivery, name)) for name in ("queued_at", "next_attempt_at", "settled_at")}
        for delivery in row.deliveries
    ]
    return document


def ledger(store: JobStore, *, association: str | None, study: str | None, as_json: bool) -> int:
    """The ledger's counts; 1 if its equations don't hold, or if nothing was received under what was asked for."""
    book = store.ledger(association=association, study=study)
    if as_json:
        say.out_json(asdict(book))
    else:
        say.out(
            f"received {book.received} = instances {book.instances} + duplicates {book.duplicates}"
            f"   (dropped by a rule {book.dropped}, matched by no rule {book.unrouted})"
        )
        say.out(
            f"routed {book.routed} = delivered {book.delivered} + pending {book.pending} + failed {book.failed}"
            f" + held {book.held} + discarded {book.discarded}"
        )
        say.out("balanced" if book.imbalance == 0 else f"imbalance {book.imbalance}")
    if book.imbalance:
        say.tell(
            "The ledger is out of balance. While objects arrive that can be intake a moment behind; "
            "if it stays, keep the spool and the job table as they are and report it."
        )
    if not book.received and (association or study):
        say.tell(f"Nothing was received under {say.printable(association or study or '')!r}.")
        return 1
    return 1 if book.imbalance else 0
