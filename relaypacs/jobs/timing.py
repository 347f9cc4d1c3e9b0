"""How long the job table's transactions take: what `dialect.open_engines` adds to both engines.

Counted where they end, by the kind of engine; a process that is not part of a node counts into its own memory.
"""

from __future__ import annotations

import time

from prometheus_client import Histogram
from sqlalchemy import Connection, Engine, event

_SECONDS = Histogram(
    "relaypacs_job_table_transaction_seconds",
    "Time from a transaction's first statement to its commit or rollback.",
    ["kind"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_BEGUN = "relaypacs_begun"


def time_transactions(engine: Engine, kind: str) -> Engine:
    """Observe every transaction of `engine` as `kind` (read, write); returns the engine."""
    seconds = _SECONDS.labels(kind)

    @event.listens_for(engine, "begin")
    def _begins(connection: Connection) -> None:
        connection.info[_BEGUN] = time.perf_counter()

    @event.listens_for(engine, "commit")
    @event.listens_for(engine, "rollback")
    def _ends(connection: Connection) -> None:
        begun = connection.info.pop(_BEGUN, None)
        if begun is not None:
            seconds.observe(time.perf_counter() - begun)

    return engine
