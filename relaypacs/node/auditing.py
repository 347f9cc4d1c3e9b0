"""The relay process's audit trail: the threads that tell, send and keep it, and what they know of the configuration."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from relaypacs.config import Config
from relaypacs.config.destination import Destination
from relaypacs.jobs.store import JobStore
from relaypacs.trail.collector import Collector
from relaypacs.trail.keeping import Keeper
from relaypacs.trail.messages import Place
from relaypacs.trail.sending import Sender
from relaypacs.trail.telling import Teller

SEND_AT_END_SECONDS = 5.0
"""How long the end of the node waits for the collector; what it has not had waits in the job table."""


class Auditing:
    """`start` when the job table is open, `stop` when nothing is received or delivered any longer."""

    def __init__(self, config: Config, jobs: JobStore) -> None:
        jobs.audit.node = config.node.name
        self._config = config
        self._addresses = _addresses(config)
        self._sender = _sender(config, jobs)
        self._teller = Teller(
            jobs.audit,
            place_of=lambda name: self._addresses.get(name, {}),
            quiet_seconds=config.routing.study_quiet_seconds,
            written=self._sender.poke if self._sender is not None else lambda: None,
        )
        self._keeper = Keeper(jobs.audit, keep_seconds=config.audit.keep_seconds)
        self._threads: list[threading.Thread] = []

    def start(self, guard: Callable[[Callable[[], object]], Callable[[], None]]) -> None:
        """Start the threads, each under `guard`."""
        runs: dict[str, Callable[[], object]] = {"audit": self._teller.run, "audit-keeping": self._keeper.run}
        if self._sender is not None:
            runs["audit-sending"] = self._sender.run
        # Daemons: a collector that is silent may keep one.
        self._threads = [threading.Thread(target=guard(run), name=name, daemon=True) for name, run in runs.items()]
        for thread in self._threads:
            thread.start()

    def take(self, config: Config) -> None:
        """Another configuration is in force."""
        before, self._config = self._config, config
        self._addresses = _addresses(config)
        changed = [name for name in Config.model_fields if getattr(before, name) != getattr(config, name)]
        if changed:  # not where the files were put back
            self._teller.note("config-taken", {"changed": changed})

    def stop(self) -> None:
        """Tell what there is and that the node stops, send it if the collector is there, and end."""
        self._keeper.stop()
        self._teller.stop()
        teller, keeper, *others = self._threads
        teller.join()
        keeper.join()
        if self._sender is not None:
            self._sender.stop()
        for thread in others:
            thread.join(SEND_AT_END_SECONDS)


def _sender(config: Config, jobs: JobStore) -> Sender | None:
    audit = config.audit
    if not audit.collector:
        return None
    place = Place(config.node.name, socket.gethostname(), audit.site, config.receive.ae_titles[0])
    return Sender(jobs.audit, Collector(audit), audit.collector, place)


def _addresses(config: Config) -> dict[str, Mapping[str, str]]:
    return {one.name: _address(one) for one in config.destination}


def _address(one: Destination) -> Mapping[str, str]:
    """What rows tell of a destination besides its name."""
    if one.kind == "dimse":
        return {"called_ae": one.called_ae, "peer": _peer(one.host, one.port)}
    at = urlsplit(one.url)
    return {"peer": _peer(at.hostname or "", at.port or (443 if at.scheme == "https" else 80))}


def _peer(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
