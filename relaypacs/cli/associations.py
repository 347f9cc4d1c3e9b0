"""`relaypacs associations`: who asked for an association, what came of it, and what is to be done about it.

Refusals of one kind (the same titles, address and reason) are shown as one, whichever process refused and whenever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from relaypacs.cli import say
from relaypacs.config.model import Config
from relaypacs.dicom.contexts import storage_offer
from relaypacs.dicom.proposals import read_description
from relaypacs.jobs.associations import Asked, AssociationRow
from relaypacs.jobs.store import JobStore
from relaypacs.policy.association_advice import Seen, mend, name_of

_READ = 5000
"""Rows read at most before like ones are put together."""
_RESULTS = {
    0: "accepted",
    1: "refused: not for this caller",
    2: "refused: too many transfer syntaxes",
    3: "refused: SOP class not supported",
    4: "refused: none of the transfer syntaxes",
    None: "not answered",
}
"""PS3.8 table 9-18."""


def show(store: JobStore, config: Config, asked: Asked, *, limit: int, as_json: bool) -> int:
    """The latest associations that `asked` fits, at most `limit`; 1 if it names one that is not there."""
    rows = store.associations.find(asked, limit=_READ if asked.refused else limit)
    shown = _put_together(rows)[:limit]
    one = asked.association_id is not None
    if as_json:
        say.out_json({"associations": [_as_json(row, config) for row in shown]})
    else:
        for row in reversed(shown):
            for line in _lines(row, config, whole=one):
                say.out(line)
    if not shown and not as_json:
        say.tell("No such association." if one else "No association to show.")
    elif len(shown) == limit and not one and not as_json:
        say.tell(f"Only the latest {limit} are shown; --limit shows more, --caller and --since choose.")
    return 1 if one and not shown else 0


def host_of(peer: str) -> str:
    """The address in `host:port` or `[address]:port`."""
    return peer.rpartition(":")[0].strip("[]")


def sentence(row: AssociationRow, config: Config) -> str:
    """What is to be done about it, in one sentence; nothing where nothing is wrong."""
    seen = Seen(
        association_id=row.association_id,
        calling_ae=row.calling_ae,
        called_ae=row.called_ae,
        host=host_of(row.peer),
        outcome=row.outcome,
        word=row.word,
        reason=row.reason,
        tries=row.tries,
        contexts=read_description(row.contexts),
    )
    receive = config.receive
    offer = storage_offer(receive.transfer_syntaxes, receive.private_sop_classes, receive.max_transfer_syntaxes)
    return mend(seen, receive, config.caller, offer)


def _put_together(rows: Iterable[AssociationRow]) -> list[AssociationRow]:
    found: dict[tuple[str, ...], AssociationRow] = {}
    for row in rows:
        key: tuple[str, ...] = (row.association_id,)
        if row.outcome == "rejected":
            key = (row.calling_ae, row.called_ae, host_of(row.peer), row.word, row.reason)
        known = found.get(key)
        if known is None:
            found[key] = row
        else:
            began = min(known.started_at, row.started_at)
            contexts = known.contexts or row.contexts
            found[key] = replace(known, tries=known.tries + row.tries, started_at=began, contexts=contexts)
    return list(found.values())


def _lines(row: AssociationRow, config: Config, *, whole: bool) -> Iterator[str]:
    parts = [
        say.when(row.ended_at),
        row.association_id,
        f"{row.calling_ae or '?'} -> {row.called_ae or '?'}",
        f"from {row.peer or 'many addresses'}{' (TLS)' if row.tls else ''}",
    ]
    if row.outcome == "rejected":
        parts.append(f"rejected: {row.word}" + (f", {row.tries} tries" if row.tries > 1 else ""))
    else:
        took = max(0.0, row.ended_at - row.started_at)
        parts.append(f"{row.outcome}, {say.counted(row.objects, 'object')}, {row.bytes} bytes in {took:.1f} s")
    yield "  ".join(map(say.printable, parts))
    if advice := sentence(row, config):
        yield f"    {say.printable(advice)}"
    if whole:
        if row.reason:
            yield f"    reason: {say.printable(row.reason)}"
        if row.tries > 1:
            yield f"    first try: {say.when(row.started_at)}"
        for one in read_description(row.contexts):
            syntaxes = ", ".join(map(name_of, one.transfer_syntaxes))
            accepted = f" with {name_of(one.transfer_syntax)}" if one.transfer_syntax else ""
            line = f"{name_of(one.abstract_syntax)} ({syntaxes}): {_RESULTS.get(one.result, one.result)}{accepted}"
            yield f"    {say.printable(line)}"


def _as_json(row: AssociationRow, config: Config) -> dict[str, object]:
    return {
        "association_id": row.association_id,
        "node": row.node,
        "calling_ae": row.calling_ae,
        "called_ae": row.called_ae,
        "peer": row.peer,
        "tls": row.tls,
        "started_at": say.iso(row.started_at),
        "ended_at": say.iso(row.ended_at),
        "outcome": row.outcome,
        "word": row.word,
        "reason": row.reason,
        "tries": row.tries,
        "objects": row.objects,
        "bytes": row.bytes,
        "mend": sentence(row, config),
        "contexts": [
            {
                "abstract_syntax": one.abstract_syntax,
                "name": name_of(one.abstract_syntax),
                "transfer_syntaxes": list(one.transfer_syntaxes),
                "result": one.result,
                "transfer_syntax": one.transfer_syntax or None,
            }
            for one in read_description(row.contexts)
        ],
    }
