"""`relaypacs serve`: take the node's folder, bind its ports, fork its processes, supervise them."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from relaypacs import log
from relaypacs.config import Config
from relaypacs.config.files import Source
from relaypacs.config.options import endpoint
from relaypacs.errors import ConfigError, SpoolError, SpoolLocked
from relaypacs.node.home import empty_run_dir, metrics_dir, prepare
from relaypacs.node.reload import Configuration
from relaypacs.node.supervisor import Role, supervise

ROLES = ("all", "receive", "relay", "sidecar")
_BACKLOG = 512
_LOCK_SLACK_SECONDS = 10.0
_OPEN_FILES = 65536
"""File descriptors asked for, as far as the hard limit goes: many systems start a service with 1024."""


def serve(config: Config, *, role: str = "all", place: Path | None = None, sources: Sequence[Source] = ()) -> int:
    """Run the node (or one role of it) until SIGTERM or SIGINT. Returns the exit code.

    `sources`, read from `place`, are what `config` was loaded from: they are read again when they change, and on
    SIGHUP. Without `place` the configuration stays as it is.
    ConfigError where a folder, a port or the spool's lock is not to be had; nothing has been started then.
    """
    _raise_open_files()
    hash_key = prepare(config)
    _set_up_log(config, hash_key)
    if config.sentry.dsn.get_secret_value():
        from relaypacs.node.sentry import Reporter

        log.report_to(Reporter(config.sentry, node=config.node.name))
    wanted = ROLES[1:] if role == "all" else (role,)
    from relaypacs.spool.lock import lock_spool

    if role == "all":
        try:
            try:
                lock_spool(config.spool_dir, 0.0)
            except SpoolLocked:
                # Children of a supervisor that was killed may still be finishing; they hold the lock until they end.
                wait = config.receive.grace_seconds + _LOCK_SLACK_SECONDS
                said = f"Another node holds {config.spool_dir}; waiting up to {wait:g} s for it to end."
                log.event(log.WARNING, "spool-lock-waits", said)
                lock_spool(config.spool_dir, wait)
        except SpoolError as problem:
            raise ConfigError([str(problem)]) from None
        empty_run_dir(config.run_dir)
    metrics = metrics_dir(config.run_dir, fresh=role == "all")
    # prometheus-client chooses its multi-process mode when it is imported, so no room is imported before this.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
    from relaypacs.node import roles
    from relaypacs.node.stores import residency_problem
    from relaypacs.receive.limits import Limits

    if "relay" in wanted and (misplaced := residency_problem(config)):
        raise ConfigError([misplaced])
    # Whoever sees how it stands may send the signal: before the supervisor waits for it, it would end the node.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    configuration = Configuration(config, place, sources, role=role) if place is not None else None

    def current() -> Config:
        return configuration.config if configuration is not None else config

    found: list[Role] = []
    listeners: list[socket.socket] = []
    callers_open: Callable[[], int] | None = None
    if "receive" in wanted:
        receive = config.receive
        plain = [(receive.host, receive.port), *map(endpoint, receive.also_listen)] if receive.plain else []
        tls = [endpoint(one) for one in config.tls.listen]
        limits = Limits(receive, receive.processes)
        plain_listeners = [_listen(host, port, "[receive]", plain + tls) for host, port in plain]
        tls_listeners = [_listen(host, port, "[tls]", plain + tls) for host, port in tls]
        found += roles.receive_roles(current, plain_listeners, tls_listeners, limits=limits)
        callers_open = limits.callers_open
        listeners = plain_listeners + tls_listeners
    if "relay" in wanted:
        found.append(roles.relay_role(current, hash_key))
    if "sidecar" in wanted:
        listener = _listen(config.sidecar.host, config.sidecar.port, "[sidecar]")
        found.append(roles.sidecar_role(current, listener, callers_open=callers_open))
    gc.collect()
    gc.freeze()  # what is loaded now stays shared between the processes
    sys.stdout.flush()
    try:
        return supervise(found, on_stop=lambda: _refuse(listeners), configuration=configuration)
    finally:
        if role == "all":
            shutil.rmtree(metrics, ignore_errors=True)


def _set_up_log(config: Config, hash_key: bytes) -> None:
    file = None
    if config.log.file:
        try:
            file = log.LogFile(Path(config.log.file))
        except OSError as problem:
            said = f"{config.log.file} can't be written ({problem.strerror}); name one this user may write"
            raise ConfigError([f"[log] file: {said}"]) from None
    json_lines = config.log.format == "json"
    log.setup(level=config.log.level, json_lines=json_lines, service="supervisor", hash_key=hash_key, stream=file)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refuse(listeners: Sequence[socket.socket]) -> None:
    """Let connections be refused from now on; every process has the listeners, so closing ours would not do it."""
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _listen(host: str, port: int, section: str, beside: Sequence[tuple[str, int]] = ()) -> socket.socket:
    """A listening socket; `::` takes IPv4 too unless one of those beside it listens there with the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            alone = not any(":" not in other and number == port for other, number in beside)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not (host == "::" and alone))
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as problem:
        listener.close()
        raise ConfigError(
            [f"{section}: can't listen on {host} port {port} ({problem.strerror}); choose another host or port"]
        ) from None
    listener.setblocking(False)
    return listener
