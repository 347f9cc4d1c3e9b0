"""The supervisor with real processes: restarts the dead, stops in order, leaves no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from relaypacs import log
from relaypacs.node.supervisor import Role, supervise

folder = Path(sys.argv[1])
log.setup(level="debug", json_lines=True, service="supervisor")

def tell(line):
    with open(folder / "told", "a") as file:
        file.write(line + "\\n")

def signal_this_thread():
    time.sleep(0.2)  # by then the main thread sleeps
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

def worker(name):
    def run(stop):
        tell(f"start {name} {os.getpid()}")
        if name == "crashes":
            time.sleep(0.05)
            raise RuntimeError("PATIENT^NAME")
        if name == "deaf":
            while True:
                time.sleep(60)
        if name == "elsewhere":
            threading.Thread(target=signal_this_thread).start()
        stop.wait()
        tell(f"stop {name}")
        return 0
    return run

roles = [Role(name, worker(name), int(order), 0.2) for name, order in (text.split(":") for text in sys.argv[2:])]
sys.exit(supervise(roles, patience_seconds=0.5))
"""


class Running:
    """A supervisor in a process of its own, and what its children told."""

    def __init__(self, folder: Path, roles: tuple[str, ...]) -> None:
        self.told_at = folder / "told"
        self.log_at = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), *roles], stderr=self.log_at.open("wb")
        )

    def told(self) -> list[list[str]]:
        return [line.split() for line in self.told_at.read_text().splitlines()] if self.told_at.exists() else []

    def pids(self, name: str) -> list[int]:
        return [int(words[2]) for words in self.told() if words[:2] == ["start", name]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def begin(*roles: str) -> Running:
        running.append(Running(tmp_path, roles))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_stops_in_order_and_exits_zero(start: Callable[..., Running]) -> None:
    node = start("sidecar:2", "receive:0", "relay:1")
    assert until(lambda: len(node.told()) == 3)
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == 0
    assert [words[1] for words in node.told() if words[0] == "stop"] == ["receive", "relay", "sidecar"]


def test_the_order_is_heard_whichever_thread_the_kernel_gives_the_signal_to(start: Callable[..., Running]) -> None:
    node = start("elsewhere:0")
    assert until(lambda: ["stop", "elsewhere"] in node.told())


def test_a_killed_child_is_started_again(start: Callable[..., Running]) -> None:
    node = start("receive:0", "relay:1")
    assert until(lambda: len(node.told()) == 2)
    (first,) = node.pids("receive")
    os.kill(first, signal.SIGKILL)
    assert until(lambda: len(node.pids("receive")) == 2)
    assert len(node.pids("relay")) == 1
    assert '"event": "process-died"' in node.log_at.read_text()


def test_a_crashing_child_is_restarted_ever_more_slowly_and_quotes_nothing(start: Callable[..., Running]) -> None:
    node = start("crashes:0")
    assert until(lambda: len(node.pids("crashes")) >= 4)
    time.sleep(0.5)
    assert len(node.pids("crashes")) < 7
    text = node.log_at.read_text()
    assert "RuntimeError" in text
    assert "PATIENT" not in text


def test_children_end_with_a_killed_supervisor(start: Callable[..., Running]) -> None:
    node = start("receive:0", "relay:1")
    assert until(lambda: len(node.told()) == 2)
    children = node.pids("receive") + node.pids("relay")
    node.process.kill()
    node.process.wait()
    assert until(lambda: all(gone(pid) for pid in children))
    assert {words[1] for words in node.told() if words[0] == "stop"} == {"receive", "relay"}


def test_a_child_that_does_not_stop_is_killed(start: Callable[..., Running]) -> None:
    node = start("deaf:0")
    assert until(lambda: bool(node.pids("deaf")))
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == 1
    assert gone(node.pids("deaf")[0])
