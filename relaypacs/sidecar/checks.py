"""What `/readyz` asks, and how each answer reads.

A node is ready when it can take objects in and relay them: processes serving, spool and staging writable, job table
there. Destinations are shown but never make it unready: keeping what they owe is the node's purpose. Reasons name no
secret and no patient.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from relaypacs import alive
from relaypacs.config import Config
from relaypacs.errors import JobsError
from relaypacs.model import State
from relaypacs.sidecar.app import Check
from relaypacs.sidecar.jobtable import JobTable
from relaypacs.sidecar.probe import NoAnswer, Probe
from relaypacs.spool.reader import CORRUPT_SUFFIX
from relaypacs.spool.segment import FREE, QUARANTINE, RETIRED_SUFFIX, SEGMENTS, SUFFIX

ANSWER_SECONDS = 1.5
"""How long a process of the node may take to say that it is there; less than `app.CHECK_DEADLINE_SECONDS`."""
_REDIS_SECONDS, _REDIS_FRESH_SECONDS = 1.5, 2.0
"""A hanging Redis is told before `app.CHECK_DEADLINE_SECONDS`, when it would count as needed."""


def process_names(config: Config) -> list[str]:
    """The names under `<run_dir>/alive` that this configuration's processes hold while they serve."""
    return [*(f"receive-{slot}" for slot in range(config.receive.processes)), "relay", "intake"]


def checks_of(config: Config, jobs: JobTable) -> dict[str, Callable[[], Check]]:
    """The checks of a node, by the name they are shown under."""
    checks: dict[str, Callable[[], Check]] = {
        "receive": partial(_receive, config),
        "relay": partial(_serving, config.run_dir, "relay", "forwarding", "the relay process is not serving"),
        "intake": partial(_serving, config.run_dir, "intake", "taking in", "intake has not finished recovery"),
        "spool": partial(_spool, config),
        "job_table": partial(_job_table, jobs),
        "staging": partial(_staging, config),
    }
    for destination in config.destination:
        checks[f"destination/{destination.name}"] = partial(_destination, jobs, destination.name)
    if config.redis.configured:
        checks["redis"] = partial(_redis, redis_probe(config))
    return checks


def redis_probe(config: Config) -> Probe[str]:
    """Asks the configured Redis; its answer is what is wrong with it, or nothing."""
    from relaypacs.wake.link import probe  # a node without Redis does not load its client

    return Probe(partial(probe, config.redis), deadline_seconds=_REDIS_SECONDS, fresh_seconds=_REDIS_FRESH_SECONDS)


def free_bytes(folder: Path) -> int:
    """Bytes an unprivileged process may still write to the file system of `folder`. OSError if it is not there."""
    about = os.statvfs(folder)
    return about.f_bavail * about.f_frsize


def spool_files(folder: Path) -> dict[str, int]:
    """How many segments are in use, free for reuse, in quarantine; and of those in use, retired and damaged."""
    places = {"segments": (SEGMENTS, SUFFIX), "free": (FREE, SUFFIX), "quarantine": (QUARANTINE, SUFFIX)}
    places |= {"retired": (SEGMENTS, RETIRED_SUFFIX), "damaged": (SEGMENTS, CORRUPT_SUFFIX)}
    return {name: _count(folder / place, suffix) for name, (place, suffix) in places.items()}


def _count(folder: Path, suffix: str) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.name.endswith(suffix) for entry in entries)
    except FileNotFoundError:
        return 0


def _receive(config: Config) -> Check:
    if config.draining_file.exists():
        return Check(False, "the node is being drained and refuses associations; `relaypacs node drain --cancel`")
    count = config.receive.processes
    places = [config.run_dir / "alive" / f"receive-{slot}" for slot in range(count)]
    serving = sum(used is not None for used in alive.ask(places, wait_seconds=ANSWER_SECONDS).values())
    # They share one listener: with one of them associations are still accepted.
    return Check(serving > 0, f"{serving} of {count} processes accepting associations")


def _serving(run_dir: Path, name: str, good: str, bad: str) -> Check:
    place = run_dir / "alive" / name
    if alive.ask([place], wait_seconds=ANSWER_SECONDS)[place] is not None:
        return Check(True, good)
    return Check(False, f"{name} is stopped or hangs: it does not answer" if alive.is_held(place) else bad)


def _writable(folder: Path) -> str:
    """Why nothing can be written to `folder`, or nothing."""
    if not folder.is_dir():
        return f"{folder} is not there"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} can't be written to; look at its owner, its mode and whether its file system is read-only"
    return ""


def _spool(config: Config) -> Check:
    for folder in (config.spool_dir, *(config.spool_dir / name for name in (SEGMENTS, FREE, QUARANTINE))):
        if trouble := _writable(folder):
            return Check(False, trouble)
    free, mark = free_bytes(config.spool_dir), config.spool.min_free_bytes
    if free < mark:
        return Check(False, f"{_size(free)} free, objects are refused below {_size(mark)}; make room")
    found = spool_files(config.spool_dir)
    if found["retired"]:
        return Check(False, f"retired segments: {found['retired']}; a write or sync failed, look at the disk")
    damaged = found["damaged"] + found["quarantine"]
    return Check(True, f"{_size(free)} free" + (f"; damaged segments: {damaged}, see the log" if damaged else ""))


def _staging(config: Config) -> Check:
    if config.staging.kind == "s3":
        # While it is down the spool takes objects in and hot deliveries go on, so the node stays ready.
        try:
            return Check(False, config.staging_trouble_file.read_text(encoding="utf-8"), needed=False)
        except FileNotFoundError:
            return Check(True, f"bucket {config.staging.bucket}", needed=False)
    if trouble := _writable(config.staging_dir):
        return Check(False, trouble)
    return Check(True, f"{_size(free_bytes(config.staging_dir))} free")


def _job_table(jobs: JobTable) -> Check:
    try:
        jobs.ping()
    except JobsError as error:
        return Check(False, str(error))
    return Check(True, "answers")


def _redis(asked: Probe[str]) -> Check:
    try:
        trouble = asked.answer()
    except NoAnswer as late:
        trouble = str(late)
    if trouble:
        return Check(False, f"{trouble}; degraded: each node keeps to its part of shared limits", needed=False)
    return Check(True, "does what is asked", needed=False)


def _destination(jobs: JobTable, name: str) -> Check:
    try:
        rows = [row for row in jobs.reading().queue if row.destination == name]
    except JobsError:
        return Check(False, "unknown while the job table does not answer", needed=False)
    if not rows:
        return Check(True, "nothing waits", needed=False)
    counts = rows[0].counts
    waiting = sum(counts.get(state, 0) for state in (State.QUEUED, State.ACTIVE, State.DEFERRED))
    deferred, failed = counts.get(State.DEFERRED, 0), counts.get(State.FAILED, 0)
    return Check(deferred == 0, f"{waiting} waiting, {deferred} of them deferred, {failed} failed", needed=False)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
