"""`relaypacs doctor`: everything a node needs, looked at once, with the mend of what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from relaypacs import alive
from relaypacs.cli import examine_disk, examine_peers, say
from relaypacs.cli.finding import Finding, Grade

if TYPE_CHECKING:
    from relaypacs.config import Config

_COLOURS = {Grade.GOOD: "32", Grade.NOTE: "36", Grade.WARNING: "33", Grade.FAILED: "31"}
_EXIT = {Grade.FAILED: 1}


def doctor(config: Config, *, as_json: bool) -> int:
    """Look at everything and say it as it is found; 1 if something does not work, else 0."""
    running = alive.is_held(config.run_dir / "alive" / "relay")
    rooms: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("disks", lambda: examine_disk.disks(config)),
        ("machine", lambda: examine_disk.machine(config)),
        ("ports", lambda: examine_disk.ports(config, running=running)),
        ("certificate", lambda: examine_peers.certificates(config)),
        ("job table", lambda: examine_peers.job_table(config, ran_before=running)),
        ("redis", lambda: examine_peers.redis(config)),
        ("staging", lambda: examine_peers.staging(config)),
        ("secrets", lambda: examine_peers.secret_files(os.environ)),
        ("audit", lambda: examine_peers.audit(config)),
        ("destinations", lambda: examine_peers.destinations(config, os.environ)),
    )
    found = []
    for name, room in rooms:
        for finding in _guarded(name, room):
            found.append(finding)
            if not as_json:
                _show(finding)
    count = {grade: sum(one.grade is grade for one in found) for grade in Grade}
    if as_json:
        say.out_json(
            {
                "running": running,
                "findings": [
                    {"what": one.what, "grade": one.grade, "sentence": one.sentence, "mend": one.mend} for one in found
                ],
                **{str(grade): number for grade, number in count.items()},
            }
        )
    else:
        node = "The node runs." if running else "The node does not run."
        warnings = say.counted(count[Grade.WARNING], "warning")
        say.out(f"{node} {count[Grade.GOOD]} good, {warnings}, {count[Grade.FAILED]} failed.")
    return max((_EXIT.get(one.grade, 0) for one in found), default=0)


def _guarded(name: str, room: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """One room that can't be looked at does not hide the others."""
    try:
        yield from room()
    except OSError as problem:
        said = problem.strerror or type(problem).__name__
        yield Finding(name, Grade.FAILED, f"it could not be looked at: {said}", "run this as the user of the node")


def _show(finding: Finding) -> None:
    mark = f"{finding.grade:<8}"
    if sys.stdout.isatty():
        mark = f"\x1b[{_COLOURS[finding.grade]}m{mark}\x1b[0m"
    say.out(f"{mark}{say.printable(finding.what)}: {say.printable(finding.sentence)}")
    if finding.mend and finding.grade is not Grade.GOOD:
        say.out(f"        -> {say.printable(finding.mend)}")
