"""STOW-RS forwarding against a real Orthanc with its DICOMweb plugin, and against dialects played by a stand-in."""

from __future__ import annotations

import base64
import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.config.secrets import Credentials, credentials
from relaypacs.forward.memory import Memory
from relaypacs.forward.sender import Payload
from relaypacs.forward.stow import StowSender
from relaypacs.model import Claim, Deferred, Delivered, Failed, Scope
from tests.peers.orthanc import Orthanc
from tests.unit.forward.deliveries import STUDY, Deliveries, dataset
from tests.unit.forward.webpeer import Reply, Request, WebPeer, module


def sender_to(
    url: str, environment: Mapping[str, str] | None = None, memory: Memory | None = None, **settings: object
) -> StowSender:
    values = {"connect_timeout_seconds": 5, "response_timeout_seconds": 5, **settings}
    there = Destination(name="there", kind="dicomweb", url=url, **values)  # type: ignore[arg-type]
    return StowSender(there, lambda: credentials(there, environment or {}), memory=memory)


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def one_site(deliveries: Deliveries) -> str:
    """The reason, where every outcome is the same deferral of the site."""
    found = set(deliveries.outcomes.values())
    assert len(found) == 1
    outcome = found.pop()
    assert isinstance(outcome, Deferred)
    assert outcome.scope is Scope.SITE
    return outcome.reason


# --- Orthanc ---------------------------------------------------------------------------------------------------------


def test_orthanc_stores_every_byte_and_repeats_are_delivered(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc()
    deliveries = Deliveries()
    for number, pixels in enumerate((0, 512, 70_000, 3 << 20, 512)):
        uid = f"{STUDY}.21.{number}"
        deliveries.add(dataset(uid, pixels=pixels), uid=uid)
    sender = sender_to(f"{peer.dicomweb_url}/", max_request_bytes=1 << 20)
    assert deliveries.deliver(sender) is None
    assert set(deliveries.outcomes.values()) == {Delivered(0)}
    files = peer.files()
    for claim in deliveries.claims:
        with deliveries.read(claim) as payload:
            assert files[claim.sop_instance_uid] == bytes(payload.file)
    deliveries.outcomes.clear()
    assert deliveries.deliver(sender) is None
    sender.close()
    assert set(deliveries.outcomes.values()) == {Delivered(0)}
    assert peer.count() == 5


def test_orthanc_names_the_bad_ones_and_the_good_ones_arrive(orthanc: Callable[..., Orthanc]) -> None:
    """400 with the good ones listed: the body decides. What it does not name is the culprit."""
    peer = orthanc()
    deliveries = Deliveries()
    good = [deliveries.add_new() for _ in range(2)]
    garbage = deliveries.add(os.urandom(300), uid=f"{STUDY}.22.1")
    no_study = deliveries.add(dataset(f"{STUDY}.22.2", study=""), uid=f"{STUDY}.22.2")
    good.append(deliveries.add_new())
    other_uid = deliveries.add(dataset(f"{STUDY}.22.3"), uid=f"{STUDY}.22.4")
    sender = sender_to(peer.dicomweb_url)
    assert deliveries.deliver(sender) is None
    sender.close()
    assert {deliveries.outcome(claim) for claim in good} == {Delivered(0)}
    reasons = []
    for claim, status in ((garbage, 400), (no_study, 0xC000), (other_uid, None)):
        outcome = deliveries.outcome(claim)
        assert isinstance(outcome, Failed)
        assert outcome.status == status
        reasons.append(outcome.reason)
    assert "another SOP Instance UID" in reasons[2]


def test_only_garbage_fails_alone(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc()
    deliveries = Deliveries()
    for number in range(4):
        deliveries.add(os.urandom(300), uid=f"{STUDY}.23.{number}")
    sender = sender_to(peer.dicomweb_url)
    assert deliveries.deliver(sender) is None
    sender.close()
    assert all(isinstance(outcome, Failed) for outcome in deliveries.outcomes.values())
    assert len(deliveries.outcomes) == 4


def test_orthanc_wants_credentials(orthanc: Callable[..., Orthanc], tmp_path: Path) -> None:
    script = tmp_path / "filter.lua"
    script.write_text(f"""
        function IncomingHttpRequestFilter(method, uri, ip, username, headers)
            return uri == "/system" or headers["authorization"] == "{_basic("relay:secret")}"
        end""")
    peer = orthanc(LuaScripts=[str(script)])
    environment = {"PACS_USERNAME": "relay", "PACS_PASSWORD": "wrong"}
    deliveries = Deliveries()
    claim = deliveries.add_new()
    sender = sender_to(peer.dicomweb_url, environment, credentials_env="PACS")
    trouble = deliveries.deliver(sender)
    assert trouble is not None
    assert trouble.reason == one_site(deliveries)
    assert "`credentials_env` = PACS" in trouble.reason
    deliveries.outcomes.clear()
    environment["PACS_PASSWORD"] = "secret"  # rotated: used at once
    assert deliveries.deliver(sender) is None
    assert deliveries.outcome(claim) == Delivered(0)
    sender.close()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_orthanc_with_a_full_disk_lies_and_nothing_counts_as_delivered(
    orthanc: Callable[..., Orthanc], tmp_path: Path
) -> None:
    """It answers 200 with both sequences empty (FIELD)."""
    with small_disk(tmp_path / "disk", "3m") as disk:
        peer = orthanc(StorageDirectory=str(disk))
        deliveries = Deliveries()
        for number in range(6):
            uid = f"{STUDY}.24.{number}"
            deliveries.add(dataset(uid, pixels=1 << 20), uid=uid)
        sender = sender_to(peer.dicomweb_url, max_request_bytes=1 << 20)
        trouble = deliveries.deliver(sender)
        sender.close()
        assert trouble is not None
        stored = {uid for uid, outcome in _by_uid(deliveries).items() if outcome == Delivered(0)}
        assert stored == set(peer.instances())
        assert 0 < len(stored) < 6
        last = list(deliveries.outcomes.values())[-1]
        assert isinstance(last, Deferred)
        assert last.scope is Scope.SITE
        peer.stop()


def _by_uid(deliveries: Deliveries) -> dict[str, object]:
    return {claim.sop_instance_uid: deliveries.outcome(claim) for claim in deliveries.claims}


# --- dialects, by a stand-in -----------------------------------------------------------------------------------------


def test_requests_are_shared_out_and_use_one_connection() -> None:
    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        deliveries = Deliveries()
        for number in range(6):
            uid = f"{STUDY}.31.{number}"
            deliveries.add(dataset(uid, pixels=400_000), uid=uid)
        first = deliveries.claims[0].sop_instance_uid
        deliveries.add(dataset(first, pixels=2), uid=first)
        again = deliveries.add_new(attempts=2)
        sender = sender_to(peer.url, max_request_bytes=1 << 20)
        assert deliveries.deliver(sender) is None
        assert [len(request.uids) for request in peer.requests] == [2, 2, 1, 3]
        assert peer.requests[2].uids == [again.sop_instance_uid]
        assert peer.connections == 1
        request = peer.requests[0]
        assert request.path == "/rs/studies"
        assert request.headers["Accept"] == "application/dicom+json"
        assert request.headers["X-Trace-Id"] == "association"
        assert request.headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
        assert "Transfer-Encoding" not in request.headers
        sent = [file for one in peer.requests for file in one.files]
        for claim in deliveries.claims:
            with deliveries.read(claim) as payload:
                assert bytes(payload.file) in sent
        sender.rest()
        assert deliveries.deliver(sender, [deliveries.add_new()]) is None
        assert peer.connections == 2
        sender.close()
    assert set(deliveries.outcomes.values()) == {Delivered(0)}


def test_the_same_uid_never_twice_in_a_request() -> None:
    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        deliveries = Deliveries()
        for pixels in (2, 4, 6):
            deliveries.add(dataset(f"{STUDY}.32.1", pixels=pixels), uid=f"{STUDY}.32.1")
        sender = sender_to(peer.url)
        deliveries.deliver(sender)
        sender.close()
        assert [len(request.uids) for request in peer.requests] == [1, 1, 1]


def test_failure_reasons_decide_each_instance() -> None:
    """dcm4chee's and Azure's way: 202 or 409 with a reason for each; Azure calls a duplicate 45070."""
    reasons = [0xA700, 0xA900, 0xC000, 0x0110, 0x0122, 45070, 0x0111, 0x4711, None]

    def answer(request: Request) -> Reply:
        failed = dict(zip(request.uids, reasons, strict=False))
        return Reply(202, module(request.uids[len(reasons) :], failed))

    with WebPeer(answer) as peer:
        deliveries = Deliveries()
        claims = [deliveries.add_new() for _ in range(len(reasons) + 1)]
        sender = sender_to(peer.url)
        assert deliveries.deliver(sender) is None
        sender.close()
    kinds = [type(deliveries.outcome(claim)) for claim in claims]
    assert kinds == [Deferred, Failed, Failed, Deferred, Failed, Delivered, Delivered, Deferred, Deferred, Delivered]
    assert all(one.scope is Scope.INSTANCE for one in deliveries.outcomes.values() if isinstance(one, Deferred))


def test_a_kind_that_is_refused_is_remembered_until_one_is_stored() -> None:
    """By Failure Reason, or by 415 to an instance alone; not for what is wrong with the instance."""
    answers = iter([(202, 0xC122), (200, None), (202, 0x0122), (202, 0xA900), (415, None)])

    def answer(request: Request) -> Reply:
        status, reason = next(answers)
        failed = {request.uids[0]: reason} if reason else {}
        return Reply(status, b"" if status == 415 else module([] if failed else request.uids, failed))

    memory = Memory()
    found = []
    with WebPeer(answer) as peer:
        sender = sender_to(peer.url, memory=memory)
        for _ in range(5):
            deliveries = Deliveries()
            claim = deliveries.add_new()
            deliveries.deliver(sender)
            found.append(memory.refused() == {(claim.sop_class_uid, claim.transfer_syntax_uid)})
            memory.forget(memory.refused() if len(found) in (3, 4) else ())
        sender.close()
    assert found == [True, False, True, False, True]


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_a_request_refused_whole_is_split_until_the_culprit_is_alone(status: int) -> None:
    poison: list[str] = []

    def answer(request: Request) -> Reply:
        return (
            Reply(status, b"<html>no</html>") if set(poison) & set(request.uids) else Reply(200, module(request.uids))
        )

    with WebPeer(answer) as peer:
        deliveries = Deliveries()
        claims = [deliveries.add_new() for _ in range(16)]
        poison += [claims[5].sop_instance_uid, claims[14].sop_instance_uid]
        sender = sender_to(peer.url)
        assert deliveries.deliver(sender) is None
        sender.close()
        for number, claim in enumerate(claims):
            outcome = deliveries.outcome(claim)
            if number in (5, 14):
                assert isinstance(outcome, Failed)
                assert outcome.status == status
            else:
                assert outcome == Delivered(0)
        assert len(peer.requests) < 20


def test_what_refuses_everything_without_dicom_json_is_no_reason_to_give_up_an_instance() -> None:
    """A proxy that answers 400 to all: nothing is dead-lettered, and the destination is left alone soon."""
    with WebPeer(lambda _: Reply(400, b"The plain HTTP request was sent to HTTPS port")) as peer:
        deliveries = Deliveries()
        for _ in range(16):
            deliveries.add_new()
        sender = sender_to(peer.url)
        trouble = deliveries.deliver(sender)
        sender.close()
        assert trouble is not None
        assert "check `url`" in trouble.reason
        assert len(peer.requests) < 10
    assert len(deliveries.outcomes) == 3
    assert all(isinstance(outcome, Deferred) for outcome in deliveries.outcomes.values())


NONSENSE = [
    b"",
    b"OK",
    b"{}",
    b"null",
    b"[]",
    b'{"stored": true}',
    b'{"00081199": 7}',
    b'{"00081199": {"vr": "SQ", "Value": 5}}',
    b'{"00081199": {"vr": "SQ", "Value": [5, {"00081155": {"vr": "UI", "Value": [5]}}, null]}}',
    b"[" * 100_000,
    b'{"00081199":' * 50_000,
    b'{"00081199": {"vr": "SQ"}} ' + b" " * (1 << 20),
    b"\xff\xfe",
    module() + b"x",
    b"<NativeDicomModel/>",
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_with_200_delivers_nothing(body: bytes) -> None:
    with WebPeer(lambda _: Reply(200, body)) as peer:
        deliveries = Deliveries()
        deliveries.add_new()
        deliveries.add_new()
        sender = sender_to(peer.url)
        assert deliveries.deliver(sender) is not None
        sender.close()
    assert "without naming what it stored" in one_site(deliveries)
    assert len(deliveries.outcomes) == 2


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (204, "without naming"),
        (301, "redirects"),
        (307, "redirects"),
        (401, "does not accept our credentials"),
        (403, "does not allow"),
        (404, "correct `url`"),
        (405, "correct `url`"),
        (406, "dicom+json"),
        (408, "later"),
        (429, "later"),
        (500, "HTTP 500"),
        (502, "HTTP 502"),
        (503, "HTTP 503"),
        (507, "no space"),
    ],
)
def test_statuses_that_speak_of_the_destination(status: int, says: str) -> None:
    headers = {"Retry-After": "17", "Location": "http://169.254.169.254/latest/meta-data/"}
    with WebPeer(lambda _: Reply(status, b"", headers)) as peer:
        deliveries = Deliveries()
        deliveries.add_new()
        sender = sender_to(peer.url)
        trouble = deliveries.deliver(sender)
        sender.close()
        assert len(peer.requests) == 1
    assert trouble is not None
    assert trouble.retry_after_seconds == 17
    assert says in one_site(deliveries)


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    with WebPeer(lambda request: Reply(200, module(request.uids) + b" " * (1 << 20))) as peer:
        deliveries = Deliveries()
        deliveries.add_new()
        sender = sender_to(peer.url)
        assert deliveries.deliver(sender) is not None
        sender.close()
    one_site(deliveries)


def test_an_answer_compressed_against_our_wish_is_not_inflated() -> None:
    with WebPeer(lambda request: Reply(200, module(request.uids), {"Content-Encoding": "gzip"})) as peer:
        deliveries = Deliveries()
        deliveries.add_new()
        sender = sender_to(peer.url)
        assert deliveries.deliver(sender) is not None
        sender.close()


def test_a_connection_cut_in_the_middle_defers_what_was_in_it() -> None:
    """And the retry of each goes alone, so that a poison instance that kills the peer stops nobody for long."""
    numbers = itertools.count()
    with WebPeer(lambda request: Reply(200, module(request.uids), cut=next(numbers) == 1)) as peer:
        deliveries = Deliveries()
        for number in range(6):
            uid = f"{STUDY}.33.{number}"
            deliveries.add(dataset(uid, pixels=400_000), uid=uid)
        sender = sender_to(peer.url, max_request_bytes=1 << 20)
        # The second request finds its kept connection closed and is repeated once on a new one.
        assert deliveries.deliver(sender) is None
        assert [len(request.uids) for request in peer.requests] == [2, 2, 2, 2]
        sender.close()
    with WebPeer(lambda request: Reply(200, cut=True)) as peer:
        deliveries.outcomes.clear()
        sender = sender_to(peer.url, max_request_bytes=1 << 20)
        assert deliveries.deliver(sender) is not None
        sender.close()
        assert len(deliveries.outcomes) == 2
        assert "broke the exchange off" in one_site(deliveries)


def test_a_peer_that_never_answers_is_given_up_in_time() -> None:
    silence = threading.Event()

    def wait(_: Request) -> Reply:
        silence.wait(10)
        return Reply(200)

    with WebPeer(wait) as peer:
        deliveries = Deliveries()
        deliveries.add_new()
        sender = sender_to(peer.url, response_timeout_seconds=0.3)
        started = time.monotonic()
        assert deliveries.deliver(sender) is not None
        assert time.monotonic() - started < 3
        silence.set()
        sender.close()
    assert "silent" in one_site(deliveries)


def test_a_peer_that_drips_its_answer_is_given_up_in_time() -> None:
    """A stand-in that sends a byte now and then, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not done.wait(0.05):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    deliveries = Deliveries()
    deliveries.add_new()
    sender = sender_to(f"http://127.0.0.1:{listener.getsockname()[1]}", response_timeout_seconds=0.5)
    assert deliveries.deliver(sender) is not None
    done.set()
    thread.join()
    listener.close()
    one_site(deliveries)


@pytest.mark.parametrize("drop", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H", b"HTTP/1.1 200 OK\r\nX-Drop: 1\r\n"])
def test_a_peer_that_never_ends_the_head_of_its_answer_is_given_up_in_time(drop: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            while not done.wait(0.05):
                try:
                    connection.sendall(drop)
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    deliveries = Deliveries()
    deliveries.add_new()
    sender = sender_to(f"http://127.0.0.1:{listener.getsockname()[1]}", response_timeout_seconds=0.3)
    started = time.monotonic()
    killer = threading.Timer(8, done.set)
    killer.start()
    assert deliveries.deliver(sender) is not None
    assert time.monotonic() - started < 4
    killer.cancel()
    done.set()
    thread.join()
    listener.close()
    assert "silent for too long" in one_site(deliveries)


def test_a_bearer_token_is_sent_and_read_anew_from_its_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        deliveries = Deliveries()
        sender = sender_to(peer.url, {"ARC_TOKEN_FILE": str(token)}, credentials_env="ARC")
        deliveries.deliver(sender, [deliveries.add_new()])
        token.write_text("two")
        deliveries.deliver(sender, [deliveries.add_new()])
        token.unlink()
        trouble = deliveries.deliver(sender, [deliveries.add_new()])
        sender.close()
        basic = sender_to(peer.url, {"ARC_USERNAME": "u", "ARC_PASSWORD": "p:ä"}, credentials_env="ARC")
        deliveries.deliver(basic, [deliveries.add_new()])
        basic.close()
        sent = [request.headers["Authorization"] for request in peer.requests]
    assert trouble is not None
    assert "ARC_TOKEN_FILE" in trouble.reason
    assert sent == ["Bearer one", "Bearer two", _basic("u:p:ä")]


def test_a_certificate_nobody_vouches_for_stops_everything() -> None:
    """TLS is always verified; a peer without TLS on an https URL says so too."""
    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        deliveries = Deliveries()
        deliveries.add_new()
        trouble = deliveries.deliver(sender_to(peer.url.replace("http:", "https:")))
    assert trouble is not None
    assert "TLS handshake failed" in trouble.reason
    assert peer.requests == []


def test_corrupt_bytes_are_left_out_of_the_request() -> None:
    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        deliveries = Deliveries()
        good = deliveries.add_new()
        bad = deliveries.add_new(crc32c=1)
        gone = deliveries.add_new()
        deliveries.unreadable = {gone.delivery_id}
        sender = sender_to(peer.url)
        assert deliveries.deliver(sender) is None
        sender.close()
        assert peer.requests[0].uids == [good.sop_instance_uid]
    assert isinstance(deliveries.outcome(bad), Failed)
    assert deliveries.outcome(gone) is None
    assert deliveries.outcome(good) == Delivered(0)


def test_bytes_that_change_after_they_were_opened_never_arrive_whole() -> None:
    """As under a worker that slept past its lease, whose segment was written anew meanwhile."""
    deliveries = Deliveries()
    good = deliveries.add_new()
    uid = f"{STUDY}.44.1"
    bad = deliveries.add(dataset(uid, pixels=4 << 20), uid=uid)
    whole = deliveries._files[bad.delivery_id]
    assert isinstance(whole, bytes)
    changing = bytearray(whole)

    def change() -> Credentials:
        """Asked when everything was opened and checked, before the first byte is sent."""
        changing[-1] ^= 1
        return Credentials()

    @contextmanager
    def read(claim: Claim) -> Iterator[Payload]:
        at = claim.location
        with deliveries.read(claim) as payload:
            file = memoryview(changing) if claim is bad else payload.file
            yield Payload(file, file[at.dataset_offset :], at.dataset_crc32c)

    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        there = Destination(name="there", kind="dicomweb", url=peer.url)
        sender = StowSender(there, change)
        assert sender.deliver(deliveries.claims, read, deliveries.report, deliveries.proceed) is None
        sender.close()
        assert peer.requests[-1].uids == [good.sop_instance_uid]
        assert not any(bad.sop_instance_uid in request.uids for request in peer.requests)
    assert isinstance(deliveries.outcome(bad), Failed)
    assert deliveries.outcome(good) == Delivered(0)


def test_stopping_ends_between_requests() -> None:
    with WebPeer(lambda request: Reply(200, module(request.uids))) as peer:
        deliveries = Deliveries()
        for number in range(6):
            uid = f"{STUDY}.34.{number}"
            deliveries.add(dataset(uid, pixels=600_000), uid=uid)
        deliveries.proceed_until = 2
        sender = sender_to(peer.url, max_request_bytes=1 << 20)
        assert deliveries.deliver(sender) is None
        sender.close()
    assert len(deliveries.outcomes) == 2
