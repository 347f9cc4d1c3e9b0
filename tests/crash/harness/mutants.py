"""RelayPACS with one promise broken, each time: the suite must say so. `python -m tests.crash.harness.mutants [NAME …]`

A mutant is a change to the text of a few modules in a copy of the package; the node of the rig runs the copy.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import relaypacs
from tests.contract.test_jobs.postgres import Postgres, debian_binaries
from tests.crash.harness.plan import PAUSE_LEASE_SECONDS
from tests.crash.harness.points import BY_NAME
from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Kind, Run, live
from tests.crash.harness.verdict import Totals

ATTEMPTS = 8
"""Runs, at most, until a mutant is found out: whether it shows depends on what was in flight."""


class Edit(NamedTuple):
    """In `module` (below `relaypacs`), `old` becomes `new`."""

    module: str
    old: str
    new: str


class Mutant(NamedTuple):
    """`run` is the point (or kind of run) that shows what is broken; `shown_by` the counters of which one must then
    not be 0."""

    run: str
    shown_by: tuple[str, ...]
    edits: tuple[Edit, ...]


_COMMITTED = """\
        size = self._commit(sink)
        reach("lane.committed")
        try:
            self._answer(context_id, request, sink.answer or _UNEXPECTED, received_at)
"""
_ANSWERED_FIRST = """\
        self._answer(context_id, request, sink.answer or _STORED, received_at)
        try:
            size = self._commit(sink)
"""
_TAKE_IN = "        return self._leases.taken_in(write, at_once or AtOnce({}, 0.0), node, now)\n"
_CHECKPOINT = """\
        with self._writing() as connection:
            intake.upsert(
                connection,
                intake.checkpoint,
                [{"node": node} | {name: getattr(one, name) for name in one.__slots__} for one in checkpoints],
                replace=("end", "number", "chain"),
            )
"""
_READ_TO = "    read_to = _read_to(connection, node, {one.generation for one in checkpoints})\n"
_CHECKPOINT_OF_ROWS = "            for one in checkpoints\n"
_POST = "                    answer = self._post(group)\n"
_ANSWERED = "        claim, started = flying.pop(message_id)\n"
_PENDING = "        pending = list(batch)\n"
_REQUESTS = "        while requests and proceed(requests[0], self._peer.close):\n"
_REPORTED = """\
        for claim in batch:
            report(claim, Delivered(), 0.0, 0.0)
"""
_LISTED = "self._settle([claim for claim, _ in group], answer, told)"
_NEEDED = """\
                and not self._jobs.segment_needed(
                    self._node, generation, self._keeps(generation), end=self._intake.taken_in(generation)
                )
"""
_KEYS = "            keys = list(self._put_in_turn(chosen, problems))\n"
_COPIED = '                reach("sweep.copied")\n'
_STAGED_FIRST = """\
            self._jobs.staged([(row.instance_id, key) for row, key in chosen], self._clock())
            reach("sweep.copied")
"""
_FENCE = "if tokens.get(one.claim.delivery_id) != (one.claim.token, one.claim.lease):"
_GROUPS = "groups = message_groups(association.accepted[pair], command, dataset, association.peer_max_pdu_bytes)"

MUTANTS = {
    "Success before the commit": Mutant(
        "append.commit", ("lost",), (Edit("receive/lane.py", _COMMITTED, _ANSWERED_FIRST),)
    ),
    "checkpoint committed before the rows": Mutant(
        "jobs.mid-take-in",
        ("lost",),
        (
            Edit("jobs/intake.py", _READ_TO, "    read_to: dict[str, int] = {}\n"),
            Edit("jobs/store.py", _TAKE_IN, _CHECKPOINT + _TAKE_IN),
        ),
    ),
    "rows committed before the checkpoint": Mutant(
        "jobs.checkpoint",
        ("imbalance",),
        (
            Edit("jobs/intake.py", _READ_TO, "    read_to: dict[str, int] = {}\n"),
            Edit("jobs/intake.py", '    reach("jobs.checkpoint")\n', ""),
            Edit("jobs/intake.py", _CHECKPOINT_OF_ROWS, "            for one in checkpoints[:0]\n"),
            Edit(
                "jobs/store.py",
                _TAKE_IN,
                _TAKE_IN.replace("return", "taken =")
                + '        reach("jobs.checkpoint")\n'
                + _CHECKPOINT
                + "        return taken\n",
            ),
        ),
    ),
    "settled before the answer": Mutant(
        "forward.sent",
        ("lost",),
        (
            Edit(
                "forward/cstore.py",
                _PENDING,
                _PENDING + "        for claim in batch:\n            report(claim, store_outcome(0), 0.0, 0.0)\n",
            ),
            Edit("forward/cstore.py", _ANSWERED, "        flying.pop(message_id)\n        return\n"),
        ),
    ),
    "freed before it is taken in": Mutant(
        "intake.read",
        ("lost", "faults"),
        (
            Edit("sweep.py", "self._intake.finished(generation)\n                and not self._jobs", "not self._jobs"),
            # The sweep would seldom be faster.
            Edit("intake/reading.py", "GATHER_SECONDS = 0.005\n", "GATHER_SECONDS = 0.4\n"),
        ),
    ),
    "freed while it is owed": Mutant("forward.claimed", ("lost", "faults"), (Edit("sweep.py", _NEEDED, ""),)),
    "staged is said before it is copied": Mutant(
        "sweep.copied",
        ("lost", "faults"),
        (Edit("stager.py", _COPIED, ""), Edit("stager.py", _KEYS, _STAGED_FIRST + _KEYS)),
    ),
    "settled before the STOW-RS response": Mutant(
        "stow.sent",
        ("lost",),
        (
            Edit("forward/stow.py", _REQUESTS, _REPORTED + _REQUESTS),
            Edit("forward/stow.py", _LISTED, "None, []  # type: ignore[assignment, var-annotated]"),
        ),
    ),
    "leases outlive the process": Mutant(
        "forward.claimed",
        ("faults",),
        (Edit("jobs/nodes.py", "leases_ended=end_leases(connection, name)", "leases_ended=0"),),
    ),
    "the token is not looked at": Mutant(
        "pause",
        ("stale",),
        (Edit("jobs/delivery.py", _FENCE, "if one.claim.delivery_id not in tokens:"),),
    ),
    "every object sent twice": Mutant("forward.settled", ("faults",), (Edit("forward/stow.py", _POST, _POST + _POST),)),
    "the last bytes not sent": Mutant(
        "forward.sent",
        ("partial",),
        (
            Edit("forward/lane.py", _GROUPS, _GROUPS.replace("dataset,", "dataset[:-2],")),
            Edit("forward/lane.py", "groups if crc32c is None else checked(groups, dataset, crc32c)", "groups"),
        ),
    ),
}


def copy_with(edits: Sequence[Edit], folder: Path) -> Path:
    """A copy of the package below `folder` with the edits made; AssertionError if a text isn't there exactly once."""
    copy = folder / "relaypacs"
    shutil.copytree(Path(relaypacs.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in edits:
        module = copy / edit.module
        text = module.read_text()
        assert text.count(edit.old) == 1, f"{edit.module} has changed: the mutant must follow"
        module.write_text(text.replace(edit.old, edit.new))
    return folder


def found_out(name: str, folder: Path, seed: int, server: Postgres | None) -> Totals | None:
    """Kill the mutant until the suite finds what is broken; what it found, or None if it found nothing."""
    mutant = MUTANTS[name]
    package = copy_with(mutant.edits, folder / "package")
    run: Run = Kind(mutant.run) if mutant.run in set(Kind) else BY_NAME[mutant.run]
    setting = Setting(getattr(run, "keep", "") or "7d")
    if run is Kind.PAUSE:
        setting = Setting("none", server=server, second=True, lease_seconds=PAUSE_LEASE_SECONDS)
    chance = random.Random(seed)
    totals = Totals()
    for number in range(ATTEMPTS):
        live(folder / f"life-{number}", setting, [run] * 2, chance, totals, package=package)
        if any(getattr(totals, counter) for counter in mutant.shown_by):
            return totals
    return None


def main(names: Sequence[str]) -> int:
    """Try the named mutants, or all; 0 when every one was found out."""
    missed = []
    binaries = debian_binaries()
    assert binaries is not None, "needs Debian's package postgresql"
    with Postgres(binaries) as server:
        for name in names or MUTANTS:
            with tempfile.TemporaryDirectory(prefix="relaypacs-crash-") as folder:
                totals = found_out(name, Path(folder), random.randrange(1 << 30), server)
            print(f"{name}: {totals.line() if totals else 'NOT FOUND OUT'}", flush=True)
            missed += [] if totals else [name]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
