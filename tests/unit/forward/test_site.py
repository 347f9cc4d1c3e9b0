"""A destination in trouble is paused, asked by one, tried with one instance; its window grows and shrinks."""

from __future__ import annotations

import threading
import time

from relaypacs.forward.sender import Trouble
from relaypacs.forward.site import Site, Turn

DOWN = Trouble("down")
FULL = Trouble("no association", opening=True)


def take_within(site: Site, seconds: float, number: int = 0) -> Turn | str | None:
    """What `take_turn` gave, or "waits"."""
    found: list[Turn | None] = []
    thread = threading.Thread(target=lambda: found.append(site.take_turn(number)), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else "waits"


def work(site: Site, number: int = 0, trouble: Trouble | None = None, **how: bool) -> None:
    """A turn of work that was answered, unless there was trouble."""
    assert take_within(site, 0.5, number) is Turn.WORK
    site.end_turn(number, trouble=trouble, answered=trouble is None, **how)


def recovered(site: Site) -> None:
    """Down, asked, tried, up."""
    work(site, trouble=DOWN)
    assert site.take_turn() is Turn.PROBE
    site.end_probe(0, None)
    assert site.take_turn() is Turn.TRIAL
    site.end_turn(trial=True, trouble=None, answered=True)


def test_the_first_state_is_heard_once() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append)
    assert site.take_turn() is Turn.WORK
    site.end_turn(trouble=None, answered=False)
    assert changes == []
    work(site)
    work(site)
    assert changes == [True]


def test_trouble_pauses_then_one_asks_one_instance_is_tried_and_its_answer_opens() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append, most=2)
    started = time.monotonic()
    work(site, trouble=DOWN)
    assert site.take_turn() is Turn.PROBE
    assert 1.0 <= time.monotonic() - started < 1.5
    assert take_within(site, 0.1, 1) == "waits"  # one asks at a time
    site.end_probe(0, None)
    assert site.take_turn() is Turn.TRIAL
    assert take_within(site, 0.1, 1) == "waits"
    site.end_turn(trial=True, trouble=None, answered=True)
    assert changes == [False, True]
    work(site)


def test_a_trial_that_found_nothing_to_do_opens_since_the_destination_answers() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append)
    work(site, trouble=DOWN)
    site.take_turn()
    site.end_probe(0, None)
    assert site.take_turn() is Turn.TRIAL
    site.end_turn(trial=True, trouble=None, answered=False, nothing=True)
    assert changes == [False, True]


def test_a_trial_without_an_answer_is_tried_again() -> None:
    """Its instance could not be read, say: that tells nothing of the destination."""
    site = Site("there", lambda _: None)
    work(site, trouble=DOWN)
    site.take_turn()
    site.end_probe(0, None)
    site.take_turn()
    site.end_turn(trial=True, trouble=None, answered=False)
    assert site.take_turn() is Turn.TRIAL


def test_a_failed_trial_pauses_twice_as_long_and_asks_again() -> None:
    site = Site("there", lambda _: None)
    work(site, trouble=DOWN)
    site.take_turn()
    site.end_probe(0, None)
    site.take_turn()
    site.end_turn(trial=True, trouble=DOWN, answered=False)
    started = time.monotonic()
    assert site.take_turn() is Turn.PROBE
    assert 1.9 < time.monotonic() - started < 2.6


def test_the_pause_grows_once_for_what_many_workers_meet() -> None:
    site = Site("there", lambda _: None)
    for _ in range(5):
        site.end_turn(trouble=DOWN, answered=False)
    started = time.monotonic()
    assert site.take_turn() is Turn.PROBE
    assert time.monotonic() - started < 1.3


def test_an_answer_from_before_the_trouble_does_not_open() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append)
    site.end_turn(trouble=DOWN, answered=False)
    site.end_turn(trouble=None, answered=True)
    assert changes == [False]


def test_what_the_destination_asks_for_is_waited() -> None:
    site = Site("there", lambda _: None)
    site.end_turn(trouble=Trouble("busy", 30), answered=False)
    assert take_within(site, 1.6) == "waits"
    site.stop()


def test_the_window_grows_by_one_a_second_while_work_waits_up_to_what_is_configured() -> None:
    windows: list[int] = []
    site = Site("there", lambda _: None, most=2, on_window=windows.append)
    started = time.monotonic()
    work(site, full=True)
    assert take_within(site, 2, 1) is Turn.WIDEN
    assert time.monotonic() - started >= 1.0
    site.end_widen(1, None)
    assert windows == [2]
    work(site, 1, full=True)


def test_a_window_that_is_wide_enough_stays() -> None:
    site = Site("there", lambda _: None, most=2)
    work(site, full=False)
    assert take_within(site, 1.3, 1) == "waits"
    site.stop()


def test_no_further_association_is_no_trouble_and_is_not_asked_for_again_for_a_minute() -> None:
    changes: list[bool] = []
    site = Site("there", changes.append, most=3)
    work(site, full=True, still_open=True)
    assert take_within(site, 2, 1) is Turn.WIDEN
    site.end_widen(1, FULL)
    work(site, full=True, still_open=True)
    assert take_within(site, 1.5, 1) == "waits"
    assert changes == [True]
    site.stop()


def test_an_association_lost_while_others_are_open_narrows_the_window() -> None:
    changes: list[bool] = []
    windows: list[int] = []
    site = Site("there", changes.append, most=2, on_window=windows.append)
    work(site, full=True, still_open=True)
    assert take_within(site, 2, 1) is Turn.WIDEN
    site.end_widen(1, None)
    assert not site.alone(1)
    work(site, 1, trouble=FULL)
    assert (changes, windows) == ([True], [2, 1])
    site.rested(0)
    assert site.alone(1)
    work(site, trouble=FULL)  # nobody else is there: now it is trouble
    assert changes == [True, False]


def test_trouble_shrinks_the_window_to_one() -> None:
    windows: list[int] = []
    site = Site("there", lambda _: None, most=2, on_window=windows.append)
    work(site, full=True)
    take_within(site, 2, 1)
    site.end_widen(1, None)
    recovered(site)
    assert windows == [2, 1]
    assert take_within(site, 0.3, 1) == "waits"
    site.stop()


def test_a_worker_outside_the_window_rests_before_it_waits() -> None:
    site = Site("there", lambda _: None, most=2)
    rested = threading.Event()
    thread = threading.Thread(target=lambda: site.take_turn(1, rested.set), daemon=True)
    thread.start()
    assert rested.wait(2)
    site.stop()
    thread.join(2)
    assert not thread.is_alive()


def test_outside_its_hours_nobody_works() -> None:
    closed = [5.0]
    site = Site("there", lambda _: None, closed_for=lambda _: closed[0])
    assert take_within(site, 0.2) == "waits"
    assert not site.within_hours()
    closed[0] = 0.0
    assert site.within_hours()
    assert take_within(site, 0.2) is Turn.WORK


def test_stop_lets_everyone_go() -> None:
    site = Site("there", lambda _: None)
    site.end_turn(trouble=Trouble("busy", 3600), answered=False)
    found: list[Turn | None] = []
    threads = [threading.Thread(target=lambda: found.append(site.take_turn())) for _ in range(3)]
    for thread in threads:
        thread.start()
    site.stop()
    for thread in threads:
        thread.join(2)
    assert found == [None, None, None]
