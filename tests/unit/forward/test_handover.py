"""What intake leases to the workers: only while nothing older waits and it can be sent; the rest is given back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from relaypacs.forward.handover import LOOK_SECONDS, Handover
from relaypacs.forward.sender import Trouble
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site, Turn
from relaypacs.model import Claim, Location, Settlement


class Table:
    """The job table as a settler sees it: what was given back."""

    def __init__(self) -> None:
        self.returned: list[int] = []

    def settle(self, settlements: Sequence[Settlement], now: float) -> int:
        return len(settlements)

    def give_back(self, claims: Sequence[Claim]) -> None:
        self.returned += [one.delivery_id for one in claims]

    def renew(self, claims: Sequence[Claim], *, lease_seconds: float, now: float) -> None:
        pass


class Desk:
    """A handover with room for 4, its site up, and the table it gives back to."""

    def __init__(self) -> None:
        self.closed_for = 0.0
        self.now = 100.0
        self.table = Table()
        self.settler = Settler(self.table, lease_seconds=60.0, kinds={}, wake=lambda _: None)
        self.site = Site("there", lambda _: None, closed_for=lambda _: self.closed_for)
        self.handover = Handover(self.site, self.settler, most=4, clock=lambda: self.now)
        self.settler.start()

    def up(self, trouble: Trouble | None = None) -> None:
        assert self.site.take_turn() is Turn.WORK
        self.site.end_turn(trouble=trouble, answered=trouble is None)

    def put(self, *ids: int, priority: int = 0) -> None:
        claims = [claim(one, priority) for one in ids]
        self.settler.hold(claims, since=(100.0, 1e9))
        self.handover.put(claims)

    def looked(self, *, drained: bool) -> None:
        self.handover.looked(drained=drained, told=self.handover.told)

    def take(self, limit: int = 9) -> list[int]:
        return [one.delivery_id for one in self.handover.take(limit)]

    def returned(self) -> list[int]:
        assert self.settler.close(5.0)
        return self.table.returned


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.up()
    made.looked(drained=True)
    return made


def claim(delivery_id: int, priority: int = 0) -> Claim:
    at = Location("n", "g", 0, 1, 0, 1, 0, None)
    return Claim(delivery_id, delivery_id, 1, "there", 0, 1.0, priority, "1", "1", "1", "1", "a", at)


def test_room_only_for_a_destination_that_is_known_to_be_up_and_owed_nothing() -> None:
    desk = Desk()
    assert desk.handover.room() == 0, "never tried"
    desk.up()
    assert desk.handover.room() == 0, "nobody looked into the table"
    desk.looked(drained=False)
    assert desk.handover.room() == 0, "more is in it"
    desk.looked(drained=True)
    assert desk.handover.room() == 4
    desk.handover.queued()
    assert desk.handover.room() == 0
    assert desk.handover.must_look
    desk.settler.close(5.0)


def test_idle_is_who_has_nothing_and_would_begin_at_once(desk: Desk) -> None:
    assert desk.handover.is_idle
    desk.put(1)
    assert not desk.handover.is_idle, "one waits"
    desk.take()
    with desk.handover.working():
        assert not desk.handover.is_idle, "one is sent"
    assert desk.handover.is_idle
    desk.handover.queued()
    assert not desk.handover.is_idle, "the table comes first"
    assert not Desk().handover.is_idle, "never tried"
    from_table = Handover(desk.site, desk.settler, most=0)
    from_table.looked(drained=True, told=0)
    assert not from_table.is_idle, "nothing is handed over to it"
    desk.settler.close(5.0)


def test_what_is_handed_over_is_taken_once_in_order_the_urgent_first(desk: Desk) -> None:
    desk.put(1, 2)
    desk.put(3, priority=5)
    assert desk.handover.room() == 1
    assert desk.take(2) == [3, 1]
    assert desk.take() == [2]
    assert desk.take() == []
    assert desk.handover.room() == 4
    assert sorted(desk.returned()) == [1, 2, 3], "held until they are settled, given back at the end"


def test_the_table_is_looked_at_every_second_while_it_goes_on(desk: Desk) -> None:
    desk.now += 1000
    assert not desk.handover.must_look, "nothing goes on"
    for _ in range(3):
        desk.put(1)
        desk.take()
        desk.now += LOOK_SECONDS / 2
        assert not desk.handover.must_look
        desk.put(2)
        desk.now += LOOK_SECONDS / 2
        assert desk.handover.must_look
        desk.looked(drained=True)
        assert not desk.handover.must_look
        assert desk.take() == [2]
    desk.settler.close(5.0)


def test_who_looked_before_something_was_queued_has_not_seen_it(desk: Desk) -> None:
    told = desk.handover.told
    desk.handover.queued()
    desk.handover.looked(drained=True, told=told)
    assert (desk.handover.room(), desk.handover.must_look) == (0, True)
    desk.looked(drained=True)
    assert (desk.handover.room(), desk.handover.must_look) == (4, False)
    desk.settler.close(5.0)


def test_what_the_table_had_goes_behind_what_waits_unless_it_is_urgent(desk: Desk) -> None:
    def exchange(*claims: Claim) -> list[int]:
        return [one.delivery_id for one in desk.handover.exchange(list(claims), 2)]

    assert exchange(claim(1), claim(2), claim(3)) == [1, 2, 3], "nothing waits: as it was claimed"
    desk.put(4, 5, 6)
    assert exchange(claim(7), claim(8, priority=1)) == [8, 4]
    assert exchange(claim(9)) == [5, 6]
    assert exchange() == [7, 9]
    desk.settler.close(5.0)


def test_what_was_given_back_comes_before_what_is_new(desk: Desk) -> None:
    assert desk.handover.room() == 4
    desk.up(Trouble("down"))
    desk.handover.empty()
    desk.site.end_probe(0, None)
    desk.site.end_turn(trial=True, trouble=None, answered=True)
    assert desk.site.is_up
    assert (desk.handover.room(), desk.handover.must_look) == (0, True)
    desk.looked(drained=True)
    assert desk.handover.room() == 4
    desk.settler.close(5.0)


def test_a_destination_in_trouble_keeps_nothing(desk: Desk) -> None:
    desk.put(1, 2)
    desk.up(Trouble("down"))
    desk.handover.empty()
    assert desk.take() == []
    desk.put(3)  # leased while it was up
    assert desk.take() == []
    assert desk.handover.room() == 0
    assert desk.returned() == [1, 2, 3]


def test_nor_one_outside_its_hours(desk: Desk) -> None:
    desk.put(1)
    desk.handover.empty()
    assert desk.take(1) == [1], "nothing is wrong: what waits stays"
    desk.put(2)
    desk.closed_for = 60.0
    desk.handover.empty()
    desk.put(3)
    assert (desk.handover.room(), desk.take()) == (0, [])
    assert sorted(desk.returned()) == [1, 2, 3]


def test_nor_one_whose_workers_have_ended(desk: Desk) -> None:
    desk.put(1)
    desk.handover.close()
    desk.put(2)
    assert (desk.handover.room(), desk.take()) == (0, [])
    assert sorted(desk.returned()) == [1, 2]


def test_one_that_takes_all_from_the_table() -> None:
    desk = Desk()
    none = Handover(desk.site, desk.settler, most=0)
    desk.up()
    none.looked(drained=True, told=none.told)
    assert none.room() == 0
    desk.settler.close(5.0)
