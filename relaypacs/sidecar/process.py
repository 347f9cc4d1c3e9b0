"""The sidecar process: health and metrics beside the flow, never in it.

`node` forks it and calls `run` with the listener it bound and PROMETHEUS_MULTIPROC_DIR set. It holds no state and no
lock; if it dies, reception and relaying don't notice. Idle it sleeps in `epoll_wait`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from relaypacs.config import Config
from relaypacs.sidecar.app import make_app
from relaypacs.sidecar.checks import checks_of
from relaypacs.sidecar.configuration import ConfigurationStates, configuration
from relaypacs.sidecar.https import Https
from relaypacs.sidecar.jobtable import JobTable
from relaypacs.sidecar.metrics import registry_of
from relaypacs.sidecar.server import Stop, serve


def run(
    config: Config,
    *,
    listener: socket.socket,
    stop: Stop,
    callers_open: Callable[[], int] | None = None,
    follow: Callable[[Callable[[Config], Callable[[], None]]], None] | None = None,
) -> None:
    """Serve on `listener` until `stop`. KeyError if PROMETHEUS_MULTIPROC_DIR is unset, TlsFailed where the certificate
    can't be used.

    `callers_open`: how many calling AE titles have an association open now. `follow` is given what prepares another
    configuration while it runs, and returns what puts it in force."""
    metrics_dir = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    jobs = JobTable(config)
    https = Https(config.sidecar) if config.sidecar.certificate else None

    def made(config: Config) -> ASGIApp:
        checks = checks_of(config, jobs)
        checks["configuration"] = partial(configuration, config.run_dir)
        registry = registry_of(config, jobs, metrics_dir, callers_open, https.expires_in if https else None)
        registry.register(ConfigurationStates(config.run_dir))
        token = config.sidecar.token.get_secret_value()
        return make_app(checks, registry, token=token, requests_per_minute=config.sidecar.max_requests_per_minute)

    app = _Current(made(config), https.look if https else lambda: None)

    def prepare(new: Config) -> Callable[[], None]:
        renewed = made(new)
        return lambda: app.take(renewed)

    if follow is not None:
        follow(prepare)
    try:
        serve(app, listener, stop, tls=https.context if https else None)
    finally:
        jobs.close()


class _Current:
    """The application of the configuration in force; requests that run keep theirs."""

    def __init__(self, app: ASGIApp, before: Callable[[], None]) -> None:
        self._app, self._before = app, before

    def take(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._before()
        await self._app(scope, receive, send)
