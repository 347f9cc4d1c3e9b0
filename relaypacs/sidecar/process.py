"""The sidecar process: health and metrics beside the flow, never in it.

`node` forks it and calls `run` with the listener it bound and PROMETHEUS_MULTIPROC_DIR set. It holds no state and no
lock; if it dies, reception and relaying don't notice. Idle it sleeps in `epoll_wait`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from relaypacs.config import Config
from relaypacs.sidecar.app import make_app
from relaypacs.sidecar.checks import checks_of
from relaypacs.sidecar.jobtable import JobTable
from relaypacs.sidecar.metrics import registry_of
from relaypacs.sidecar.server import Stop, serve


def run(config: Config, *, listener: socket.socket, stop: Stop, callers_open: Callable[[], int] | None = None) -> None:
    """Serve on `listener` until `stop`. KeyError if PROMETHEUS_MULTIPROC_DIR is unset.

    `callers_open`: how many calling AE titles have an association open now."""
    metrics_dir = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    jobs = JobTable(config)
    try:
        serve(make_app(checks_of(config, jobs), registry_of(config, jobs, metrics_dir, callers_open)), listener, stop)
    finally:
        jobs.close()
