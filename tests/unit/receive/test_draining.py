"""What a receive process says of its associations while its node is being drained."""

from __future__ import annotations

import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relaypacs.receive.draining import SLACK_SECONDS, Draining, any_open
from tests.peers.receiver import Stop

CHILD = """
import os, sys
from pathlib import Path
from relaypacs.receive.draining import Draining
one = Draining(lambda: False, Path(sys.argv[1]), stop_fd=os.pipe()[0], stopping=lambda: False)
assert one.begin()
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(folder: Path, stop: Stop) -> Iterator[Draining]:
    """One receive process's part; the node is being drained while `folder/draining` is there."""
    one = Draining((folder / "draining").exists, lock(folder), stop_fd=stop.fileno(), stopping=stop.event.is_set)
    try:
        yield one
    finally:
        one.close()


def lock(folder: Path) -> Path:
    return folder / "run" / "associations"


def is_told(one: Draining) -> bool:
    """Whether an association that waits is woken."""
    poll = select.poll()  # `select` knows no descriptor beyond 1023
    poll.register(one.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_the_lock_is_held_from_the_first_association_to_the_last(tmp_path: Path) -> None:
    with process(tmp_path, Stop()) as one, process(tmp_path, Stop()) as other:
        assert not any_open(lock(tmp_path))
        assert one.look_at is None
        assert [one.begin(), one.begin(), other.begin()] == [True, True, True]
        assert one.look_at is not None
        one.ended()
        other.ended()
        assert any_open(lock(tmp_path))
        one.ended()
        assert not any_open(lock(tmp_path))
        one.look(1.0)
        assert one.look_at is None, "without associations it sleeps"


def test_who_comes_while_the_node_is_drained_is_not_let_in_and_who_is_there_is_told(tmp_path: Path) -> None:
    with process(tmp_path, Stop()) as one:
        assert one.begin()
        assert (is_told(one), one.ending()) == (False, False)
        (tmp_path / "draining").touch()
        one.look_if_due((one.look_at or 0.0) - SLACK_SECONDS - 0.1)
        assert not one.ending(), "it is not time to look"
        one.look_if_due(one.look_at or 0.0)
        assert (is_told(one), one.ending(), one.why()) == (True, True, "the node is being drained")
        assert not one.begin()
        assert any_open(lock(tmp_path)), "the first is still there"
        one.ended()
        assert not any_open(lock(tmp_path))
        assert not one.begin()
        assert not any_open(lock(tmp_path))
        (tmp_path / "draining").unlink()
        assert one.begin()
        assert (is_told(one), one.ending()) == (False, False)


def test_a_stop_tells_them_too(tmp_path: Path) -> None:
    stop = Stop()
    with process(tmp_path, stop) as one:
        assert one.begin()
        stop.set()
        assert (is_told(one), one.ending(), one.why()) == (True, True, "the node stops")


def test_what_a_dead_process_had_open_is_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(lock(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        assert any_open(lock(tmp_path))
        child.kill()
        child.wait()
        assert not any_open(lock(tmp_path))


def test_threads_end_associations_while_others_begin(tmp_path: Path) -> None:
    with process(tmp_path, Stop()) as one:
        assert one.begin()
        threads = []
        for _ in range(200):
            assert one.begin()
            threads.append(threading.Thread(target=one.ended))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert any_open(lock(tmp_path))
        one.ended()
        assert not any_open(lock(tmp_path))
