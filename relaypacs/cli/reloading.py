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
from enum import Enum
from pathlib import Path

from relaypacs.cli import say
from relaypacs.config.files import digest, read

_LOOK_SECONDS = 0.1
_CHANGE_SECONDS = 30.0


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


class Answer(Enum):
    """What came of asking a node to read its configuration."""

    NOBODY = "no node runs here, or it reads another configuration"
    TAKEN = "it is in force"
    REFUSED = "the one before stays in force"
    SILENT = "no answer in time"


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
    return 0 if _ask(run_dir, place, running, timeout_seconds, aloud=True) is Answer.TAKEN else 1


def after_change(run_dir: Path, place: Path, *, aloud: bool = True) -> Answer:
    """The node that runs here, if there is one, takes what was written. Says what came of it if `aloud`."""
    running = [one for one in states(run_dir) if _reads(one, place)]
    if not running:
        if aloud:
            say.tell("The node reads it when it starts.")
        return Answer.NOBODY
    return _ask(run_dir, place, running, _CHANGE_SECONDS, aloud=aloud)


def _ask(run_dir: Path, place: Path, running: list[State], timeout_seconds: float, *, aloud: bool) -> Answer:
    """Refused if one of them (a node may run its roles apart) refuses."""
    for one in running:
        with suppress(PermissionError):  # another user's: it looks by itself within some seconds
            os.kill(one.pid, signal.SIGHUP)
    deadline = time.monotonic() + timeout_seconds
    answers = [_answer(run_dir, one, place, deadline, aloud=aloud) for one in running]
    return next((one for one in (Answer.REFUSED, Answer.SILENT) if one in answers), Answer.TAKEN)


def _reads(state: State, place: Path) -> bool:
    return Path(state.place).resolve() == place.resolve()


def _answer(run_dir: Path, before: State, place: Path, deadline: float, *, aloud: bool) -> Answer:
    word = f"The node ({before.role}) does not answer; look at its log."
    while time.monotonic() < deadline:
        now = next((one for one in states(run_dir) if one.pid == before.pid), None)
        if now is None:
            word = f"The node ({before.role}) has ended."
            break
        if now.looked > before.looked and (now.rejected or now.digest == digest(read(place))):
            if aloud:
                _tell(now)
            return Answer.REFUSED if now.rejected else Answer.TAKEN
        time.sleep(_LOOK_SECONDS)
    if aloud:
        say.tell(word)
    return Answer.SILENT


def _tell(state: State) -> None:
    """Say how it stands."""
    for problem in state.rejected:
        say.tell(f"relaypacs: {problem}")
    if state.rejected:
        say.tell(f"Refused: version {state.version} stays in force.")
        return
    say.out(f"Version {state.version} is in force.")
    if state.waiting:
        say.tell(f"Waiting for a restart of the node: {', '.join(state.waiting)}")
