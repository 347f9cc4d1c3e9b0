"""Memory of a receive process: an object of any size, many associations, one-byte fragments."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.ports import answers, free_port, wait_until
from tests.peers.program import Program
from tests.peers.raw import AC, COMMAND, DATA, LAST, Raw, pdu, pdv, store_rq

MIB = 1 << 20


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[Program, int]]:
    """A receive process of its own, warmed up by one object."""
    port = free_port()
    command = [sys.executable, "-m", "tests.peers.receiver", str(port), str(tmp_path / "spool")]
    program = Program(command, log_path=tmp_path / "receive.log")
    program.wait_ready(lambda: answers(port), 20.0)
    with Raw(port) as peer:
        assert peer.associate() == AC
        assert peer.store(bytes(MIB)) == 0
        peer.release()
    yield program, port
    assert program.stop() == 0, program.log()


def memory(program: Program, entry: str) -> int:
    """An entry of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{program.pid}/status").read_text().splitlines():
        if line.startswith(entry + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(entry)


def send_object(peer: Raw, size: int) -> int:
    """Stream an object of `size` bytes without holding it; the status."""
    peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())))
    part = pdu(DATA, pdv(1, 0, bytes(65536 - 6)))
    for _ in range(size // (65536 - 6)):
        peer.send(part)
    peer.send(pdu(DATA, pdv(1, LAST, b"end!")))
    return peer.read_status()


@pytest.mark.parametrize("size", [256 * MIB, pytest.param(4096 * MIB, marks=pytest.mark.long)])
def test_a_large_object_costs_no_memory(process: tuple[Program, int], size: int) -> None:
    program, port = process
    before = memory(program, "VmRSS")
    with Raw(port, timeout_seconds=120.0) as peer:
        assert peer.associate() == AC
        assert send_object(peer, size) == 0
        peer.release()
    growth = memory(program, "VmHWM") - before
    print(f"{size >> 20} MiB: peak growth {growth / MIB:.1f} MiB")
    assert growth < 32 * MIB


def test_one_byte_fragments_cost_no_memory(process: tuple[Program, int]) -> None:
    program, port = process
    before = memory(program, "VmRSS")
    with Raw(port, timeout_seconds=60.0) as peer:
        assert peer.associate() == AC
        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())))
        part = pdu(DATA, pdv(1, 0, b"x") * 18_000)
        for _ in range(20):
            peer.send(part)
        peer.send(pdu(DATA, pdv(1, LAST, b"")))
        assert peer.read_status() == 0
    assert memory(program, "VmHWM") - before < 8 * MIB


def test_associations_are_cheap(process: tuple[Program, int]) -> None:
    """Under 4 MiB each with an object in flight; under 200 KiB when idle, before and after."""
    program, port = process
    before, count = memory(program, "VmRSS"), 50

    def each() -> float:
        return (memory(program, "VmRSS") - before) / count / 1024

    peers = [Raw(port) for _ in range(count)]
    for peer in peers:
        assert peer.associate() == AC
    wait_until(lambda: each() < 200, "buffers were given back", 15.0)
    idle = each()
    for peer in peers:
        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(1, 0, bytes(60_000))) * 5)
    time.sleep(0.3)
    busy = each()
    assert busy < 4 * 1024
    for peer in peers:
        peer.send(pdu(DATA, pdv(1, LAST, b"end!")))
        assert peer.read_status() == 0
    wait_until(lambda: each() < 200, "buffers were given back", 15.0)
    print(f"idle {idle:.0f} KiB, with an object in flight {busy:.0f} KiB, idle again {each():.0f} KiB each")
    for peer in peers:
        peer.release()
