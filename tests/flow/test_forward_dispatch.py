"""The forward workers over the real spool, job table and staging, towards real peers and stand-ins."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import REGISTRY

from relaypacs.config.model import Destination
from relaypacs.forward.dispatch import Forwarder
from relaypacs.forward.source import ByteSource
from relaypacs.model import Claim, State
from relaypacs.wake.windows import LocalWindows
from tests.peers.dcmtk import STORESCP, StoreScp
from tests.peers.orthanc import Orthanc
from tests.peers.ports import answers, free_port, wait_until
from tests.peers.program import Program
from tests.peers.stock import StockScp, Stored
from tests.unit.forward.deliveries import JPEG_BASELINE, STUDY, dataset
from tests.unit.forward.house import NODE, House
from tests.unit.forward.webpeer import Reply, Request, WebPeer, module


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def start(house: House) -> Iterator[Callable[..., Forwarder]]:
    """`start([destination…])`: a forwarder that is stopped with the test."""
    started: list[Forwarder] = []

    def start(destinations: list[Destination], **settings: float) -> Forwarder:
        forwarder = house.forwarder(destinations, **settings)
        started.append(forwarder)
        forwarder.start()
        return forwarder

    yield start
    for forwarder in started:
        forwarder.stop(5.0)


def dimse(port: int, name: str = "there", **settings: object) -> Destination:
    values = {"called_ae": "ANY", "connect_timeout_seconds": 2, "response_timeout_seconds": 5, **settings}
    return Destination(name=name, kind="dimse", host="127.0.0.1", port=port, **values)  # type: ignore[arg-type]


def web(url: str, name: str = "there", **settings: object) -> Destination:
    values = {"connect_timeout_seconds": 2, "response_timeout_seconds": 5, **settings}
    return Destination(name=name, kind="dicomweb", url=url, **values)  # type: ignore[arg-type]


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def logged(capture: pytest.CaptureFixture[str], event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in capture.readouterr().err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def soon_logged(capture: pytest.CaptureFixture[str], event: str) -> list[dict[str, object]]:
    """The same, when there is one: a line may come after what it tells of can be seen in the job table."""
    found: list[dict[str, object]] = []
    wait_until(lambda: bool(found.extend(logged(capture, event)) or found), f"{event} in the log", 10.0)
    return found


def test_a_study_goes_to_two_orthancs_by_both_ways_hot_from_the_spool(
    house: House, start: Callable[..., Forwarder], orthanc: Callable[..., Orthanc]
) -> None:
    peer, other = orthanc("one"), orthanc("two")
    before = metric("relaypacs_deliveries_total", destination="web", outcome="delivered")
    start([dimse(peer.dicom_port, "pacs"), web(other.dicomweb_url, "web")])
    uids = house.receive(40, to=("pacs", "web"), pixels=20_000)
    house.wait_states({State.DELIVERED: 80})
    assert set(peer.instances()) == set(other.instances()) == set(uids)
    assert metric("relaypacs_deliveries_total", destination="web", outcome="delivered") == before + 40
    assert metric("relaypacs_destination_up", destination="pacs") == 1
    assert metric("pacs_connectivity", pacs_type="dicomweb") == 1
    assert house.jobs.ledger().imbalance == 0


def test_what_was_staged_is_sent_from_staging(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp]
) -> None:
    house.receive(20)
    house.stage_everything()
    assert house.reader.generations() == []
    scp = storescp()
    start([dimse(scp.port)])
    house.wait_states({State.DELIVERED: 20})
    assert len(scp.files()) == 20


def test_a_dead_destination_does_not_hold_up_another_and_comes_back(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp], capsys: pytest.CaptureFixture[str]
) -> None:
    scp = storescp()
    port = free_port()
    start([dimse(port, "dead", retry="9x2s"), dimse(scp.port, "alive")])
    house.receive(30, to=("dead", "alive"))
    house.wait_states({State.DELIVERED: 30, State.QUEUED: 29, State.DEFERRED: 1})
    time.sleep(1.0)
    assert metric("relaypacs_destination_up", destination="dead") == 0
    assert metric("relaypacs_destination_up", destination="alive") == 1
    tried = [one for one in house.deliveries() if one.attempts]
    assert sum(one.attempts for one in tried if one.destination == "dead") <= 3
    late = StockScp()
    late.port = port
    with late:
        house.wait_states({State.DELIVERED: 60})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    about = [line["event"] for line in lines if line.get("destination") == "dead"]
    assert about == ["destination-down", "destination-up"]
    assert "nothing listens there" in next(line["message"] for line in lines if line["event"] == "destination-down")


def test_a_hung_destination_keeps_its_own_window_only(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp]
) -> None:
    """A stand-in that accepts connections and says nothing."""
    hung = socket.create_server(("127.0.0.1", 0))
    scp = storescp()
    start([dimse(hung.getsockname()[1], "hung", connect_timeout_seconds=30), dimse(scp.port, "alive")])
    house.receive(20, to=("hung", "alive"))
    started = time.monotonic()
    while len(scp.files()) < 20:
        assert time.monotonic() - started < 10
        time.sleep(0.02)
    hung.close()


def test_a_poison_instance_stops_nobody(house: House, start: Callable[..., Forwarder]) -> None:
    """A peer that dies of one instance: its neighbours arrive in a moment, it stays and is tried by schedule."""
    uids = [f"{STUDY}.60.{number}" for number in range(9)]
    bodies = {uid: dataset(uid) for uid in uids}
    marker = bodies[uids[4]][-500:]

    def answer(request: Request) -> Reply:
        dies = any(marker in file for file in request.files)
        return Reply(200, module(request.uids), cut=dies)

    with WebPeer(answer) as peer:
        start([web(peer.url, associations=1, retry="3x1s,1x1h")])
        house.receive(bodies=bodies)
        house.wait_states({State.DELIVERED: 8, State.DEFERRED: 1})
        left = next(one for row in house.jobs.trace(uids[4]) for one in row.deliveries)
        assert left.state is State.DEFERRED


def test_refusals_are_dead_letters_with_a_log_line_that_says_the_mend(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp], capsys: pytest.CaptureFixture[str]
) -> None:
    scp = storescp(accept="+x=")
    start([dimse(scp.port)])
    house.receive(3)
    uids = house.receive(1, transfer_syntax=JPEG_BASELINE)
    house.wait_states({State.DELIVERED: 3, State.FAILED: 1})
    (line,) = soon_logged(capsys, "delivery-failed")
    assert "no presentation context for CT Image Storage in JPEG Baseline" in str(line["message"])
    assert line["trace_id"] == "association"
    assert uids[0] not in json.dumps(line)
    assert STUDY not in json.dumps(line)


def test_the_schedule_has_an_end(
    house: House, start: Callable[..., Forwarder], orthanc: Callable[..., Orthanc]
) -> None:
    """An instance without Study Instance UID draws A700 for ever: the dead letter ends it, and says so."""
    peer = orthanc()
    start([dimse(peer.dicom_port, retry="2x1s")])
    house.receive(bodies={f"{STUDY}.61.1": dataset(f"{STUDY}.61.1", study="")})
    house.receive(2)
    house.wait_states({State.DELIVERED: 2, State.FAILED: 1}, seconds=6)
    failed = next(one for one in house.deliveries() if one.state is State.FAILED)
    assert failed.attempts == 3
    assert failed.reason.startswith("given up after 3 attempts: the destination is out of resources (A700)")


def test_a_destination_out_of_resources_is_left_alone(house: House, start: Callable[..., Forwarder]) -> None:
    """After three A7xx in a row the rest waits untried, and it all arrives when there is room again."""
    full = threading.Event()
    full.set()
    with StockScp(answer=lambda _: 0xA700 if full.is_set() else 0) as peer:
        start([dimse(peer.port, associations=1, retry="99x1s")])
        house.receive(50)
        time.sleep(1.5)
        assert 3 <= peer.refused <= 6
        full.clear()
        house.wait_states({State.DELIVERED: 50})


def test_a_probe_is_one_instance(house: House, start: Callable[..., Forwarder]) -> None:
    """And an overloaded destination is asked once per pause, however many workers and instances wait."""
    with WebPeer(lambda request: Reply(503 if request.files else 200)) as peer:
        start([web(peer.url, associations=4, batch_instances=5)])
        house.receive(40)
        time.sleep(2.0)
        sizes = [len(request.uids) for request in peer.requests]
    assert sizes == [5, 0, 1]


def test_a_destination_that_is_down_is_asked_without_an_instance(house: House, start: Callable[..., Forwarder]) -> None:
    """However long it is down, one attempt is counted, and none of a study that comes meanwhile."""
    with WebPeer(lambda _: Reply(503)) as peer:
        start([web(peer.url, associations=4)])
        house.receive(10)
        time.sleep(3.5)
        sizes = [len(request.uids) for request in peer.requests]
    assert sizes[0] == 10
    assert 1 <= len(sizes) - 1 <= 2
    assert set(sizes[1:]) == {0}


def test_a_destination_that_takes_one_association_at_a_time_is_never_down(
    house: House, start: Callable[..., Forwarder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """storescp as it is shipped: a second association is left without an answer. No attempt is lost to that."""
    port = free_port()
    (tmp_path / "stored").mkdir()
    command = [STORESCP, "+B", "-aet", "ANY", "-od", str(tmp_path / "stored"), str(port)]
    program = Program(command, log_path=tmp_path / "log")
    try:
        program.wait_ready(lambda: answers(port), 10)
        start([dimse(port, "one", associations=3, batch_instances=5, max_objects_per_second=25, idle_seconds=1)])
        # 6 s: a second association is asked for after 1 s, and left alone after 2 s more.
        house.receive(150, to=("one",))
        house.wait_states({State.DELIVERED: 150}, seconds=25)
    finally:
        program.stop()
    assert {one.attempts for one in house.deliveries()} == {1}
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    about = [line["event"] for line in lines if line.get("destination") == "one"]
    assert about == ["destination-up", "destination-window"]
    assert metric("relaypacs_destination_window", destination="one") == 1


def test_the_window_grows_while_work_waits(house: House, start: Callable[..., Forwarder]) -> None:
    def slowly(_: object) -> int:
        time.sleep(0.05)
        return 0

    with StockScp(answer=slowly) as peer:
        start([dimse(peer.port, "wide", associations=3, batch_instances=4)])
        house.receive(120, to=("wide",))
        house.wait_states({State.DELIVERED: 120})
    assert metric("relaypacs_destination_window", destination="wide") >= 2


def test_a_poison_study_does_not_slow_its_destination(house: House, start: Callable[..., Forwarder]) -> None:
    """Every instance of one study draws A700, for ever: those of another arrive within seconds."""
    poison, good = f"{STUDY}.666", f"{STUDY}.667"
    bad = set(house.receive(60, study=poison))

    def answer(one: Stored) -> int:
        return 0xA700 if one.sop_instance_uid in bad else 0

    house.receive(30, study=good)
    with StockScp(answer=answer) as peer:
        start([dimse(peer.port, associations=2, batch_instances=20, retry="99x1s")])
        house.wait_states({State.DELIVERED: 30}, study=good, seconds=6)
        house.receive(30, study=good)
        house.wait_states({State.DELIVERED: 60}, study=good, seconds=6)


def test_outside_its_hours_a_destination_is_left_alone(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp]
) -> None:
    scp = storescp()
    hour = time.localtime().tm_hour
    closed = f"{(hour + 2) % 24:02}:00-{(hour + 3) % 24:02}:00"
    opened = f"{hour:02}:00-{(hour + 2) % 24:02}:00"
    start([dimse(scp.port, "closed", send_between=closed), dimse(scp.port, "opened", send_between=opened)])
    house.receive(3, to=("closed", "opened"))
    house.wait_states({State.DELIVERED: 3, State.QUEUED: 3})
    time.sleep(0.5)
    assert house.states() == {State.DELIVERED: 3, State.QUEUED: 3}


def test_stopping_finishes_the_instance_in_flight_and_gives_back_the_rest(house: House) -> None:
    def slowly(_: object) -> int:
        time.sleep(0.3)
        return 0

    with StockScp(answer=slowly) as peer:
        forwarder = house.forwarder([dimse(peer.port, associations=1)])
        forwarder.start()
        house.receive(20)
        peer.wait_stored(2)
        started = time.monotonic()
        assert forwarder.stop(5.0)
        assert time.monotonic() - started < 2.0
        states = house.states()
        assert states == {State.DELIVERED: len(peer.stored), State.QUEUED: 20 - len(peer.stored)}
        assert all(one.attempts == 0 for one in house.deliveries() if one.state is State.QUEUED)


def test_stopping_in_front_of_a_hung_peer_takes_no_longer_than_it_may(house: House) -> None:
    hung = threading.Event()

    def hang(_: object) -> int:
        hung.wait(20)
        return 0

    with StockScp(answer=hang) as peer:
        forwarder = house.forwarder([dimse(peer.port, associations=1, response_timeout_seconds=60)])
        forwarder.start()
        house.receive(5)
        time.sleep(0.5)
        started = time.monotonic()
        assert not forwarder.stop(1.0)
        assert time.monotonic() - started < 2.5
        assert house.states() == {State.QUEUED: 5}
        hung.set()


def test_leases_are_renewed_while_a_batch_lasts(house: House, start: Callable[..., Forwarder]) -> None:
    """A batch that takes several times its lease is nobody else's meanwhile: each instance arrives once."""

    def slowly(_: object) -> int:
        time.sleep(0.25)
        return 0

    with StockScp(answer=slowly) as peer:
        start([dimse(peer.port, associations=2)], lease_seconds=0.6)
        house.receive(12)
        house.wait_states({State.DELIVERED: 12})
        assert len(peer.stored) == 12
        assert max(one.attempts for one in house.deliveries()) == 1


def test_a_locked_job_table_delays_settling_and_loses_nothing(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp]
) -> None:
    scp = storescp()
    start([dimse(scp.port)])
    house.receive(1)
    house.wait_states({State.DELIVERED: 1})
    blocker = sqlite3.connect(house.folder / "jobs.sqlite", isolation_level=None)
    house.receive(10)
    blocker.execute("BEGIN EXCLUSIVE")
    time.sleep(7)
    blocker.execute("ROLLBACK")
    blocker.close()
    house.wait_states({State.DELIVERED: 11})
    assert len(scp.files()) == 11


def test_nothing_to_do_costs_nothing(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp]
) -> None:
    scp = storescp()
    start([dimse(scp.port, "there", idle_seconds=0.2), *(dimse(free_port(), f"idle-{number}") for number in range(20))])
    house.receive(3)
    house.wait_states({State.DELIVERED: 3})
    time.sleep(0.8)
    assert scp.program.log().count("Association Release") == 1
    before = sum(psutil.Process().cpu_times()[:2])
    time.sleep(2.0)
    assert sum(psutil.Process().cpu_times()[:2]) - before < 0.05


def test_bytes_that_rot_on_disk_are_never_sent(
    house: House, start: Callable[..., Forwarder], storescp: Callable[..., StoreScp], capsys: pytest.CaptureFixture[str]
) -> None:
    scp = storescp()
    house.receive(3, pixels=3 << 20)
    house.stage_everything()
    victim = sorted(house.folder.joinpath("staging").rglob("*.dcm"))[0]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(content)
    missing = sorted(house.folder.joinpath("staging").rglob("*.dcm"))[1]
    missing.unlink()
    start([dimse(scp.port)])
    house.wait_states({State.DELIVERED: 1, State.FAILED: 1, State.DEFERRED: 1})
    assert len(scp.files()) == 1
    failures = soon_logged(capsys, "delivery-failed")
    assert "not those that were received" in str(failures[0]["message"])
    assert "can't read the instance" in next(one.reason for one in house.deliveries() if one.state is State.DEFERRED)


def test_a_bug_in_the_job_table_does_not_end_the_worker(
    house: House, storescp: Callable[..., StoreScp], capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception nobody expected is a pause and a log line; then the work goes on."""
    scp = storescp()

    class Failing:
        """The job table, failing the first claims in a way it never should."""

        def __init__(self) -> None:
            self.failures = 2

        def claim(self, *arguments: object, **named: object) -> list[Claim]:
            if self.failures:
                self.failures -= 1
                raise ZeroDivisionError
            return house.jobs.claim(*arguments, **named)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(house.jobs, name)

    forwarder = Forwarder(
        [dimse(scp.port, associations=1)],
        jobs=Failing(),  # type: ignore[arg-type]
        source=ByteSource(house.reader, house.staging),
        wake=house.wake,
        windows=LocalWindows(),
        node=NODE,
        lease_seconds=60,
        calling_ae="RELAYPACS",
    )
    forwarder.start()
    house.receive(3)
    house.wait_states({State.DELIVERED: 3})
    assert forwarder.stop(5.0)
    lines = logged(capsys, "forward-bug")
    assert len(lines) == 2
    assert "ZeroDivisionError" in str(lines[0]["message"])
    assert str(lines[0]["place"]).startswith("test_forward_dispatch.py:")


def test_what_is_gone_has_no_outage(house: House) -> None:
    """A destination that was taken out while it was down is not told of for ever."""
    house.jobs.destinations.fallbacks.began("gone", NODE, time.time() - 100)
    house.jobs.destinations.fallbacks.began("gone", "another-node", time.time() - 100)
    with StockScp() as peer:
        forwarder = house.forwarder([dimse(peer.port, "there")])
        forwarder.start()
        wait_until(lambda: len(house.jobs.destinations.fallbacks.outages()) == 1, "the outage to end", 5.0)
        assert forwarder.stop(5)
    (left,) = house.jobs.destinations.fallbacks.outages()
    assert left.node == "another-node"
