"""The job table as the sidecar sees it: opened when first asked for, read seldom, never waited for long.

`checks` and `metrics` ask. A database that is down, slow or absent is an error here and nothing worse; the next
question opens it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relaypacs.config import Config
from relaypacs.errors import JobsError
from relaypacs.jobs.marks import Mark
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Ledger, QueueRow
from relaypacs.model import Checkpoint
from relaypacs.sidecar.backlog import Backlog, look
from relaypacs.sidecar.probe import NoAnswer, Probe

READING_FRESH_SECONDS = 5.0
"""How long counts are given again: they cost a pass over an index, and scrapes come every 15 s."""
READING_DEADLINE_SECONDS = 3.0
"""How long a scrape waits for them; Prometheus' default scrape timeout is 10 s."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counts of one moment."""

    queue: Sequence[QueueRow]
    ledger: Ledger
    marked: Mapping[Mark, int]
    spool: Backlog


class JobTable:
    """Opens `config.jobs_url` lazily; safe to use from several threads."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._store: JobStore | None = None
        self._reading: Probe[Reading] = Probe(
            self._read, deadline_seconds=READING_DEADLINE_SECONDS, fresh_seconds=READING_FRESH_SECONDS
        )
        self._read_to: Mapping[str, Checkpoint] = {}

    def ping(self) -> None:
        """Return if the job table answers; JobsError with a sentence if not."""
        self._open().ping()

    def reading(self) -> Reading:
        """Counts at most `READING_FRESH_SECONDS` old; JobsError if there are none to be had in time."""
        try:
            return self._reading.answer()
        except NoAnswer as late:
            raise JobsError(str(late)) from late

    def spool(self) -> Backlog:
        """The spool now, by what the job table last said: for when it doesn't answer."""
        return look(self._config.spool_dir, self._read_to, time.time())

    def close(self) -> None:
        """Close the job table if it is open."""
        with self._lock:
            if self._store:
                self._store.close()
                self._store = None

    def _read(self) -> Reading:
        store = self._open()
        self._read_to = store.checkpoints(self._config.node.name)
        return Reading(
            queue=store.queue(time.time()), ledger=store.ledger(), marked=store.marks.counts(), spool=self.spool()
        )

    def _open(self) -> JobStore:
        with self._lock:
            file = self._config.jobs_file
            if file is not None and not file.exists():
                if self._store is not None:  # the relay process goes on writing to it, until it ends
                    raise JobsError(f"{file} is gone: put it back from /proc/PID/fd of the relay process, or a backup")
                raise JobsError("there is no job table yet; the relay process makes it")
            if self._store is None:
                store = JobStore.open(self._config.jobs_url, identifiers=self._config.node.identifiers)
                try:
                    store.check_schema()
                except BaseException:
                    store.close()
                    raise
                self._store = store
            return self._store
