"""Hints cross process boundaries, survive a full queue and never disturb the sender."""

import os
import socket
import threading
import time

import pytest

from relaypacs.model import Committed
from relaypacs.wake.hints import HintReceiver, HintSender

ONE, TWO = "0" * 31 + "1", "0" * 31 + "2"


def committed(generation, end):
    return Committed(generation, 0, 0, end)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "intake.sock"


@pytest.fixture
def receiver(path):
    receiver = HintReceiver(path)
    yield receiver
    receiver.close()


@pytest.fixture
def sender(path):
    sender = HintSender(path)
    yield sender
    sender.close()


def test_a_hint_arrives_with_its_end(receiver, sender):
    sender.send(committed(ONE, 4096))
    assert receiver.wait(5) == [(ONE, 4096)]


def test_waiting_in_vain_takes_the_time_and_gives_nothing(receiver):
    before = time.monotonic()
    assert receiver.wait(0.05) == []
    assert 0.04 < time.monotonic() - before < 2


def test_what_is_there_comes_at_once_merged_to_the_furthest_end(receiver, sender):
    for generation, end in ((ONE, 4096), (TWO, 8192), (ONE, 12288)):
        sender.send(committed(generation, end))
    assert receiver.wait(5) == [(ONE, 12288), (TWO, 8192)]
    assert receiver.wait(0) == []


def test_more_than_the_kernel_queues_all_arrive_without_another_send(receiver, sender):
    generations = [f"{number:032x}" for number in range(500)]
    for generation in generations:
        sender.send(committed(generation, 1))
    got, deadline = set(), time.monotonic() + 10
    while len(got) < 500 and time.monotonic() < deadline:
        got.update(generation for generation, _ in receiver.wait(0.5))
    assert got == set(generations)
    assert sender.dropped == 0


def test_what_waits_while_the_queue_is_full_is_merged_and_bounded(receiver, sender):
    for number in range(6000):
        sender.send(committed(f"{number:032x}", 1))
    assert 0 < sender.dropped < 2000
    for end in (*range(100_000, 100_050), 5):  # another thread's older commit may come last
        sender.send(committed(f"{4000:032x}", end))
    ends = {}
    deadline = time.monotonic() + 10
    while ends.get(f"{4000:032x}") != 100_049 and time.monotonic() < deadline:
        ends.update(receiver.wait(0.5))
    assert ends[f"{4000:032x}"] == 100_049


def test_without_a_thread_to_be_had_the_next_hint_tries_again(receiver, sender, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for number in range(5000):
            sender.send(committed(f"{number:032x}", 1))
    while receiver.wait(0.05):
        pass
    sender.send(committed("f" * 32, 1))
    ends = {}
    while more := receiver.wait(0.5):
        ends.update(more)
    assert ends["f" * 32] == 1
    assert ends[f"{4000:032x}"] == 1


def test_an_absent_receiver_costs_nothing_and_is_counted(sender):
    sender.send(committed(ONE, 1))
    assert sender.dropped == 1


def test_a_receiver_that_comes_back_is_found_again(path, sender):
    first = HintReceiver(path)
    first.close()
    sender.send(committed(ONE, 1))
    second = HintReceiver(path)
    sender.send(committed(TWO, 2))
    assert second.wait(5) == [(TWO, 2)]
    second.close()


def test_a_socket_left_by_a_killed_relay_is_replaced(path, sender):
    left = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.bind(str(path))
    left.close()
    assert path.exists()
    receiver = HintReceiver(path)
    sender.send(committed(ONE, 1))
    assert receiver.wait(5) == [(ONE, 1)]
    receiver.close()


def test_nonsense_is_ignored(path, receiver, sender):
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for body in (b"", b"\xff" * 9000, f"{ONE} -1".encode(), f"{ONE[:-1]}/ 5".encode(), b"../../x 5"):
        stranger.sendto(body, str(path))
    sender.send(committed(TWO, 7))
    assert receiver.wait(5) == [(TWO, 7)]
    stranger.close()


def test_only_this_user_may_send(path, receiver):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_path_longer_than_a_socket_address(tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    receiver, sender = HintReceiver(folder / "intake.sock"), HintSender(folder / "intake.sock")
    sender.send(committed(ONE, 1))
    assert receiver.wait(5) == [(ONE, 1)]
    sender.close()
    receiver.close()
    assert not (folder / "intake.sock").exists()


def test_hints_come_from_another_process_and_many_threads(path, receiver):
    child = os.fork()
    if child == 0:
        sender = HintSender(path)
        threads = [
            threading.Thread(target=lambda t=t: [sender.send(committed(f"{t:032x}", e)) for e in range(1, 201)])
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.5)
        os._exit(sender.dropped)
    ends, deadline = {}, time.monotonic() + 10
    while (len(ends) < 4 or min(ends.values()) < 200) and time.monotonic() < deadline:
        for generation, end in receiver.wait(0.2):
            ends[generation] = max(end, ends.get(generation, 0))
    assert ends == {f"{t:032x}": 200 for t in range(4)}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_closed_sender_sends_nothing_and_does_not_raise(receiver, path):
    sender = HintSender(path)
    sender.send(committed(ONE, 1))
    sender.close()
    sender.close()
    sender.send(committed(TWO, 1))
    assert receiver.wait(0.2) == [(ONE, 1)]
