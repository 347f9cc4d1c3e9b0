"""`relaypacs config reload`: have the node that runs here read its configuration, and say what came of it.

Commands that have changed the files call `after_change`. What the node tells of itself is in `run/config/*.json`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relaypacs.cli import say
from relaypacs.config.files import digest, read

_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class State:
    """How the configuration of a running node (or one role of it) stands, as its supervisor tells."""

    role: str
    pid: int
    place: str
    version: int
    digest: str
    looked: int
    rejected: tuple[str, ...]
    waiting: tuple[str, ...]


def states(run_dir: Path) -> list[State]:
    """Of every supervisor that lives."""
    from relaypacs.node.reload import started

    found = []
    with suppress(OSError):
        for file in sorted((run_dir / "config").glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                told = json.loads(file.read_text(encoding="utf-8"))
                told |= {"role": file.stem, "rejected": tuple(told["rejected"]), "waiting": tuple(told["waiting"])}
                if started(told["pid"]) == told.pop("started") != 0:
                    found.append(State(**told))
    return found


def reload(run_dir: Path, place: Path, *, timeout_seconds: float) -> int:
    """Signal it and wait; 0 if what `place` holds is in force, 1 if it was refused or there is no answer."""
    running = states(run_dir)
    if not running:
        say.tell("No node runs here; it reads its configuration when it starts.")
        return 1
    others = sorted({one.place for one in running if not _reads(one, place)})
    if others:
        say.tell(f"The node here reads {', '.join(others)}, not {place}: give that with --config.")
        return 1
    for one in running:
        os.kill(one.pid, signal.SIGHUP)
    return max(_result(run_dir, one, place, time.monotonic() + timeout_seconds) for one in running)


def _reads(state: State, place: Path) -> bool:
    return Path(state.place).resolve() == place.resolve()


def _result(run_dir: Path, before: State, place: Path, deadline: float) -> int:
    now: State | None = before
    while time.monotonic() < deadline:
        now = next((one for one in states(run_dir) if one.pid == before.pid), None)
        if now is None:
            say.tell(f"The node ({before.role}) has ended.")
            return 1
        if now.looked > before.looked and (now.rejected or now.digest == digest(read(place))):
            return tell(now)
        time.sleep(_LOOK_SECONDS)
    say.tell(f"The node ({before.role}) does not answer; look at its log.")
    return 1


def tell(state: State) -> int:
    """Say how it stands; 1 if the files are refused."""
    for problem in state.rejected:
        say.tell(f"relaypacs: {problem}")
    if state.rejected:
        say.tell(f"Refused: version {state.version} stays in force.")
        return 1
    say.out(f"Version {state.version} is in force.")
    if state.waiting:
        say.tell(f"Waiting for a restart of the node: {', '.join(state.waiting)}")
    return 0


def after_change(run_dir: Path, place: Path) -> int:
    """The node that runs here, if there is one, takes what was written; 1 if it refuses."""
    if not any(_reads(one, place) for one in states(run_dir)):
        say.tell("The node reads it when it starts.")
        return 0
    try:
        return reload(run_dir, place, timeout_seconds=30)
    except PermissionError:
        say.tell("The node that runs here is another user's: it reads it within some seconds; look at its log.")
        return 0
