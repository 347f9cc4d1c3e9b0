"""A worker's batch in a process of its own, which stops itself (SIGSTOP) after the first instance.

`python -m tests.unit.forward.stopped_worker FOLDER LEASE_SECONDS`: over the rooms of a `House` in that folder.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from relaypacs.forward.batch import Batch
from relaypacs.forward.sender import Proceed, Read, Report, Trouble
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.forward.source import ByteSource
from relaypacs.jobs.store import JobStore
from relaypacs.model import Claim, Delivered
from relaypacs.policy.retry import parse_schedule
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.filesystem import FilesystemStaging
from tests.unit.forward.house import NODE


class Stops:
    """A way of delivering that takes each instance, and stops this process after the first."""

    tried = 0
    is_open = False

    def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
        for claim in batch:
            if not proceed([claim], self.rest):
                break
            with read(claim):
                self.tried += 1
            if self.tried == 1:
                print("stops", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.3)  # the settler is the first to go on
            report(claim, Delivered(), time.time(), time.time())
        return None

    def prepare(self) -> Trouble | None:
        return None

    def rest(self) -> None:
        return

    def close(self) -> None:
        return


def main(folder: Path, lease_seconds: float) -> None:
    jobs = JobStore.open(f"sqlite:///{folder}/jobs.sqlite")
    settler = Settler(jobs, lease_seconds=lease_seconds, kinds={"there": "dimse"}, wake=lambda _: None)
    settler.start()
    since = time.monotonic(), time.time()
    claims = jobs.claim("there", node=NODE, limit=100, lease_seconds=lease_seconds, now=since[1])
    settler.hold(claims, since=since)
    sender = Stops()
    batch = Batch(
        claims,
        source=ByteSource(
            SpoolReader(folder / "spool", recycle=True, recycle_segments=4), FilesystemStaging(folder / "staging")
        ),
        settler=settler,
        schedule=parse_schedule("1x1h"),
        moved=set(),
        site=Site("there", lambda _: None),
        number=0,
        trial=False,
        stopping=lambda _: False,
    )
    batch.run(sender)
    settler.close(5)
    print(f"tried {sender.tried}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
