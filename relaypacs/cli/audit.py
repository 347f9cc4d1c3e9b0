"""`relaypacs audit`: the audit trail for people, and whether anybody changed it. That it was read is told in it."""

from __future__ import annotations

import sys

from relaypacs.cli import say
from relaypacs.cli.noted import note
from relaypacs.cli.tracing import folded
from relaypacs.config import Config
from relaypacs.jobs.audit_rows import AuditRow, Checked, Wanted
from relaypacs.jobs.store import JobStore


def show(store: JobStore, config: Config, wanted: Wanted, *, limit: int, as_json: bool) -> int:
    """The latest rows that `wanted` fits, at most `limit`, the latest last."""
    rows = store.audit.find(wanted, limit=limit)
    asked = {"user": wanted.actor, "study": wanted.study, "kinds": sorted(wanted.kinds), "since": say.iso(wanted.since)}
    body = {name: value for name, value in asked.items() if value} | {"rows": len(rows)}
    note(store, config, "audit", body)
    if as_json:
        say.out_json({"rows": [_as_json(row) for row in reversed(rows)]})
        return 0
    # A line each for grep and less; a terminal of people gets them folded.
    lines = map(_line, reversed(rows))
    for line in folded(lines) if sys.stdout.isatty() else lines:
        say.out(line)
    if not rows:
        say.tell("The audit trail holds no such row.")
    elif len(rows) == limit:
        say.tell(f"Only the latest {limit} are shown; --limit shows more, --since, --user, --study and --kind choose.")
    return 0


def check(store: JobStore, *, as_json: bool) -> int:
    """Compare every row with the chain; 1 if one was changed, or is missing."""
    found = store.audit.check()
    if as_json:
        say.out_json(
            {
                "rows": found.rows,
                "unchained": found.unchained,
                "broken_at": found.broken_at,
                "last": found.last,
                "head": found.head,
            }
        )
    else:
        say.out(_verdict(found))
    return 0 if found.broken_at is None else 1


def _verdict(found: Checked) -> str:
    if found.broken_at is not None:
        return (
            f"Row {found.broken_at} is not what it was, or one before it is missing; {found.rows} before it are as "
            "they were. See who can write to the job table, and compare with the collector or a backup."
        )
    older = f"; {found.unchained} from before there was a chain" if found.unchained else ""
    head = f" The last, {found.last}, has {found.head}." if found.head else ""
    return f"{say.counted(found.rows, 'row')} unchanged{older}.{head}"


def _line(row: AuditRow) -> str:
    entry = row.entry
    parts = [say.when(entry.at), str(row.id), entry.kind, entry.actor or "?"]
    if entry.node and entry.node != entry.actor:
        parts.append(f"on {entry.node}")
    if entry.outcome:
        parts.append(f"outcome {entry.outcome}")
    if entry.study:
        parts.append(f"study {entry.study}")
    body = dict(entry.body)
    if isinstance(classes := body.get("classes"), dict):
        body["classes"] = {_called(uid): count for uid, count in classes.items()}
    parts += [f"{name} {_said(value)}" for name, value in body.items() if value not in ("", None)]
    return "  ".join(say.printable(part) for part in parts)


def _called(uid: str) -> str:
    from relaypacs.policy.association_advice import name_of  # loads pydicom

    return name_of(uid)


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(one)}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _as_json(row: AuditRow) -> dict[str, object]:
    entry = row.entry
    return {
        "id": row.id,
        "at": say.iso(entry.at),
        "kind": entry.kind,
        "node": entry.node,
        "actor": entry.actor,
        "study": entry.study,
        "outcome": entry.outcome,
        "body": entry.body,
        "chain": row.chain,
    }
