"""Forks the node's processes and keeps them: restarts the dead, passes the stop on, ends when all have ended.

Single-threaded, and forks before any thread or handle exists, so a child starts clean. Children die with their
supervisor (PR_SET_PDEATHSIG), so a node is never half there. A child that keeps dying is restarted ever more slowly,
and every death is a log line.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relaypacs import log
from relaypacs.node import orders

if TYPE_CHECKING:
    import socket

    from relaypacs.node.reload import Configuration

_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_PR_SET_PDEATHSIG = 1  # prctl(2)
_STEADY_SECONDS = 10.0
"""A child that lived this long is restarted at once."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 10.0
PATIENCE_SECONDS = 10.0
"""What a child gets beyond its own grace before it is killed."""
EXIT_CRASHED = 70  # EX_SOFTWARE, sysexits.h


class Stop:
    """The order to stop, as an event for threads and a readable descriptor for selectors. One per child."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        """`channel`: where the supervisor tells of a new configuration (`orders`)."""
        self.channel = channel
        self.event = threading.Event()
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        """Becomes readable with the order, and stays so."""
        return self._reader

    def on(self, signum: signal.Signals) -> None:
        """Take this signal for the order. For the main thread.

        The kernel may give a signal to any thread, and Python's own part of the handler runs in the main thread when
        that next wakes: the pipe wakes it, whoever was given the signal.
        """
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(signum, lambda *_: self.set())

    def wait(self) -> None:
        """Return with the order. For the main thread, which a signal must wake: waiting for `event` it may sleep on."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while not self.event.is_set():
            poll.poll()

    def set(self) -> None:
        """Give the order; safe in a signal handler."""
        if not self.event.is_set():
            self.event.set()
            os.write(self._writer, b"\0")


@dataclass(frozen=True, slots=True)
class Role:
    """A process of the node: its name, what it runs (returns the exit code), and in which order it stops."""

    name: str
    run: Callable[[Stop], int]
    stops_after: int
    """Roles with a lower number stop, and end, first."""
    grace_seconds: float


@dataclass(slots=True)
class _Child:
    role: Role
    pid: int = 0
    channel: socket.socket | None = None
    started: float = 0.0
    wait: float = 0.0
    restart_at: float | None = None


def supervise(
    roles: Sequence[Role],
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    on_stop: Callable[[], None] = lambda: None,
    configuration: Configuration | None = None,
) -> int:
    """Run every role in a process of its own until SIGTERM or SIGINT. Returns 0, or 1 if a child had to be killed.

    `on_stop` is called once, before the children are told to stop. `configuration` is looked at anew on SIGHUP, and
    when it is due; without one SIGHUP means nothing.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    children = [_Child(role) for role in roles]
    for child in children:
        _fork(child)
    log.event(log.INFO, "node-started", f"{len(children)} processes", processes={c.role.name: c.pid for c in children})
    while True:
        waits = [child.restart_at - time.monotonic() for child in children if child.restart_at is not None]
        if configuration is not None:
            waits.append(configuration.wait_seconds())
        caught = signal.sigtimedwait(_SIGNALS, max(0.0, min(waits))) if waits else None
        signum = signal.sigwait(_SIGNALS) if not waits else caught.si_signo if caught else 0
        if signum in (signal.SIGTERM, signal.SIGINT):
            on_stop()
            return _stop(children, patience_seconds)
        _reap(children)
        if configuration is not None and (signum == signal.SIGHUP or configuration.is_due()):
            _reload(children, configuration)
        for child in children:
            if child.restart_at is not None and child.restart_at <= time.monotonic():
                _fork(child)


def _reload(children: Sequence[_Child], configuration: Configuration) -> None:
    channels = {child.role.name: child.channel for child in children if child.pid and child.channel is not None}
    lost = configuration.look(channels)
    for child in children:
        if child.role.name in lost and child.pid:
            log.event(log.ERROR, "process-killed", f"{child.role.name} did not take the configuration; started again")
            os.kill(child.pid, signal.SIGKILL)


def _fork(child: _Child) -> None:
    child.restart_at, child.started = None, time.monotonic()
    supervisor = os.getpid()
    if child.channel is not None:
        child.channel.close()
    child.channel, end = orders.pair()
    child.pid = os.fork()
    if child.pid:
        end.close()
    else:
        code = EXIT_CRASHED
        try:
            child.channel.close()  # the supervisor's end: with it nobody would see that it is gone
            code = _run(child.role, supervisor, end)
        except BaseException as crash:
            _tell_crash(child.role.name, crash)
        finally:
            sys.stderr.flush()
            os._exit(code)


def _run(role: Role, supervisor: int, channel: socket.socket) -> int:
    stop = Stop(channel)
    stop.on(signal.SIGTERM)
    # A terminal sends SIGINT and SIGHUP to the whole group; the supervisor decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:
        return 0
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    died: list[BaseException] = []

    def on_thread_death(args: threading.ExceptHookArgs) -> None:
        # A node that lost a thread is not trusted to go on: the process ends and is started anew.
        if args.exc_value is not None:
            _tell_crash(role.name, args.exc_value)
            died.append(args.exc_value)
        stop.set()

    threading.excepthook = on_thread_death
    log.rename(role.name)
    code = role.run(stop)
    return EXIT_CRASHED if died else code


def _tell_crash(name: str, crash: BaseException) -> None:
    # Frames, not values: an exception's text may quote a peer's data.
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(crash.__traceback__)]
    log.event(
        log.CRITICAL, "process-crashed", f"{name}: unexpected {type(crash).__name__}; restarting", frames=frames[-8:]
    )


def _reap(children: Sequence[_Child]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for child in children:
            if child.pid == pid:
                lived = time.monotonic() - child.started
                steady = lived >= _STEADY_SECONDS
                child.wait = 0.0 if steady else min(_LONGEST_WAIT_SECONDS, max(_FIRST_WAIT_SECONDS, child.wait * 2))
                child.pid, child.restart_at = 0, time.monotonic() + child.wait
                log.event(
                    log.ERROR,
                    "process-died",
                    f"{child.role.name} ended ({_how(status)}); started again in {child.wait:g} s",
                    process=child.role.name,
                    lived_seconds=round(lived, 1),
                )


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def _stop(children: Sequence[_Child], patience_seconds: float) -> int:
    log.event(log.INFO, "node-stopping", "Stopping: running C-STOREs finish first.")
    killed = 0
    for order in sorted({child.role.stops_after for child in children}):
        group = [child for child in children if child.role.stops_after == order and child.pid]
        for child in group:
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_seconds + max((c.role.grace_seconds for c in group), default=0.0)
        for child in group:
            killed += not _ended(child, deadline)
    log.event(log.INFO, "node-stopped", "All processes have ended.", killed=killed)
    return 1 if killed else 0


def _ended(child: _Child, deadline: float) -> bool:
    """Wait for a child's end; kill it at the deadline. True if it ended by itself."""
    while os.waitpid(child.pid, os.WNOHANG)[0] == 0:
        left = deadline - time.monotonic()
        if left <= 0:
            log.event(log.ERROR, "process-killed", f"{child.role.name} did not stop in time")
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            return False
        signal.sigtimedwait({signal.SIGCHLD}, min(left, 0.5))
    return True
