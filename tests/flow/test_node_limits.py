"""A node with few file descriptors, or without standard streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.peers.node import Node
from tests.peers.raw import AC, Raw


def limits(pid: int) -> list[str]:
    """Soft and hard limit of a process's open files."""
    (line,) = (one for one in Path(f"/proc/{pid}/limits").read_text().splitlines() if one.startswith("Max open files"))
    return line.split()[3:5]


def test_it_takes_the_descriptors_it_may_have(node: Callable[..., Node]) -> None:
    running = node(wrapper=["prlimit", "--nofile=256:4096"])
    assert [limits(pid) for pid in running.pids()] == [["4096", "4096"]] * len(running.pids())


def test_idle_connections_do_not_lock_out_who_wants_to_send(node: Callable[..., Node]) -> None:
    running = node(wrapper=["prlimit", "--nofile=256:256"], sections={"receive": {"processes": 1}})
    with Raw(running.port) as before:
        assert before.associate() == AC
        idle = [Raw(running.port) for _ in range(400)]
        started = time.monotonic()
        with Raw(running.port) as peer:
            assert peer.associate() == AC
            assert peer.store(b"data", sop_instance="1.2.1") == 0
        assert before.store(b"data", sop_instance="1.2.2") == 0
        assert time.monotonic() - started < 3.0, "an association request waits for idle connections to time out"
        assert running.events("connection-displaced")
        assert not running.events("accept-paused")
        for one in idle:
            one.sock.close()


def test_it_serves_with_its_standard_streams_closed(node: Callable[..., Node]) -> None:
    running = node(wrapper=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    with Raw(running.port) as peer:
        assert peer.associate() == AC
        assert peer.store(b"data", sop_instance="1.2.1") == 0
        peer.release()
    # Nothing of the node lies under the numbers that everything prints to.
    held = {Path(f"/proc/{pid}/fd/{number}").readlink() for pid in running.pids() for number in range(3)}
    assert held == {Path("/dev/null")}
