"""A node with destinations, on SQLite or PostgreSQL, that can be told where to die or to stop.

The node keeps small segments and stages at once, so that a few hundred small objects pass every room. Everything lives
in `folder`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs.postgres import Postgres
from tests.crash.harness.destinations import Destinations, digest_of
from tests.crash.harness.points import Point
from tests.crash.harness.second import Partner, SecondWorker
from tests.crash.harness.watch import Watch
from tests.peers.node import Node
from tests.peers.ports import wait_until
from tests.peers.redis import RedisServer
from tests.peers.seaweed import BUCKET, SeaweedFS

PART_BYTES = 5 << 20
LONG_EVERY = 40
"""With a bucket every so many-th image is put in parts."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How the node of a rig is set up. `keep` is `[staging] keep`, `rows` `[jobs] keep`.

    `server`: its job table is a database there; `bucket`: its staging, and the sender RAWSENDER waits for it;
    `redis`: limits and wake-ups. `away`: a destination does not answer, and what waits for it goes to another.
    `second`: another node, or beside its relay process another one, takes over what it doesn't do (PostgreSQL).
    """

    keep: str = "7d"
    rows: str = "365d"
    server: Postgres | None = None
    bucket: SeaweedFS | None = None
    redis: RedisServer | None = None
    orthanc: bool = False
    away: bool = False
    second: bool = False
    lease_seconds: float = 120.0

    def __str__(self) -> str:
        words = ["PostgreSQL" if self.server else "SQLite", f"keep {self.keep}"]
        words += ["a bucket"] * (self.bucket is not None) + ["Redis"] * (self.redis is not None)
        words += ["rows forgotten"] * (self.rows == "none") + ["Orthanc"] * self.orthanc
        words += ["a destination away"] * self.away
        partner = "another node" if self.bucket else "a second relay"
        return ", ".join(words + [partner] * self.second)


class Rig:
    """Context manager. `package` is a folder to load `relaypacs` from instead."""

    def __init__(self, folder: Path, setting: Setting, *, package: Path | None = None) -> None:
        self.setting = setting
        self.server = setting.server
        self.kills = 0
        self._order = folder / "order"
        self._reached = folder / "order.reached"
        self._peers = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self.destinations = Destinations(folder, orthanc=setting.orthanc, away=setting.away)
        environment = {"RELAYPACS_FAILPOINT": f"@{self._order}"} | ({"PYTHONPATH": str(package)} if package else {})
        name = f"life_{random.getrandbits(40):x}"
        self.url = f"sqlite:///{folder}/node/state/jobs.sqlite"
        if setting.server is not None:
            self.url = setting.server.create_database(name)
        staging: dict[str, Any] = {"keep": setting.keep, "hot_seconds": 0.0}
        # What is sent again to one that is away would wait there: it went to the fallback, once.
        callers = [{"ae_title": "*", "resend": "suppress" if setting.away else "requeue"}]
        self._prefix = f"{name}/"
        if setting.bucket is not None:
            environment |= setting.bucket.environment()
            staging |= setting.bucket.section(prefix=name, part_bytes=PART_BYTES)
            callers.insert(0, {"ae_title": "RAWSENDER", "ack": "staged"})
        if setting.redis is not None:
            environment["REDIS_URL"] = setting.redis.url
        sections: dict[str, dict[str, Any]] = {
            "spool": {"min_free_bytes": 64 << 20, "segment_bytes": 1 << 20, "recycle_segments": 4},
            "staging": staging,
            "jobs": {"keep": setting.rows, "lease_seconds": setting.lease_seconds, "standby_lag_seconds": 0},
            "receive": {"grace_seconds": 3.0},
            "routing": {"study_quiet_seconds": 1.0},  # rows are not forgotten before the audit trail has told of them
        }

        def node(name: str) -> Node:
            own = {"DATABASE_URL": f"{self.url}?application_name={name}"} if setting.server else {}
            return Node(
                folder / name,
                destinations=self.destinations.tables(),
                rules=[{"name": "everything", "to": self.destinations.wanted()}],
                callers=callers,
                sections=sections | {"node": {"name": name}},
                environment=environment | own,
            )

        self.node = node("node")
        self.jobs = JobStore.open(self.url)
        self.partner: Partner | None = None
        self.watch: Watch | None = None
        if setting.second and setting.bucket is not None:
            self.partner = node("partner")
        elif setting.second:
            environment["DATABASE_URL"] = f"{self.url}?application_name=partner"
            self.partner = SecondWorker(self.node.config_path, folder / "partner.log", environment)

    def __enter__(self) -> Rig:
        with self._peers as peers:
            peers.callback(self.jobs.close)
            peers.enter_context(self.destinations)
            peers.enter_context(self.node)
            if self.partner is not None:
                self.watch = Watch(self.url)
                peers.callback(self.watch.close)
                peers.enter_context(self.partner)
            self._peers = peers.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._peers.close()

    def arm(self, point: Point, passage: int, *, stop: bool = False) -> None:
        """From now on the process dies (or stops) that first passes the point for the `passage`-th time."""
        self._reached.unlink(missing_ok=True)
        draft = self._order.with_suffix(".draft")
        draft.write_text(f"{point.name}:{passage}{':stop' if stop else ''}")
        draft.rename(self._order)

    def disarm(self) -> None:
        """Nobody dies any more."""
        self._order.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)

    def reached(self) -> bool:
        """Whether somebody has died or stopped since `arm`."""
        return self._reached.exists()

    def kill_all(self) -> None:
        """`kill -9` of every process of the node at once, and start it again."""
        self.kills += 1
        self.node.kill()
        self.node.start(30)

    def kill_random(self, chance: random.Random) -> str:
        """`kill -9` of a random process, or of all at once; have the node running again. Returns what was killed."""
        pids = self.node.pids()
        victim = chance.randrange(len(pids) + 1)
        if victim == len(pids):
            self.kill_all()
            return "all"
        self.kills += 1
        self.node.kill(pids[victim])
        if victim > 0:
            return "child"
        # Its children see it die and end by themselves; the new node waits for the spool's lock until they have.
        wait_until(lambda: self.node.program.exit_code is not None, "supervisor's end", 10)
        self.node.start(60)
        return "supervisor"

    def stopped(self) -> int:
        """The process that stopped at its point; returns once the kernel says so."""
        found: list[int] = []

        def seen() -> bool:
            pids = self.node.pids() + (self.partner.pids() if self.partner else [])
            found[:] = [pid for pid in pids if psutil.Process(pid).status() == psutil.STATUS_STOPPED]
            return bool(found)

        wait_until(seen, "a stopped process", 10, every_seconds=0.005)
        return found[0]

    def go_on(self, pid: int) -> None:
        """SIGCONT."""
        os.kill(pid, signal.SIGCONT)

    def crash_server(self, down_seconds: float) -> None:
        """Stop PostgreSQL as `pg_ctl stop -m immediate` does, and start it again after a while."""
        assert self.server is not None
        self.kills += 1
        self.server.crash()
        time.sleep(down_seconds)
        self.server.start()

    def lose_redis(self, down_seconds: float) -> None:
        """`kill -9` of Redis, which comes back empty after a while."""
        assert self.setting.redis is not None
        self.setting.redis.kill()
        time.sleep(down_seconds)
        self.setting.redis.start()

    def leases_ended(self) -> int:
        """Deliveries that were in flight at a death of the relay process, as the node says of each of its lives."""
        words = [str(event["message"]).split() for event in self.node.events("leases-ended")]
        return sum(int(first) for first, *_ in words)

    def leases_lost(self) -> int:
        """Outcomes that came too late for their lease and had no effect."""
        lost = self.node.events("leases-lost") + (self.partner.events("leases-lost") if self.partner else [])
        return sum(int(event["deliveries"]) for event in lost)

    def wait_quiet(self, acknowledged: int, study: str | None, seconds: float) -> bool:
        """Wait until everything acknowledged of the study is in the job table and nothing is pending; whether it is.

        What was received twice counts once: of a killed receive process the last record may wait for the next scan.
        """

        def quiet() -> bool:
            try:
                book = self.jobs.ledger(study=study)
                if book.received - book.duplicates < acknowledged:
                    return False
                whole = self.jobs.ledger()
            except JobsError:
                return False
            return whole.pending == 0 and whole.imbalance == 0

        try:
            wait_until(quiet, "quiet", seconds, every_seconds=0.02)
        except TimeoutError:
            return False
        return True

    def segments(self) -> int:
        """Segments that hold something."""
        return len(list((self.node.state_dir / "spool" / "segments").glob("*.tar")))

    def staged_keys(self) -> list[str]:
        """What is in staging: paths, or keys of the bucket."""
        if self.setting.bucket is not None:
            return [key for key in self.setting.bucket.objects() if key.startswith(self._prefix)]
        # Unlike a glob a walk passes over a folder that is deleted meanwhile.
        staging = os.walk(self.node.state_dir / "staging")
        return [os.path.join(folder, name) for folder, _, names in staging for name in names if name.endswith(".dcm")]

    def staged(self) -> dict[str, str]:
        """SHA-256 of the dataset of each object in staging, by its key; without what is purged meanwhile."""
        found: dict[str, str] = {}
        client = self.setting.bucket.client() if self.setting.bucket else None
        for key in self.staged_keys():
            if client is not None:
                found[key] = digest_of(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
                continue
            with suppress(FileNotFoundError):
                found[key] = digest_of(Path(key).read_bytes())
        return found
