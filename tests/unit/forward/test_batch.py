"""A batch over the real spool, job table and staging: what is settled, put off, given back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relaypacs.errors import DigestMismatch, JobsError, StagingDown
from relaypacs.forward.batch import Batch
from relaypacs.forward.pace import Pace
from relaypacs.forward.sender import Proceed, Read, Report, Trouble, Unreadable
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.forward.source import ByteSource
from relaypacs.model import Claim, Deferred, Delivered, Outcome, Scope, Settlement, State
from relaypacs.policy.outcome import CORRUPT
from relaypacs.policy.retry import parse_schedule
from relaypacs.staging.filesystem import FilesystemStaging
from tests.unit.forward.deliveries import STUDY
from tests.unit.forward.house import NODE, House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def settler(house: House) -> Iterator[Settler]:
    settler = Settler(house.jobs, lease_seconds=60, kinds={"there": "dimse"}, wake=house.wake.notify)
    settler.start()
    yield settler
    settler.close(5)


class Scripted:
    """A way of delivering that a test spells out: an outcome for each claim, or an exception to raise."""

    def __init__(self, answer: Callable[[Claim], Outcome]) -> None:
        self._answer = answer
        self.read_bytes = 0
        self.passed_over = 0
        self.rested = 0

    def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
        for claim in batch:
            if not proceed([claim], self.rest):
                break
            try:
                with read(claim) as payload:
                    self.read_bytes += len(payload.dataset)
                    now = time.time()
                    report(claim, self._answer(claim), now, now)
            except Unreadable:
                self.passed_over += 1
        return None

    def prepare(self) -> Trouble | None:
        return None

    @property
    def is_open(self) -> bool:
        return False

    def rest(self) -> None:
        self.rested += 1

    def close(self) -> None:
        return


def run(
    house: House,
    settler: Settler,
    answer: Callable[[Claim], Outcome],
    *,
    claims: list[Claim] | None = None,
    moved: set[int] | None = None,
    schedule: str = "1x1h",
    trial: bool = False,
    site: Site | None = None,
    source: ByteSource | None = None,
) -> tuple[Batch, Trouble | None, Scripted]:
    if claims is None:
        claims = claim_all(house)
    settler.hold(claims)
    batch = Batch(
        claims,
        source=source or ByteSource(house.reader, house.staging),
        settler=settler,
        schedule=parse_schedule(schedule),
        moved=set() if moved is None else moved,
        site=site or Site("there", lambda _: None),
        number=0,
        trial=trial,
        stopping=lambda _: False,
    )
    sender = Scripted(answer)
    return batch, batch.run(sender), sender


def claim_all(house: House) -> list[Claim]:
    return house.jobs.claim("there", node=NODE, limit=100, lease_seconds=60, now=time.time())


def test_a_deferral_gets_its_next_time_from_the_schedule_and_then_a_dead_letter(house: House, settler: Settler) -> None:
    house.receive(1)
    later = Deferred("later", Scope.INSTANCE, 0x0110)
    batch, trouble, _ = run(house, settler, lambda _: later)
    assert trouble is None
    assert batch.answered
    house.wait_states({State.DEFERRED: 1})
    (one,) = house.deliveries()
    assert one.next_attempt_at is not None
    assert 3600 <= one.next_attempt_at - time.time() + 2 <= 3600 * 1.1 + 4
    claims = house.jobs.claim("there", node=NODE, limit=1, lease_seconds=60, now=time.time() + 4000)
    run(house, settler, lambda _: later, claims=claims)
    house.wait_states({State.FAILED: 1})
    (one,) = house.deliveries()
    assert one.reason == "given up after 2 attempts: later"


def test_bytes_that_moved_to_staging_since_the_claim_cost_no_attempt(house: House, settler: Settler) -> None:
    house.receive(3)
    moved: set[int] = set()
    stale = claim_all(house)
    house.stage_everything()
    batch, trouble, sender = run(house, settler, lambda _: Delivered(), claims=stale, moved=moved)
    assert (trouble, batch.answered, sender.passed_over) == (None, False, 3)
    house.wait_states({State.QUEUED: 3})
    run(house, settler, lambda _: Delivered(), moved=moved)
    house.wait_states({State.DELIVERED: 3})
    assert moved == set()
    assert {one.attempts for one in house.deliveries()} == {1}


def test_damage_is_a_dead_letter_but_not_if_another_process_has_freed_the_bytes(house: House, settler: Settler) -> None:
    """A process that slept past its leases may find another object's bytes under its eyes: the instance's own are
    where the process that took over has put them."""
    house.receive(2)
    moved: set[int] = set()
    stale = claim_all(house)
    segments, elsewhere = house.folder / "spool" / "segments", house.folder / "spool" / "free"

    def freed_meanwhile(_: Claim) -> Outcome:
        for path in segments.iterdir():
            path.rename(elsewhere / path.name)
        return CORRUPT

    _, trouble, sender = run(house, settler, freed_meanwhile, claims=stale[:1], moved=moved)
    assert (trouble, sender.passed_over) == (None, 0)
    house.wait_states({State.QUEUED: 1, State.ACTIVE: 1})
    for path in elsewhere.iterdir():
        path.rename(segments / path.name)
    run(house, settler, lambda _: CORRUPT, claims=stale[1:], moved=moved)  # still in its place: damaged
    run(house, settler, freed_meanwhile, moved=moved)  # a second time
    house.wait_states({State.FAILED: 1, State.DEFERRED: 1})
    reasons = {one.state: one.reason for one in house.deliveries()}
    assert reasons[State.FAILED] == CORRUPT.reason
    assert reasons[State.DEFERRED].startswith("this node freed the instance's bytes twice")
    assert moved == set()


def test_a_staged_file_of_another_length_is_never_handed_out(house: House, settler: Settler) -> None:
    house.receive(2)
    house.stage_everything()
    longer, shorter = house.folder.joinpath("staging").rglob("*.dcm")
    for path, content in ((longer, longer.read_bytes() + b"\0\0"), (shorter, shorter.read_bytes()[:-2])):
        path.chmod(0o600)
        path.write_bytes(content)
    source = ByteSource(house.reader, house.staging)
    for claim in claim_all(house):
        with pytest.raises(DigestMismatch), source.read(claim):
            pass


class Away(FilesystemStaging):
    """A stand-in for a bucket that can be away."""

    away = True

    @contextmanager
    def open(self, key: str) -> Iterator[memoryview]:
        if self.away:
            raise StagingDown("object storage: it does not answer")
        with super().open(key) as view:
            yield view


def test_while_staging_is_away_no_attempt_is_counted(house: House, settler: Settler) -> None:
    house.receive(2)
    house.stage_everything()
    away = Away(house.folder / "staging")
    source = ByteSource(house.reader, away)
    claims = claim_all(house)
    for _ in range(3):
        # The schedule allows one retry, and then a dead letter.
        batch, trouble, sender = run(house, settler, lambda _: Delivered(), claims=claims, source=source)
        assert (trouble, sender.passed_over) == (None, 2)
        house.wait_states({State.DEFERRED: 2})
        rows = house.deliveries()
        assert {one.attempts for one in rows} == {0}
        assert {one.reason for one in rows} == {"waits for its bytes: object storage: it does not answer"}
        assert all(one.next_attempt_at and one.next_attempt_at - time.time() < 10 for one in rows)
        assert not batch.answered
        claims = house.jobs.claim("there", node=NODE, limit=9, lease_seconds=60, now=time.time() + 400)
        assert len(claims) == 2
    away.away = False
    run(house, settler, lambda _: Delivered(), claims=claims, source=source)
    house.wait_states({State.DELIVERED: 2})
    assert {one.attempts for one in house.deliveries()} == {1}


def test_bytes_that_keep_moving_are_an_attempt(house: House, settler: Settler) -> None:
    house.receive(1)
    stale = claim_all(house)
    house.stage_everything()
    run(house, settler, lambda _: Delivered(), claims=stale, moved={stale[0].delivery_id})
    house.wait_states({State.DEFERRED: 1})


def test_a_bug_in_a_sender_costs_what_was_open_an_attempt_and_nothing_else(house: House, settler: Settler) -> None:
    uids = house.receive(5)

    def answer(claim: Claim) -> Outcome:
        if claim.sop_instance_uid == uids[2]:
            raise KeyError("a bug")
        return Delivered()

    with pytest.raises(KeyError):
        run(house, settler, answer)
    house.wait_states({State.DELIVERED: 2, State.DEFERRED: 1, State.QUEUED: 2})
    (deferred,) = (one for one in house.deliveries() if one.state is State.DEFERRED)
    assert "KeyError" in deferred.reason


@pytest.mark.parametrize(("trial", "tried"), [(False, 3), (True, 1)])
def test_out_of_resources_in_a_row_is_the_destinations_trouble(
    house: House, settler: Settler, trial: bool, tried: int
) -> None:
    house.receive(6)
    _, trouble, _ = run(house, settler, lambda _: Deferred("full", Scope.INSTANCE, 0xA700), trial=trial)
    assert trouble is not None
    assert trouble.study == STUDY
    house.wait_states({State.DEFERRED: tried, State.QUEUED: 6 - tried})


def test_a_study_known_to_be_poison_is_tried_to_its_end_and_stops_nobody(house: House, settler: Settler) -> None:
    site = Site("there", lambda _: None)
    site.end_turn(trouble=Trouble("full", study=STUDY), answered=True)
    assert site.suspects == (STUDY,)
    site.end_turn(trial=True, trouble=None, answered=True)
    house.receive(6)
    _, trouble, _ = run(house, settler, lambda _: Deferred("full", Scope.INSTANCE, 0xA700), site=site)
    assert trouble is None
    house.wait_states({State.DEFERRED: 6})
    site.accepted(STUDY)
    assert not site.is_poison(STUDY)


def test_an_association_that_was_not_had_costs_an_attempt_only_where_no_other_is_open(
    house: House, settler: Settler
) -> None:
    class Refused(Scripted):
        def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
            return Trouble("refused", opening=True)

    house.receive(3)
    site = Site("there", lambda _: None, most=2)
    for others, states in ((True, {State.QUEUED: 3}), (False, {State.QUEUED: 2, State.DEFERRED: 1})):
        site.end_turn(1, trouble=None, answered=True, still_open=others)
        claims = claim_all(house)
        settler.hold(claims)
        batch = Batch(
            claims,
            source=ByteSource(house.reader, house.staging),
            settler=settler,
            schedule=parse_schedule("1x1h"),
            moved=set(),
            site=site,
            number=0,
            trial=False,
            stopping=lambda _: False,
        )
        batch.run(Refused(lambda _: Delivered()))
        house.wait_states(states)


def test_a_pace_is_kept_and_given_up_when_the_node_stops(house: House, settler: Settler) -> None:
    house.receive(4)
    waits: list[float] = []

    def stopping(seconds: float) -> bool:
        waits.append(seconds)
        return len([one for one in waits if one]) == 3

    batch = paced(
        claim_all(house),
        house,
        settler,
        stopping=stopping,
        pace=Pace(objects_per_second=1, clock=lambda: 100.0),
    )
    sender = Scripted(lambda _: Delivered())
    batch.run(sender)
    assert [one for one in waits if one] == pytest.approx([1.0, 2.0, 3.0], abs=0.5)
    assert sender.rested == 2  # a second is not worth it
    house.wait_states({State.DELIVERED: 3, State.QUEUED: 1})


class Again(Scripted):
    """Asks twice for each claim, as a sender does that a peer left in between, and then sends it."""

    def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
        def twice(claims: Sequence[Claim], rest: Callable[[], None]) -> bool:
            return proceed(claims, rest) and proceed(claims, rest)

        return super().deliver(batch, read, report, twice)


def paced(claims: list[Claim], house: House, settler: Settler, **settings: Any) -> Batch:
    settler.hold(claims)
    return Batch(
        claims,
        source=ByteSource(house.reader, house.staging),
        settler=settler,
        schedule=parse_schedule("1x1h"),
        moved=set(),
        number=0,
        trial=False,
        **{"site": Site("there", lambda _: None), "stopping": lambda _: False, **settings},
    )


def test_a_pace_is_charged_once_for_an_instance_and_not_for_one_that_was_not_sent(
    house: House, settler: Settler
) -> None:
    house.receive(4)
    sent: list[Claim] = []
    pace = Pace(objects_per_second=1, clock=lambda: 100.0)

    def answer(claim: Claim) -> Outcome:
        sent.append(claim)
        return Delivered()

    paced(claim_all(house), house, settler, pace=pace, stopping=lambda seconds: seconds > 0 and len(sent) == 2).run(
        Again(answer)
    )
    house.wait_states({State.DELIVERED: 2, State.QUEUED: 2})
    assert pace.take(1) == pytest.approx(2.0)


def test_hours_that_end_while_the_pace_is_waited_for_end_the_batch(house: House, settler: Settler) -> None:
    house.receive(3)
    closed = [0.0]

    def waits(seconds: float) -> bool:
        closed[0] = 3600.0 if seconds > 0 else closed[0]
        return False

    site = Site("there", lambda _: None, closed_for=lambda _: closed[0])
    pace = Pace(objects_per_second=1, clock=lambda: 100.0)
    paced(claim_all(house), house, settler, pace=pace, site=site, stopping=waits).run(Scripted(lambda _: Delivered()))
    house.wait_states({State.DELIVERED: 1, State.QUEUED: 2})


def test_out_of_resources_now_and_then_is_the_instances_own(house: House, settler: Settler) -> None:
    house.receive(9)
    numbers = iter(range(9))

    def answer(_: Claim) -> Outcome:
        return Deferred("no study", Scope.INSTANCE, 0xA700) if next(numbers) % 3 else Delivered()

    _, trouble, _ = run(house, settler, answer)
    assert trouble is None
    house.wait_states({State.DELIVERED: 3, State.DEFERRED: 6})


def test_site_deferrals_are_no_answer(house: House, settler: Settler) -> None:
    house.receive(1)
    batch, _, _ = run(house, settler, lambda _: Deferred("down", Scope.SITE))
    assert not batch.answered
    house.wait_states({State.DEFERRED: 1})


def test_what_a_lost_lease_settles_changes_nothing(house: House, settler: Settler) -> None:
    house.receive(1)
    stale = house.jobs.claim("there", node=NODE, limit=1, lease_seconds=-1, now=time.time())
    fresh = claim_all(house)
    assert [claim.delivery_id for claim in stale] == [claim.delivery_id for claim in fresh]
    run(house, settler, lambda _: Deferred("later", Scope.INSTANCE), claims=stale)
    run(house, settler, lambda _: Delivered(), claims=fresh)
    house.wait_states({State.DELIVERED: 1})
    assert house.deliveries()[0].attempts == 1


def test_closing_gives_back_what_is_still_held(house: House) -> None:
    settler = Settler(house.jobs, lease_seconds=60, kinds={"there": "dimse"}, wake=house.wake.notify)
    settler.start()
    house.receive(4)
    claims = claim_all(house)
    settler.hold(claims)
    assert settler.close(5)
    assert house.states() == {State.QUEUED: 4}


def test_nothing_is_settled_before_what_comes_first_was_written(house: House) -> None:
    """What has to be looked for afterwards is noted before the outcome is, or the outcome waits."""
    seen: list[tuple[int, float]] = []

    def before(settlements: Sequence[Settlement], now: float) -> None:
        seen.append((len(settlements), now))
        if len(seen) == 1:
            raise JobsError("not now")
        assert house.states() == {State.ACTIVE: 2}

    settler = Settler(house.jobs, lease_seconds=60, kinds={"there": "dimse"}, wake=house.wake.notify, before=before)
    settler.start()
    house.receive(2)
    run(house, settler, lambda _: Delivered())
    house.wait_states({State.DELIVERED: 2})
    assert settler.close(5)
    assert len(seen) == 2
    assert seen[1][0] == 2
    (row,) = {one.settled_at for one in house.deliveries()}
    assert row == seen[1][1], "both by the same clock"
