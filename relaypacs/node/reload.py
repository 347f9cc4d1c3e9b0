"""The configuration in force, and how a running node takes another one: all of its processes, or none.

The supervisor asks `look` on SIGHUP, and every few seconds whether the files have changed. What is wrong is refused
whole, with every error in the log, and what was in force stays so. `run/config/ROLE.json` says how it stands, for
`/readyz`, metrics and `relaypacs config reload`. Associations that run keep what they negotiated.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from relaypacs import log
from relaypacs.config import Config
from relaypacs.config.change import taken
from relaypacs.config.files import Source, digest, files_of, read
from relaypacs.config.load import load_sources
from relaypacs.errors import ConfigError
from relaypacs.node import orders
from relaypacs.node.versions import record

LOOK_SECONDS = 5.0
"""How often the files are looked at without a signal: their names, sizes and times."""
_SETTLE_SECONDS = 1.0
"""A changed file has to stay the same for so long: somebody may still be writing it."""
PREPARE_SECONDS, TAKE_SECONDS = 10.0, 15.0
RETRY_SECONDS = 30.0
"""Until a process that did not answer is asked again."""
_STOPS = frozenset({signal.SIGTERM, signal.SIGINT})


class Configuration:
    """What the supervisor keeps. `config` is in force; children are forked with it."""

    def __init__(
        self,
        config: Config,
        place: Path,
        sources: Sequence[Source],
        *,
        role: str,
        prepare_seconds: float = PREPARE_SECONDS,
    ) -> None:
        """`config` is what `sources`, read from `place`, say. `prepare_seconds`: how long a child may take to say
        whether it can."""
        self._prepare_seconds = prepare_seconds
        self.config = config
        self.version = 0
        self._place = place.absolute()
        self._file = config.run_dir / "config" / f"{role}.json"
        self._state_dir = config.node.state_dir
        self._signature = self._changed = self._sign()
        self._digest = digest(sources)
        self._round = self._looked = 0
        self._rejected: list[str] = []
        self._waiting: list[str] = []
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._record(sources)
        self._tell_state()

    def wait_seconds(self) -> float:
        """How long the supervisor may sleep until `is_due`."""
        return max(0.0, self._look_at - time.monotonic())

    def is_due(self) -> bool:
        """Whether the files have changed, and are not being written any more."""
        if time.monotonic() < self._look_at:
            return False
        now = self._sign()
        settled = now == self._changed
        self._changed = now
        self._look_at = time.monotonic() + (LOOK_SECONDS if settled else _SETTLE_SECONDS)
        return settled and now != self._signature

    def look(self, children: Mapping[str, socket.socket]) -> list[str]:
        """Read the files, and have all `children` (by name) take what they say. Returns the names of those that did
        not answer when all others had taken it: they have to be started again, which is with it."""
        self._changed = self._signature = self._sign()
        self._look_at = time.monotonic() + LOOK_SECONDS
        self._round += 1
        lost: list[str] = []
        try:
            sources = read(self._place)
            self._digest = digest(sources)
            new = load_sources(sources, os.environ, place=str(self._place))
            config, waiting = taken(self.config, new)
            self._prepare(children, config)
        except ConfigError as wrong:
            self._reject(wrong.problems)
        else:
            self._record(sources)
            self.config, self._rejected, self._waiting = config, [], waiting
            lost = self._take(children)
            log.change(level=config.log.level, json_lines=config.log.format == "json")
            self._tell_taken()
        self._looked += 1
        self._tell_state()
        return lost

    def _sign(self) -> tuple[object, ...]:
        """What changes with the files: names, inodes, sizes, times."""
        try:
            found = []
            for one in files_of(self._place):
                about = one.stat()
                found.append((one.name, about.st_ino, about.st_size, about.st_mtime_ns))
            return tuple(found)
        except (ConfigError, OSError):
            return ("unreadable",)

    def _record(self, sources: Sequence[Source]) -> None:
        try:
            self.version = record(self._state_dir, sources, self._place)
        except OSError as problem:
            self.version += 1
            log.event(
                log.WARNING,
                "config-not-kept",
                f"The configuration's files could not be kept for a rollback: {problem.strerror}",
            )

    def _prepare(self, children: Mapping[str, socket.socket], config: Config) -> None:
        """Ask all; ConfigError if one can't, and then all have forgotten it."""
        told = {name: channel for name, channel in children.items() if self._send(channel, orders.PREPARE, config)}
        answers = self._answers(told, self._prepare_seconds)
        problems = []
        for name in told:
            word, sentences = answers.get(name, ("", []))
            if word == "":
                problems.append(f"the {name} process does not answer; try again once it serves")
                # What was no fault of the file is tried again; while the job table is down the relay process starts.
                self._signature, self._look_at = (), time.monotonic() + RETRY_SECONDS
            elif word != orders.READY:
                problems += [f"{name}: {sentence}" for sentence in sentences]
        if problems:
            for channel in told.values():
                self._send(channel, orders.FORGET)
            raise ConfigError(problems)

    def _take(self, children: Mapping[str, socket.socket]) -> list[str]:
        told = {name: channel for name, channel in children.items() if self._send(channel, orders.TAKE)}
        answers = self._answers(told, TAKE_SECONDS)
        return [name for name in children if answers.get(name, ("", []))[0] != orders.TAKEN]

    def _send(self, channel: socket.socket, word: str, config: Config | None = None) -> bool:
        return orders.send(channel, word, self._round, config)

    def _answers(self, told: Mapping[str, socket.socket], seconds: float) -> dict[str, tuple[str, list[str]]]:
        """What they say to this round, in time; nobody is waited for when the node is told to stop. One that has ended
        counts as ready: it is started again, with what is in force then."""
        found: dict[str, tuple[str, list[str]]] = {}
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as waiting:
            for name, channel in told.items():
                waiting.register(channel, selectors.EVENT_READ, name)
            while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
                if signal.sigpending() & _STOPS:
                    break
                for key, _ in waiting.select(min(left, 0.2)):
                    assert isinstance(key.fileobj, socket.socket)
                    packet = b""
                    with contextlib.suppress(OSError):
                        packet = key.fileobj.recv(orders.LONGEST_BYTES)
                    head, *sentences = packet.decode("utf-8", "replace").split("\n")
                    word, _, number = head.partition(" ")
                    if packet and number != str(self._round):
                        continue  # it was late with an earlier round
                    found[key.data] = (word, sentences) if packet else (orders.READY, [])
                    waiting.unregister(key.fileobj)
        return found

    def _reject(self, problems: Sequence[str]) -> None:
        self._rejected = list(problems)
        for problem in problems:
            log.event(log.ERROR, "config-problem", problem)
        log.event(
            log.ERROR,
            "config-rejected",
            f"The changed configuration is refused; version {self.version} stays in force.",
            version=self.version,
            problems=len(problems),
        )

    def _tell_taken(self) -> None:
        log.event(log.INFO, "config-taken", f"Configuration {self.version} is in force.", version=self.version)
        if self._waiting:
            names = ", ".join(self._waiting)
            log.event(log.WARNING, "config-waits", f"Waiting for a restart of the node: {names}", version=self.version)

    def _tell_state(self) -> None:
        state = {
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "place": str(self._place),
            "version": self.version,
            "digest": self._digest,
            "looked": self._looked,
            "rejected": self._rejected,
            "waiting": self._waiting,
        }
        draft = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(exist_ok=True)
            draft.write_text(json.dumps(state), encoding="utf-8")
            draft.replace(self._file)
        except OSError as problem:
            log.event(log.WARNING, "config-state", f"How the configuration stands can't be told: {problem.strerror}")


def started(pid: int) -> int:
    """When a process began (proc(5), `starttime`), so that a pid used again is not taken for it; 0: there is none."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return int(after_name.split()[19])
    except (OSError, ValueError, IndexError):
        return 0
