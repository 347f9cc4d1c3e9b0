"""Liveness by locks: held while the holder lives, gone however it dies, and never disturbed by those who look."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from relaypacs import alive

_FORK = multiprocessing.get_context("fork")


def _serve(path: Path, told: Connection) -> None:
    alive.hold(path)
    told.send("serving")
    signal.pause()


def test_nobody_holds_a_file_that_is_absent_or_was_left_behind(tmp_path: Path) -> None:
    assert not alive.is_held(tmp_path / "alive" / "relay")
    (tmp_path / "relay").touch()
    assert not alive.is_held(tmp_path / "relay")


def test_held_while_the_process_lives_and_free_after_kill(tmp_path: Path) -> None:
    path = tmp_path / "alive" / "receive-0"
    ours, theirs = _FORK.Pipe()
    worker = _FORK.Process(target=_serve, args=(path, theirs))
    worker.start()
    assert ours.recv() == "serving"
    assert alive.is_held(path)
    assert alive.is_held(path), "looking must not take it away"
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert not alive.is_held(path)


def test_two_processes_can_not_hold_the_same_place(tmp_path: Path) -> None:
    first = alive.hold(tmp_path / "relay")
    with pytest.raises(BlockingIOError):
        alive.hold(tmp_path / "relay")
    os.close(first)
    os.close(alive.hold(tmp_path / "relay"))


def _look(path: Path, told: Connection) -> None:
    told.send("looking")
    while not told.poll():
        alive.is_held(path)


@contextmanager
def looking_at(path: Path) -> Iterator[None]:
    """Another process looks at `path` again and again."""
    path.touch()
    ours, theirs = _FORK.Pipe()
    looker = _FORK.Process(target=_look, args=(path, theirs))
    looker.start()
    ours.recv()
    try:
        yield
    finally:
        ours.send("enough")
        looker.join()


def test_those_who_look_do_not_keep_a_worker_from_starting(tmp_path: Path) -> None:
    with looking_at(tmp_path / "relay"):
        for _ in range(50):
            os.close(alive.hold(tmp_path / "relay"))


def test_those_who_look_are_not_taken_for_a_worker(tmp_path: Path) -> None:
    with looking_at(tmp_path / "relay"):
        assert not any(alive.is_held(tmp_path / "relay") for _ in range(20_000))


def _answering(path: Path, told: Connection) -> None:
    alive.serve(path)
    told.send("serving")
    signal.pause()


def test_a_process_that_is_stopped_does_not_answer(tmp_path: Path) -> None:
    # Longer than a socket's address may be.
    path = tmp_path / ("a" * 100) / "receive-0"
    ours, theirs = _FORK.Pipe()
    worker = _FORK.Process(target=_answering, args=(path, theirs), daemon=True)
    worker.start()
    assert ours.recv() == "serving"
    assert worker.pid is not None
    absent = path.with_name("relay")
    found = alive.ask([path, absent], wait_seconds=10.0)
    assert found[absent] is None
    used = found[path]
    assert used is not None
    assert used.resident_bytes > 1 << 20
    assert used.cpu_seconds > 0
    assert used.open_files > 3
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        assert alive.is_held(path)
        for _ in range(40):  # and its queue fills up
            assert alive.ask([path], wait_seconds=0.02) == {path: None}
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    for _ in range(200):  # its queue has to empty first
        if alive.ask([path], wait_seconds=10.0)[path] is not None:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("it goes on and does not answer")
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert alive.ask([path], wait_seconds=10.0) == {path: None}
