"""`relaypacs marked`: what wants a person's eye, by study and caller, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Final

from relaypacs.cli import say
from relaypacs.cli.tracing import folded
from relaypacs.jobs.marks import Mark
from relaypacs.jobs.store import JobStore

_MENDS: Final = {
    Mark.UNROUTED: "no rule matched, so it goes nowhere; add a [[rule]], then `relaypacs resend STUDY --to DEST`",
    Mark.CONFLICT: "other bytes came under the same SOP Instance UID, and both were kept; `relaypacs trace STUDY`",
    Mark.UNPARSED: "its head can't be read, so rules see little of it; `relaypacs trace` of it says why",
}


def marked(store: JobStore, marks: Collection[Mark], *, limit: int, as_json: bool) -> int:
    """The studies that bear one of `marks`, at most `limit` of each mark, the last received first."""
    found = [one for mark in Mark if mark in marks for one in store.marks.studies(mark, limit=limit)]
    if as_json:
        times = ("first_received_at", "last_received_at")
        say.out_json([asdict(one) | {name: say.iso(getattr(one, name)) for name in times} for one in found])
        return 0
    if not found:
        say.tell("Nothing wants a person's eye.")
        return 0
    say.out_table(
        ["mark", "study", "from", "instances", "last received"],
        [
            [
                one.mark,
                say.printable(one.study_instance_uid) or f"(no UID; instance {say.printable(one.sop_instance_uid)})",
                say.printable(one.calling_ae),
                str(one.instances),
                say.when(one.last_received_at),
            ]
            for one in found
        ],
    )
    present = [one.mark for one in found]
    for line in folded(f"{mark}: {_MENDS[mark]}" for mark in dict.fromkeys(present)):
        say.out(line)
    if any(present.count(mark) == limit for mark in Mark):
        say.tell(f"Only the last {limit} studies of a mark are shown; --limit shows more.")
    return 0
