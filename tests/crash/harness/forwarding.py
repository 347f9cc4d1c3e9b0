"""The program of `second.SecondWorker`: the forward workers of a node, and nothing else, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from relaypacs import log
from relaypacs.config import load_config
from relaypacs.forward.dispatch import Forwarder
from relaypacs.forward.source import ByteSource
from relaypacs.jobs.store import JobStore
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.wake.local import LocalWake
from relaypacs.wake.windows import LocalWindows

_LOOK_SECONDS = 0.05
"""Nobody in this process takes objects in, so nobody would wake its workers."""


def main(config_path: Path) -> None:
    """Forward for the node of that configuration."""
    config = load_config(config_path, os.environ)
    log.setup(level="info", json_lines=True, service="second")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    jobs = JobStore.open(config.jobs_url)
    wake = LocalWake()
    reader = SpoolReader(config.spool_dir, recycle=config.spool.recycle, recycle_segments=config.spool.recycle_segments)
    forwarder = Forwarder(
        config.destination,
        jobs=jobs,
        source=ByteSource(reader, FilesystemStaging(config.staging_dir)),
        wake=wake,
        windows=LocalWindows(),
        node=config.node.name,
        lease_seconds=config.jobs.lease_seconds,
    )
    forwarder.start()
    log.event(log.INFO, "second-forwards", "Forwards beside the node's own relay process.")
    while not stopped.wait(_LOOK_SECONDS):
        for destination in config.destination:
            wake.notify(destination.name)
    forwarder.stop(5.0)
    jobs.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
