"""What each of the node's processes is made of. What a role runs, it runs in the child, after the fork."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from relaypacs import alive, log
from relaypacs.config import Config
from relaypacs.errors import ConfigError
from relaypacs.node.orders import Follower, Prepare
from relaypacs.node.relay import run_relay
from relaypacs.node.sharing import keeper_of, load
from relaypacs.node.supervisor import Role, Stop
from relaypacs.receive.certificates import Certificates
from relaypacs.receive.limits import Limits
from relaypacs.receive.process import run as run_receive
from relaypacs.sidecar.https import Https
from relaypacs.sidecar.process import run as run_sidecar
from relaypacs.spool.writer import SpoolWriter
from relaypacs.upper.tls import TlsFailed
from relaypacs.wake.hints import HintSender

_SIDECAR_GRACE_SECONDS = 2.0
_RELAY_GRACE_SECONDS = 20.0


def alive_file(config: Config, name: str) -> Path:
    """The lock a serving process holds (`relaypacs.alive`)."""
    return config.run_dir / "alive" / name


def receive_roles(
    current: Callable[[], Config],
    listeners: Sequence[socket.socket],
    tls_listeners: Sequence[socket.socket] = (),
    *,
    limits: Limits,
) -> list[Role]:
    """The receive processes, all on the same listeners and under common limits. ConfigError if [tls] can't be used.

    `current` is the configuration in force. `limits` are shared memory, so made before the fork.
    """
    config = current()
    certificates = _certificates(config) if tls_listeners else None
    load(config)

    def run_in(slot: int, name: str) -> Callable[[Stop], int]:
        def run(stop: Stop) -> int:
            config = current()
            limits.receive = config.receive
            hints = HintSender(config.hint_socket)
            spool = SpoolWriter(
                config.spool_dir,
                segment_bytes=config.spool.segment_bytes,
                min_free_bytes=config.spool.min_free_bytes,
                max_object_bytes=config.spool.max_object_bytes,
                recycle=config.spool.recycle,
                durable=config.receive.ack == "spooled",
                on_commit=hints.send,
            )
            if config.receive.ack == "buffered":
                log.event(log.WARNING, "not-durable", "ack = buffered: Success is answered before the disk has it.")
            keeper = keeper_of(config, name)
            try:
                alive.serve(alive_file(config, name))
                share = limits.join(slot)
                run_receive(
                    config,
                    listeners=listeners,
                    tls_listeners=tls_listeners,
                    certificates=certificates,
                    spool=spool,
                    stop=stop,
                    limits=share,
                    keeper=keeper,
                    associations_file=config.associations_file,
                    follow=partial(_follow, stop),
                )
            finally:
                if keeper is not None:
                    keeper.close()
                spool.close()
                hints.close()
            return 0

        return run

    return [
        Role(
            f"receive-{slot}",
            run_in(slot, f"receive-{slot}"),
            stops_after=0,
            grace_seconds=config.receive.grace_seconds,
        )
        for slot in range(config.receive.processes)
    ]


def _certificates(config: Config) -> Certificates:
    try:
        return Certificates(config.tls)
    except TlsFailed as problem:
        raise ConfigError([f"[tls] {problem}"]) from None


def relay_role(current: Callable[[], Config], hash_key: bytes) -> Role:
    """Intake, staging and forwarding in one process."""

    def run(stop: Stop) -> int:
        config = current()
        return run_relay(
            config, hash_key, lambda name: alive.serve(alive_file(config, name)), stop, partial(_follow, stop)
        )

    return Role("relay", run, stops_after=1, grace_seconds=_RELAY_GRACE_SECONDS)


def _follow(stop: Stop, prepare: Prepare) -> None:
    """Have `prepare` called for each new configuration, from now on."""
    if stop.channel is not None:
        Follower(stop.channel, prepare, stop.set).start()


def sidecar_role(
    current: Callable[[], Config], listener: socket.socket, *, callers_open: Callable[[], int] | None = None
) -> Role:
    """Health and metrics. ConfigError if its certificate can't be used."""
    try:
        if current().sidecar.certificate:
            Https(current().sidecar)
    except TlsFailed as problem:
        raise ConfigError([f"[sidecar] {problem}"]) from None

    def run(stop: Stop) -> int:
        run_sidecar(current(), listener=listener, stop=stop, callers_open=callers_open, follow=partial(_follow, stop))
        return 0

    return Role("sidecar", run, stops_after=2, grace_seconds=_SIDECAR_GRACE_SECONDS)
