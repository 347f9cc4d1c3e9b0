"""C-STORE forwarding against DCMTK's storescp and a real Orthanc: bytes, refusals, rejections, re-association."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.dicom.part10 import read_file_head
from relaypacs.forward.cstore import CStoreSender
from relaypacs.model import Deferred, Delivered, Failed, Scope
from tests.peers.dcmtk import StoreScp
from tests.peers.orthanc import Orthanc
from tests.peers.ports import answers, free_port, wait_until
from tests.unit.forward.deliveries import (
    EXPLICIT,
    IMPLICIT,
    JPEG_BASELINE,
    MR,
    STUDY,
    Deliveries,
    dataset,
    element,
)


def sender_to(port: int, called_ae: str, **settings: object) -> CStoreSender:
    values = {"connect_timeout_seconds": 5, "response_timeout_seconds": 5, **settings}
    one = Destination(name="there", kind="dimse", host="127.0.0.1", port=port, called_ae=called_ae, **values)  # type: ignore[arg-type]
    return CStoreSender(one, "RELAYPACS")


def stored(scp: StoreScp) -> dict[str, bytes]:
    """SOP Instance UID to dataset, as storescp wrote them."""
    found = {}
    for path in scp.files():
        content = path.read_bytes()
        head = read_file_head(content[:65536], file_length=len(content))
        found[head.sop_instance_uid] = content[head.dataset_offset :]
    return found


@pytest.mark.parametrize("options", [("-pm", "-pdu", "4096"), ("-pm", "-pdu", "131072")])
def test_bytes_arrive_as_they_are_in_pdus_of_any_size(
    storescp: Callable[..., StoreScp], options: tuple[str, ...]
) -> None:
    scp = storescp(options=options)
    deliveries = Deliveries()
    for number, pixels in enumerate((0, 2, 4080, 4084, 4086, 16384, 1 << 20, (3 << 20) + 7, 130_000)):
        uid = f"{STUDY}.9.{number}"
        deliveries.add(dataset(uid, pixels=pixels), uid=uid)
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert all(deliveries.outcome(claim) == Delivered(0) for claim in deliveries.claims)
    found = stored(scp)
    assert found == {claim.sop_instance_uid: deliveries.body(claim) for claim in deliveries.claims}


def test_private_datasets_pass_as_they_are(storescp: Callable[..., StoreScp]) -> None:
    """Nothing is parsed or padded: what a dataset holds is the destination's to judge."""
    scp = storescp()
    deliveries = Deliveries()
    good = deliveries.add_new()
    private = dataset(f"{STUDY}.7.1") + element(0x7FE10010, "UN", bytes(range(256)) * 40)
    odd = deliveries.add(private, uid=f"{STUDY}.7.1")
    last = deliveries.add_new()
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert stored(scp)[odd.sop_instance_uid] == private
    assert {deliveries.outcome(good), deliveries.outcome(last)} == {Delivered(0)}


def test_each_stored_transfer_syntax_has_a_context_of_its_own(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    deliveries = Deliveries()
    uids = [f"{STUDY}.3.{number}" for number in range(4)]
    bodies = [dataset(uid, pixels=400 + 2 * number) for number, uid in enumerate(uids)]
    for uid, body, syntax in zip(uids, bodies, (EXPLICIT, IMPLICIT, JPEG_BASELINE, EXPLICIT), strict=True):
        deliveries.add(body, uid=uid, transfer_syntax=syntax)
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    for path in scp.files():
        content = path.read_bytes()
        head = read_file_head(content[:65536], file_length=len(content))
        claim = next(one for one in deliveries.claims if one.sop_instance_uid == head.sop_instance_uid)
        assert head.transfer_syntax_uid == claim.transfer_syntax_uid
        assert content[head.dataset_offset :] == bodies[uids.index(head.sop_instance_uid)]


def test_what_the_destination_has_no_context_for_fails_with_the_mend_and_the_rest_arrives(
    storescp: Callable[..., StoreScp],
) -> None:
    scp = storescp(accept="+x=")
    deliveries = Deliveries()
    good = deliveries.add_new()
    uid = f"{STUDY}.4.1"
    compressed = deliveries.add(dataset(uid), uid=uid, transfer_syntax=JPEG_BASELINE)
    after = deliveries.add_new()
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert deliveries.outcome(good) == deliveries.outcome(after) == Delivered(0)
    assert deliveries.outcome(compressed) == Failed(
        "destination accepts no presentation context for CT Image Storage in JPEG Baseline (Process 1): "
        "enable it there or route this elsewhere"
    )


def test_a_peer_that_accepts_no_context_at_all(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp(accept="+x=")
    deliveries = Deliveries()
    claims = [deliveries.add_new(transfer_syntax=JPEG_BASELINE) for _ in range(3)]
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert all(isinstance(deliveries.outcome(claim), Failed) for claim in claims)


def test_more_than_128_contexts_use_more_associations(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    deliveries = Deliveries()
    for number in range(140):
        uid = f"{STUDY}.5.{number}"
        deliveries.add(dataset(uid, pixels=0), uid=uid, sop_class=f"1.2.826.0.1.3680043.10.99.{number}")
    ok = deliveries.add_new()
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert len(deliveries.outcomes) == 141
    assert deliveries.outcome(ok) == Delivered(0)


def test_the_association_is_kept_between_batches_and_widened_when_needed(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    deliveries = Deliveries()
    sender = sender_to(scp.port, "STORESCP")
    for _ in range(3):
        assert deliveries.deliver(sender, [deliveries.add_new()]) is None
    assert scp.program.log().count("Association Acknowledged") == 1
    uid = f"{STUDY}.6.1"
    mr = deliveries.add(dataset(uid, sop_class=MR), uid=uid, sop_class=MR)
    assert deliveries.deliver(sender, [mr]) is None
    assert deliveries.deliver(sender, [deliveries.add_new()]) is None
    sender.rest()
    time.sleep(0.2)
    assert scp.program.log().count("Association Acknowledged") == 2
    assert scp.program.log().count("Association Release") == 2
    assert set(deliveries.outcomes.values()) == {Delivered(0)}


def test_corrupt_bytes_never_leave_whole(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    deliveries = Deliveries()
    small = deliveries.add_new(crc32c=1)
    uid = f"{STUDY}.8.1"
    large = deliveries.add(dataset(uid, pixels=5 << 20), uid=uid, crc32c=2)
    good = deliveries.add_new()
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    for claim in (small, large):
        outcome = deliveries.outcome(claim)
        assert isinstance(outcome, Failed)
        assert "not those that were received" in outcome.reason
    assert deliveries.outcome(good) == Delivered(0)
    assert set(stored(scp)) == {good.sop_instance_uid}


def test_unreadable_instances_are_passed_over(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    deliveries = Deliveries()
    claims = [deliveries.add_new() for _ in range(3)]
    deliveries.unreadable = {claims[1].delivery_id}
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert [deliveries.outcome(claim) for claim in claims] == [Delivered(0), None, Delivered(0)]


def test_a_destination_that_refuses_associations_is_in_trouble(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp(options=("-pm", "--refuse"))
    deliveries = Deliveries()
    claims = [deliveries.add_new() for _ in range(3)]
    trouble = deliveries.deliver(sender_to(scp.port, "STORESCP"))
    assert trouble is not None
    assert "rejected the association for good (1/1/1)" in trouble.reason
    assert deliveries.outcome(claims[0]) == Deferred(trouble.reason, Scope.SITE)
    assert len(deliveries.outcomes) == 1


@pytest.mark.parametrize("option", ["--abort-during", "--abort-after"])
def test_a_peer_that_aborts(storescp: Callable[..., StoreScp], option: str) -> None:
    scp = storescp(options=("-pm", option))
    deliveries = Deliveries()
    for _ in range(3):
        uid = f"{STUDY}.11.{len(deliveries.claims)}"
        deliveries.add(dataset(uid, pixels=1 << 20), uid=uid)
    trouble = deliveries.deliver(sender_to(scp.port, "STORESCP"))
    assert trouble is not None
    assert trouble.reason.startswith("destination aborted the association (0/0)")
    assert list(deliveries.outcomes.values()) == [Deferred(trouble.reason, Scope.SITE)]


def test_nobody_listens() -> None:
    deliveries = Deliveries()
    deliveries.add_new()
    deliveries.add_new()
    trouble = deliveries.deliver(sender_to(free_port(), "ANY"))
    assert trouble is not None
    assert "nothing listens there" in trouble.reason
    assert len(deliveries.outcomes) == 1


def test_a_peer_that_went_away_between_batches_costs_no_attempt(storescp: Callable[..., StoreScp]) -> None:
    scp = storescp()
    deliveries = Deliveries()
    sender = sender_to(scp.port, "STORESCP")
    assert deliveries.deliver(sender, [deliveries.add_new()]) is None
    scp.stop()
    wait_until(lambda: not answers(scp.port), "the children that shared its listener gone", 5.0)
    scp.start()
    assert deliveries.deliver(sender, [deliveries.add_new()]) is None
    assert set(deliveries.outcomes.values()) == {Delivered(0)}
    sender.close()


def test_orthanc_takes_a_study_and_calls_a_missing_study_uid_out_of_resources(orthanc: Callable[..., Orthanc]) -> None:
    """A700 for one instance is that instance's own trouble: its neighbours arrive."""
    peer = orthanc()
    deliveries = Deliveries()
    first = deliveries.add_new()
    uid = f"{STUDY}.12.1"
    bad = deliveries.add(dataset(uid, study=""), uid=uid)
    last = deliveries.add_new()
    sender = sender_to(peer.dicom_port, "ORTHANC")
    assert deliveries.deliver(sender) is None
    sender.close()
    assert deliveries.outcome(first) == deliveries.outcome(last) == Delivered(0)
    outcome = deliveries.outcome(bad)
    assert isinstance(outcome, Deferred)
    assert (outcome.scope, outcome.status) == (Scope.INSTANCE, 0xA700)
    assert set(peer.instances()) == {first.sop_instance_uid, last.sop_instance_uid}
    for claim in (first, last):
        assert deliveries.body(claim) in peer.files()[claim.sop_instance_uid]


def test_orthanc_that_does_not_know_us_names_the_mend(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc(DicomAlwaysAllowStore=False, DicomCheckCalledAet=True)
    deliveries = Deliveries()
    claim = deliveries.add_new()
    trouble = deliveries.deliver(sender_to(peer.dicom_port, "WRONG"))
    assert trouble is not None
    assert "`called_ae`" in trouble.reason
    assert deliveries.outcome(claim) == Deferred(trouble.reason, Scope.SITE)


def test_sending_a_large_object_does_not_load_it(storescp: Callable[..., StoreScp], tmp_path: Path) -> None:
    """64 MiB here stands for any size: memory grows by the lane's few buffers only."""
    scp = storescp(options=("-pm", "-pdu", "131072", "--ignore"))
    uid = f"{STUDY}.13.1"
    path = tmp_path / "large.dcm"
    deliveries = Deliveries()
    small = deliveries.add_new()
    body = dataset(uid, pixels=0)
    deliveries.add(body, uid=uid)
    with deliveries.read(deliveries.claims[-1]) as payload:
        content = bytes(payload.file)
    with path.open("wb") as file:
        file.write(content[:-4] + (64 << 20).to_bytes(4, "little"))
        for _ in range(64):
            file.write(bytes(1 << 20))
    large = deliveries.add_file(path)
    sender = sender_to(scp.port, "STORESCP", response_timeout_seconds=60)
    assert deliveries.deliver(sender, [small]) is None
    before = most = anonymous_kib()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert deliveries.deliver(sender, [large]) is None
    done.set()
    watcher.join()
    sender.close()
    assert deliveries.outcome(large) == Delivered(0)
    assert most - before < 8 << 10


def anonymous_kib() -> int:
    """Memory of this process that no file backs, in KiB (proc(5)): pages of a mapped file are the kernel's to drop."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1])
