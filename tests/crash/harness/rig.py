"""A node with two destinations, `dcmtk` (storescp +B) and `recorder`, that can be told where to die.

The node keeps small segments and stages at once, so that a few hundred small objects pass every room. Everything lives
in `folder`.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

from relaypacs.jobs.store import JobStore
from tests.crash.harness.points import Point
from tests.crash.harness.recorder import Recorder
from tests.peers.dcmtk import StoreScp
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until

ANSWER_SECONDS = 0.004
_SETTINGS = {"retry": "1000x1s", "associations": 2, "idle_seconds": 0.1}


class Rig:
    """Context manager. `keep` is the node's `[staging] keep`; `package` a folder to load `relaypacs` from instead."""

    def __init__(self, folder: Path, *, keep: str, package: Path | None = None) -> None:
        self.keep = keep
        self.kills = 0
        self._order = folder / "order"
        self._reached = folder / "order.reached"
        self._peers = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        self.scp = StoreScp(folder / "dcmtk")
        self.recorder = Recorder(delay_seconds=ANSWER_SECONDS)
        self.node = Node(
            folder / "node",
            destinations=[
                dimse("dcmtk", self.scp.port, self.scp.aet, **_SETTINGS),
                dimse("recorder", self.recorder.port, self.recorder.aet, **_SETTINGS),
            ],
            sections={
                "spool": {"min_free_bytes": 64 << 20, "segment_bytes": 1 << 20, "recycle_segments": 4},
                "staging": {"keep": keep, "hot_seconds": 0.0},
                "receive": {"grace_seconds": 3.0},
            },
            environment={"RELAYPACS_FAILPOINT": f"@{self._order}"} | ({"PYTHONPATH": str(package)} if package else {}),
        )
        self.jobs = JobStore.open(f"sqlite:///{self.node.state_dir}/jobs.sqlite")

    def __enter__(self) -> Rig:
        with self._peers as peers:
            for peer in (self.scp, self.recorder, self.node):
                peers.enter_context(peer)
            self._peers = peers.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._peers.close()
        self.jobs.close()

    def arm(self, point: Point, passage: int) -> None:
        """From now on the process dies that first passes the point for the `passage`-th time."""
        self._reached.unlink(missing_ok=True)
        draft = self._order.with_suffix(".draft")
        draft.write_text(f"{point.name}:{passage}")
        draft.rename(self._order)

    def disarm(self) -> None:
        """Nobody dies any more."""
        self._order.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)

    def reached(self) -> bool:
        """Whether somebody has died since `arm`."""
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

    def leases_ended(self) -> int:
        """Deliveries that were in flight at a death of the relay process, as the node says of each of its lives."""
        words = [str(event["message"]).split() for event in self.node.events("leases-ended")]
        return sum(int(first) for first, *_ in words)

    def wait_quiet(self, acknowledged: int, study: str | None, seconds: float) -> bool:
        """Wait until everything acknowledged of the study is in the job table and nothing is pending; whether it is."""

        def quiet() -> bool:
            return (
                self.jobs.ledger(study=study).received >= acknowledged
                and (all_of_it := self.jobs.ledger()).pending == 0
                and all_of_it.imbalance == 0
            )

        try:
            wait_until(quiet, "quiet", seconds, every_seconds=0.02)
        except TimeoutError:
            return False
        return True

    def segments(self) -> int:
        """Segments that hold something."""
        return len(list((self.node.state_dir / "spool" / "segments").glob("*.tar")))

    def staged_files(self) -> list[Path]:
        """The files in staging."""
        return [path for path in (self.node.state_dir / "staging").rglob("*.dcm") if path.is_file()]
