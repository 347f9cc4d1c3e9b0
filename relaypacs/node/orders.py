"""How supervisor and children agree on a configuration: one packet each way, over a socket pair made at the fork.

In two steps, so that all take it or none does: `prepare` with the configuration (in memory, never on disk: it holds
secrets) is answered `ready`, or `refused` with sentences; then `take` is answered `taken`, or `forget` by nothing. A
number names the round, so an answer that comes late counts for nothing. The child's side is a thread, `Follower`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from collections.abc import Callable
from typing import TypeAlias

from relaypacs import log
from relaypacs.config import Config
from relaypacs.errors import ConfigError, RelayPacsError

PREPARE, TAKE, FORGET = "prepare", "take", "forget"
READY, REFUSED, TAKEN = "ready", "refused", "taken"
LONGEST_BYTES = 65536
_FEW_BYTES = 32768

Prepare: TypeAlias = Callable[[Config], Callable[[], None]]
"""Makes what a new configuration needs (ConfigError or another RelayPacsError: it can't be had), and returns what puts
it in force at once; that never fails for a reason of the configuration."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the child's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, word: str, number: int, config: Config | None = None) -> bool:
    """Tell a child; False if it is gone. One that reads nothing of what it is told is there, and will not answer."""
    channel.setblocking(False)
    try:
        if config is None:
            channel.send(f"{word} {number}".encode())
            return True
        memory = os.memfd_create("relaypacs-configuration", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(memory), "wb") as file:
                pickle.dump(config, file)
            socket.send_fds(channel, [f"{word} {number}".encode()], [memory])
        finally:
            os.close(memory)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


class Follower:
    """A child's side: a thread that prepares and takes what the supervisor says, from `start` on."""

    def __init__(self, channel: socket.socket, prepare: Prepare, ended: Callable[[], None] = lambda: None) -> None:
        """`ended` is called when the supervisor has gone, should its death's signal not have come."""
        self._channel, self._prepare, self._ended = channel, prepare, ended
        self._prepared: tuple[int, Callable[[], None]] | None = None

    def start(self) -> None:
        """Follow; the thread ends with the process, or when the supervisor does."""
        threading.Thread(target=self._run, name="configuration", daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.setblocking(True)
            while True:
                packet, memories, _, _ = socket.recv_fds(self._channel, LONGEST_BYTES, 1)
                if not packet:
                    break
                word, _, number = packet.decode().partition(" ")
                answer = self._follow(word, int(number), memories)
                if answer:
                    self._channel.send(answer.encode()[:_FEW_BYTES])
        self._ended()

    def _follow(self, word: str, number: int, memories: list[int]) -> str:
        if word == PREPARE:
            self._prepared = None
            with os.fdopen(memories[0], "rb") as file:
                file.seek(0)
                config: Config = pickle.load(file)
            try:
                prepared = self._prepare(config)
            except ConfigError as wrong:
                return "\n".join([f"{REFUSED} {number}", *wrong.problems])
            except (RelayPacsError, OSError) as problem:
                return f"{REFUSED} {number}\n{problem}"

            def take() -> None:
                prepared()
                log.change(level=config.log.level, json_lines=config.log.format == "json")

            self._prepared = number, take
            return f"{READY} {number}"
        if word == TAKE and self._prepared is not None and self._prepared[0] == number:
            self._prepared[1]()
            self._prepared = None
            return f"{TAKEN} {number}"
        self._prepared = None
        return ""
