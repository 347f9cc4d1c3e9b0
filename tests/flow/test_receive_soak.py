"""A receive process under many connections that mean nothing: it answers others, and all it spent comes back.

The small sizes run always, the sizes that count with `--long`; the figures are printed (`-s`).
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flow.test_receive_fuzz import SEED, attack
from tests.peers.pki import Authority
from tests.peers.ports import answers, free_port, wait_until
from tests.peers.program import Program
from tests.peers.raw import ABORT, AC, COMMAND, DATA, LAST, Raw, associate_rq, pdu, pdv, request

pytestmark = pytest.mark.timeout(3600)
UNLIMITED = (
    "max_connections=0",
    "max_connections_per_address=0",
    "max_association_rate_per_address=0",
    "max_associations=1000",
    "max_associations_per_ae=0",
)


@dataclass(frozen=True)
class Process:
    """A receive process of its own, and what it uses."""

    program: Program
    port: int
    tls_port: int

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.program.pid}")

    def files(self) -> int:
        """Open file descriptors."""
        return len(list((self._proc / "fd").iterdir()))

    def threads(self) -> int:
        """Threads."""
        return len(list((self._proc / "task").iterdir()))

    def status(self, entry: str) -> int:
        """An entry of /proc/PID/status."""
        lines = (self._proc / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(entry + ":")).split()[1])

    def rss(self) -> int:
        """Resident memory in bytes."""
        return self.status("VmRSS") << 10

    def wakeups(self) -> int:
        """How often its threads have given up the processor by themselves."""
        found = 0
        for task in (self._proc / "task").iterdir():
            lines = (task / "status").read_text().splitlines()
            found += int(next(line for line in lines if line.startswith("voluntary_ctxt_switches:")).split()[1])
        return found


@contextmanager
def receive_process(folder: Path, *options: str) -> Iterator[Process]:
    """A receive process with as many file descriptors as may be, and with TLS."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    identity = Authority(folder / "ca").issue()
    port, tls_port = free_port(), free_port()
    tls = (f"tls_port={tls_port}", f"tls_certificate={identity.certificate}", f"tls_key={identity.key}")
    command = [sys.executable, "-m", "tests.peers.receiver", str(port), str(folder / "spool"), *options, *tls]
    program = Program(command, log_path=folder / "receive.log")
    program.wait_ready(lambda: answers(port), 30.0)
    try:
        yield Process(program, port, tls_port)
    finally:
        assert program.stop() == 0, program.log()[-2000:]


def echo(port: int) -> float:
    """Associate, C-ECHO and release; the seconds it took."""
    began = time.perf_counter()
    with Raw(port, timeout_seconds=30.0) as peer:
        assert peer.associate() == AC
        peer.send(pdu(DATA, pdv(3, COMMAND | LAST, request(0x0030))))
        assert peer.read_status() == 0
        peer.release()
    return time.perf_counter() - began


def silent(port: int, said: bytes, number: int) -> socket.socket:
    """A connection that says this and no more, from one of many addresses."""
    address = f"127.0.{1 + number // 200 % 200}.{1 + number % 200}"
    sock = socket.create_connection(("127.0.0.1", port), timeout=30.0, source_address=(address, 0))
    sock.sendall(said)
    return sock


def test_a_silent_crowd_keeps_nobody_waiting(tmp_path: Path, long_run: bool) -> None:
    idle, half, tls, echoes = (10_000, 500, 100, 200) if long_run else (500, 50, 20, 40)
    rq = associate_rq()
    timeouts = ("association_request_timeout_seconds=600", "tls_handshake_timeout_seconds=600")
    with receive_process(tmp_path, *UNLIMITED, *timeouts) as process, ExitStack() as crowd:
        quiet = sorted(echo(process.port) for _ in range(echoes))
        before = process.rss()
        for number in range(idle):
            crowd.enter_context(silent(process.port, b"", number))
        for number in range(half):
            crowd.enter_context(silent(process.port, rq[: 7 + number % (len(rq) - 8)], number))
        for number in range(tls):
            crowd.enter_context(silent(process.tls_port, b"\x16\x03\x01\x02" if number % 2 else b"", number))
        took = sorted(echo(process.port) for _ in range(echoes))
        grown = (process.rss() - before) / (idle + half + tls)
        print(
            f"\n{idle} idle, {half} half, {tls} silent on TLS: C-ECHO p50 {took[len(took) // 2] * 1e3:.1f} ms, "
            f"p99 {took[len(took) * 99 // 100] * 1e3:.1f} ms (quiet: {quiet[len(quiet) * 99 // 100] * 1e3:.1f} ms); "
            f"{process.files()} files, {process.threads()} threads, {grown:.0f} bytes each"
        )
        assert took[len(took) * 99 // 100] < 1.0
        assert process.threads() < 10


def connect_and_close(port: int) -> None:
    """As a load balancer looks."""
    socket.create_connection(("127.0.0.1", port), timeout=10.0).close()


def connect_and_reset(port: int) -> None:
    """Half a request, then a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(associate_rq()[:100])


def associate_and_abort(port: int) -> None:
    """An association, then A-ABORT."""
    with Raw(port) as peer:
        peer.associate()
        peer.send(pdu(ABORT, b"\0\0\0\0"))


def reset_in_a_message(port: int) -> None:
    """An association that breaks in the middle of a command set."""
    with Raw(port) as peer, suppress(OSError):
        peer.associate()
        peer.send(pdu(DATA, pdv(3, COMMAND, request(0x0030)[:20])))
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


CYCLES: tuple[Callable[[int], None], ...] = (
    connect_and_close,
    connect_and_reset,
    associate_and_abort,
    reset_in_a_message,
)


def test_connections_that_break_leave_nothing(tmp_path: Path, long_run: bool) -> None:
    count = 100_000 if long_run else 2_000
    with receive_process(tmp_path, *UNLIMITED) as process:

        def run(count: int) -> None:
            def worker(count: int) -> None:
                for number in range(count):
                    with suppress(OSError):
                        CYCLES[number % len(CYCLES)](process.port)

            workers = [threading.Thread(target=worker, args=(count // 4,)) for _ in range(4)]
            for one in workers:
                one.start()
            for one in workers:
                one.join()
            wait_until(lambda: process.threads() <= quiet[1], "threads ended", 30.0)
            wait_until(lambda: process.files() <= quiet[0], "connections closed", 30.0)

        echo(process.port)
        time.sleep(0.5)
        quiet = (process.files(), process.threads())
        run(count // 4)  # what the allocator and caches take once
        before = process.rss()
        run(count - count // 4)
        grown = process.rss() / before - 1
        print(
            f"\n{count} connections that broke: {process.files()} files (before {quiet[0]}), "
            f"{process.threads()} threads (before {quiet[1]}), RSS {before >> 10} KiB {grown:+.2%}"
        )
        echo(process.port)
        assert grown < 0.02


def test_mutated_streams_leave_nothing(tmp_path: Path, long_run: bool) -> None:
    """100,000 of them with `--long`. What is stored of them, `test_receive_fuzz` looks at."""
    count = 100_000 if long_run else 1_000
    limits = ("pdu_timeout_seconds=2", "release_timeout_seconds=0.5", "association_request_timeout_seconds=1")
    with receive_process(tmp_path, *UNLIMITED, *limits) as process:

        def run(seed: int, count: int) -> None:
            attackers = [threading.Thread(target=attack, args=(process.port, seed + n, count // 4)) for n in range(4)]
            for one in attackers:
                one.start()
            for one in attackers:
                one.join()
            wait_until(lambda: process.threads() <= quiet[1], "threads ended", 30.0)
            wait_until(lambda: process.files() <= quiet[0] + 1, "connections closed", 30.0)  # an idle segment

        echo(process.port)
        time.sleep(0.5)
        quiet = (process.files(), process.threads())
        run(SEED, count // 5)
        before = process.rss()
        run(SEED + 4, count - count // 5)
        echo(process.port)
        grown = process.rss() - before
        print(
            f"\n{count} mutated streams: {process.files()} files, {process.threads()} threads, RSS {grown >> 10:+} KiB"
        )
        assert grown < 8 << 20
        assert "association-failed" not in process.program.log()


def test_idle_associations_wake_nobody(tmp_path: Path) -> None:
    seconds = 4.0
    with receive_process(tmp_path, *UNLIMITED) as process, ExitStack() as open_ones:
        for _ in range(5):
            peer = open_ones.enter_context(Raw(process.port))
            assert peer.associate() == AC
            assert peer.store(bytes(1000)) == 0
        time.sleep(2.5)  # a read waits for a second in the kernel first, and the log is gathered
        before = process.wakeups()
        time.sleep(seconds)
        woken = process.wakeups() - before
        print(f"\n5 idle associations: {woken} wake-ups in {seconds:g} s")
        # Once in 10 s the edge looks after idle segments, whatever the number of associations.
        assert woken <= 1


@pytest.mark.long
def test_associations_that_end_well_leave_nothing(tmp_path: Path) -> None:
    """20,000 associations with an object each."""
    with receive_process(tmp_path, *UNLIMITED) as process:

        def one() -> None:
            with Raw(process.port) as peer:
                assert peer.associate() == AC
                assert peer.store(os.urandom(2000), sop_instance="1.2.3") == 0
                peer.release()

        for _ in range(5000):
            one()
        before = process.rss(), process.files()
        for _ in range(15_000):
            one()
        print(f"\n15,000 associations: RSS {before[0] >> 10} KiB {process.rss() / before[0] - 1:+.2%}")
        assert process.rss() < before[0] * 1.02
        wait_until(lambda: process.files() <= before[1], "connections closed", 10.0)
