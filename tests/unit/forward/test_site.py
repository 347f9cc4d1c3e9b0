"""A destination in trouble is paused, probed by one, and opened by the first answer."""

from __future__ import annotations

import threading
import time

from relaypacs.forward.sender import Trouble
from relaypacs.forward.site import Site

DOWN = Trouble("down")


def take_within(site: Site, seconds: float) -> bool | str | None:
    """What `take_turn` gave, or "waits"."""
    found: list[bool | None] = []
    thread = threading.Thread(target=lambda: found.append(site.take_turn()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else "waits"


def test_up_until_something_is_known_and_every_worker_may_go() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append)
    assert [site.take_turn() for _ in range(3)] == [False, False, False]
    site.end_turn(probe=False, trouble=None, answered=False)
    assert changes == []
    site.end_turn(probe=False, trouble=None, answered=True)
    site.end_turn(probe=False, trouble=None, answered=True)
    assert changes == [True]


def test_trouble_pauses_then_one_probes_and_the_first_answer_opens() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append)
    site.take_turn()
    started = time.monotonic()
    site.end_turn(probe=False, trouble=DOWN, answered=False)
    assert site.take_turn() is True
    assert 1.0 <= time.monotonic() - started < 1.5
    assert take_within(site, 0.1) == "waits"  # one probe at a time
    site.end_turn(probe=True, trouble=None, answered=True)
    assert site.take_turn() is False
    assert changes == [False, True]


def test_a_probe_that_found_nothing_to_do_leaves_it_as_it_was() -> None:
    site = Site("there", lambda _: None)
    site.end_turn(probe=False, trouble=DOWN, answered=False)
    assert site.take_turn() is True
    site.end_turn(probe=True, trouble=None, answered=False)
    assert site.take_turn() is True


def test_the_pause_doubles_only_for_probes() -> None:
    site = Site("there", lambda _: None)
    for _ in range(5):  # five workers that meet the same trouble
        site.end_turn(probe=False, trouble=DOWN, answered=False)
    started = time.monotonic()
    assert site.take_turn() is True
    assert time.monotonic() - started < 1.3
    site.end_turn(probe=True, trouble=DOWN, answered=False)
    started = time.monotonic()
    assert site.take_turn() is True
    assert 1.9 < time.monotonic() - started < 2.6


def test_an_answer_from_before_the_trouble_does_not_open() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append)
    site.end_turn(probe=False, trouble=DOWN, answered=False)
    site.end_turn(probe=False, trouble=None, answered=True)
    assert changes == [False]


def test_what_the_destination_asks_for_is_waited() -> None:
    site = Site("there", lambda _: None)
    site.end_turn(probe=False, trouble=Trouble("busy", 30), answered=False)
    assert take_within(site, 1.6) == "waits"
    site.stop()


def test_stop_lets_everyone_go() -> None:
    site = Site("there", lambda _: None)
    site.end_turn(probe=False, trouble=Trouble("busy", 3600), answered=False)
    found: list[bool | None] = []
    threads = [threading.Thread(target=lambda: found.append(site.take_turn())) for _ in range(3)]
    for thread in threads:
        thread.start()
    site.stop()
    for thread in threads:
        thread.join(2)
    assert found == [None, None, None]
