"""`relaypacs trace` for people: a study of thousands of instances as a dozen lines, one instance in full.

Pure: rows and the time in, lines out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import TypeVar

from relaypacs.cli.say import age, counted, printable, when
from relaypacs.jobs.values import TraceDelivery, TraceRow
from relaypacs.model import Routed, State

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_COLUMNS = 80
_ORDER = (State.DELIVERED, State.ACTIVE, State.QUEUED, State.DEFERRED, State.HELD, State.FAILED, State.DISCARDED)


def trace_lines(
    rows: Sequence[TraceRow],
    now: float,
    held_up: Mapping[str, str] | None = None,
    verified: Mapping[tuple[str, str], str] | None = None,
) -> Iterator[str]:
    """The lines, each as long as it is. `now` is the time ages count to. `held_up`: what a destination waits for;
    `verified`: what was found there afterwards, by destination and study."""
    for number, (_, study) in enumerate(_grouped(rows, lambda row: row.study_instance_uid)):
        if number:
            yield ""
        yield _title(study)
        yield from _receptions(study)
        if len(study) == 1:
            yield f"  instance {printable(study[0].sop_instance_uid)}; {_bytes_are(study[0])}"
        elif gone := sum(not row.in_spool and not row.staged for row in study):
            yield f"  {counted(gone, 'instance')} no longer kept on this node"
        yield from _marks(study)
        yield from _destinations(study, now, held_up or {}, verified or {})


def folded(lines: Iterable[str]) -> Iterator[str]:
    """`lines` in at most 80 columns, unless a word is longer; what goes on stands deeper."""
    for line in lines:
        deeper = " " * (len(line) - len(line.lstrip()) + 4)
        yield from wrap(line, _COLUMNS, subsequent_indent=deeper, break_long_words=False, break_on_hyphens=False) or [
            ""
        ]


def _title(study: Sequence[TraceRow]) -> str:
    def every(of: Callable[[TraceRow], str]) -> str:
        return ", ".join(sorted({printable(of(row)) for row in study if of(row)}))

    parts = [every(lambda row: row.modality), counted(len(study), "instance"), every(lambda row: row.study_date)]
    for name, value in (
        ("accession number", every(lambda row: row.accession_number)),
        ("patient ID", every(lambda row: row.patient_id)),
    ):
        if value:
            parts.append(f"{name} {value}")
    uid = study[0].study_instance_uid
    return f"Study {printable(uid) if uid else '(no UID)'}: {', '.join(part for part in parts if part)}"


def _receptions(study: Sequence[TraceRow]) -> Iterator[str]:
    """When, from whom, and which rule took it: a line per association and rule."""
    for (_, rule, verdict), rows in _grouped(study, lambda row: (row.association_id, row.rule, row.verdict)):
        first, last = when(rows[0].received_at), when(rows[-1].received_at)
        sender = f"{printable(rows[0].calling_ae)} ({printable(rows[0].peer)}) as {printable(rows[0].called_ae)}"
        said = {
            Routed.ROUTED: f"rule {rule}" if rule else "no rule: the default route, or a person, sends it",
            Routed.DROPPED: f"rule {rule} says to drop it",
            Routed.UNROUTED: "no rule matched: it goes nowhere; add a [[rule]] and `relaypacs resend`",
        }[verdict]
        span = first if first == last else f"{first} to {last[-8:] if last[:10] == first[:10] else last}"
        yield f"  received {counted(len(rows), 'instance')} {span} from {sender}; {said}"


def _bytes_are(row: TraceRow) -> str:
    places = [name for name, there in (("in the spool", row.in_spool), ("staged", row.staged)) if there]
    where = f"its bytes are {' and '.join(places)} on {row.node}" if places else "its bytes are no longer kept here"
    return f"{where}; transfer syntax {printable(row.transfer_syntax_uid)}"


def _marks(study: Sequence[TraceRow]) -> Iterator[str]:
    if conflicts := sum(row.conflict for row in study):
        yield f"  {counted(conflicts, 'instance')} received with other bytes under the same SOP Instance UID"
    for problem, count in Counter(row.problem for row in study if row.problem).most_common():
        yield f"  {counted(count, 'instance')} whose head can't be read: {printable(problem)}"


def _destinations(
    study: Sequence[TraceRow], now: float, held_up: Mapping[str, str], verified: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """Where each copy is, and why one is not: the latest delivery of each instance to each destination, and whether
    one before it had arrived."""
    latest: dict[str, dict[int, TraceDelivery]] = {}
    arrived: dict[str, dict[int, TraceDelivery]] = {}
    for row in study:
        for delivery in row.deliveries:  # oldest first
            latest.setdefault(delivery.destination, {})[row.instance_id] = delivery
            if delivery.state is State.DELIVERED:
                arrived.setdefault(delivery.destination, {})[row.instance_id] = delivery
    width = max((len(name) for name in latest), default=0)
    for name in sorted(latest):
        deliveries = list(latest[name].values())
        states = Counter(delivery.state for delivery in deliveries)
        if states.keys() == {State.DELIVERED}:
            settled = max(delivery.settled_at or 0.0 for delivery in deliveries)
            yield f"  {name:<{width}}  delivered {len(deliveries)}, the last {when(settled)}"
        else:
            yield f"  {name:<{width}}  " + ", ".join(f"{state} {states[state]}" for state in _ORDER if state in states)
        for (state, reason, warning), some in _grouped(deliveries, lambda d: (d.state, d.reason, d.warning)):
            if state is not State.DELIVERED or warning:
                yield f"    {len(some)} {_why(state, reason, some, now)}"
        before = [one for key, one in arrived.get(name, {}).items() if latest[name][key].state is not State.DELIVERED]
        if before:
            yield f"    {len(before)} delivered before, the last {when(max(one.settled_at or 0.0 for one in before))}"
        for instead_of, count in Counter(one.fallback_of for one in deliveries if one.fallback_of).items():
            yield f"    {count} in place of {instead_of}, which did not answer"
        if (name, study[0].study_instance_uid) in verified:
            yield f"    {verified[name, study[0].study_instance_uid]}"
        if name in held_up and states.keys() & {State.QUEUED, State.DEFERRED}:
            yield f"    waits for {held_up[name]}"


def _why(state: State, reason: str, some: Sequence[TraceDelivery], now: float) -> str:
    attempts = max(delivery.attempts for delivery in some)
    tried = f", {counted(attempts, 'attempt')}" if attempts else ""
    due = [delivery.next_attempt_at for delivery in some if delivery.next_attempt_at is not None]
    if state is State.DEFERRED and due:
        tried += f", next try in {age(min(due) - now)}"
    if state is State.QUEUED:
        tried += f", for {age(now - min(delivery.queued_at for delivery in some))}"
    shown = "delivered with a warning" if state is State.DELIVERED else state.value
    return f"{shown}{tried}" + (f": {printable(reason)}" if reason else "")


def _grouped(items: Sequence[T], key: Callable[[T], K]) -> list[tuple[K, list[T]]]:
    """Items by key, in the order the keys first appear."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())
