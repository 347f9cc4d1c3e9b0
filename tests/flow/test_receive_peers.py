"""Reception of what other people's programs send, and our wire beside stock pynetdicom's."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.filereader import read_dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt

from tests.peers import dcmtk, stock
from tests.peers.raw import (
    AC,
    CT,
    DATA,
    EXPLICIT,
    IMPLICIT,
    MR,
    RELEASE_RQ,
    VERIFICATION,
    Raw,
    associate_rq,
    pdu,
    request,
    store_rq,
)
from tests.peers.receiver import Receiver
from tests.samples import read_sample, write_ct_series, write_mr_series


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "spool") as running:
        yield running


def check(receiver: Receiver, paths: list[Path]) -> None:
    """Every file arrived, byte for byte, and the associations' ends count them."""
    receiver.wait_line("association-ended")
    stored = {one.record.meta.sop_instance_uid: one.dataset for one in receiver.objects()}
    for path in paths:
        one = read_sample(path)
        assert stored.pop(one.sop_instance_uid) == one.dataset(), path.name
    assert not stored
    ends = receiver.wait_ends(len(receiver.lines("association-ended")))
    assert sum(int(end["objects"]) for end in ends) == len(paths)


def test_dcmtk(receiver: Receiver, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "ct", 3) + write_mr_series(tmp_path / "mr", 12)
    assert dcmtk.echoscu(receiver.port).returncode == 0
    sent = dcmtk.storescu(receiver.port, paths[:8])
    assert sent.returncode == 0, sent.stdout
    sent = dcmtk.dcmsend(receiver.port, paths[8:])
    assert sent.returncode == 0, sent.stdout
    check(receiver, paths)


@pytest.mark.parametrize(
    "options", [["--max-pdu", "4096", "-x="], ["--max-send-pdu", "4096", "-x="], ["--repeat", "2", "-x="]]
)
def test_dcmtk_with_other_pdu_lengths(receiver: Receiver, tmp_path: Path, options: list[str]) -> None:
    paths = write_mr_series(tmp_path / "mr", 3)
    sent = dcmtk.storescu(receiver.port, paths, options=options)
    assert sent.returncode == 0, sent.stdout


def test_dcmtk_is_told_of_rejections(receiver: Receiver) -> None:
    answer = dcmtk.echoscu(receiver.port, called="OTHER")
    assert answer.returncode != 0
    assert "Called AE Title Not Recognized" in answer.stdout


def test_stock_pynetdicom(receiver: Receiver, tmp_path: Path) -> None:
    paths = write_mr_series(tmp_path / "mr", 5)
    assert set(stock.send_exactly(receiver.port, [read_sample(path) for path in paths])) == {"0000"}
    check(receiver, paths)


@pytest.mark.skipif(shutil.which("gdcmscu") is None, reason="gdcmscu is not installed")
def test_gdcm(receiver: Receiver, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "ct", 3)
    base = ["gdcmscu", "127.0.0.1", str(receiver.port), "--aetitle", "GDCM", "--call", "RELAYPACS", "-D"]
    # GDCM 3.0.21 dies of its own assertion after the release, with every SCP: what counts is what it said before.
    run_gdcm([*base, "--echo"])
    for path in paths:
        assert "was successful" in run_gdcm([*base, "--store", str(path)])
    receiver.wait_line("association-ended", 4)
    assert {end["outcome"] for end in receiver.ends()} == {"released"}
    stored = {one.record.meta.sop_instance_uid: one.dataset for one in receiver.objects()}
    assert set(stored) == {read_sample(path).sop_instance_uid for path in paths}


@pytest.mark.skipif(shutil.which("odil") is None, reason="odil is not installed")
def test_odil(receiver: Receiver, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path / "ct", 3)
    names = ["127.0.0.1", str(receiver.port), "ODIL", "RELAYPACS"]
    assert subprocess.run(["odil", "echo", *names], timeout=60).returncode == 0
    assert subprocess.run(["odil", "store", *names, *map(str, paths)], timeout=60).returncode == 0
    receiver.wait_line("association-ended", 2)
    check_values(receiver, paths)


@pytest.mark.skipif(shutil.which("send_image") is None, reason="ctn is not installed")
def test_ctn(receiver: Receiver, tmp_path: Path) -> None:
    """The Central Test Node of RSNA's first demonstrations: it proposes Implicit VR Little Endian alone."""
    paths = write_ct_series(tmp_path / "ct", 3)
    names = ["-a", "CTN", "-c", "RELAYPACS"]
    place = ["127.0.0.1", str(receiver.port)]
    for command in (["dicom_echo", *names, *place], ["send_image", "-q", *names, *place, *map(str, paths)]):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    receiver.wait_line("association-ended", 2)
    check_values(receiver, paths)


def check_values(receiver: Receiver, paths: list[Path]) -> None:
    """Every file arrived with its values; the sender encodes datasets anew, so bytes differ."""
    stored = {one.record.meta.sop_instance_uid: one for one in receiver.objects()}
    assert len(stored) == len(paths)
    for path in paths:
        sent = pydicom.dcmread(path)
        one = stored[sent.SOPInstanceUID]
        implicit = one.record.meta.transfer_syntax_uid == IMPLICIT
        received = read_dataset(BytesIO(one.dataset), implicit, True)
        assert received.PixelData == sent.PixelData
        assert received.StudyInstanceUID == sent.StudyInstanceUID


def run_gdcm(command: list[str]) -> str:
    """What `gdcmscu` said."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=60
    ).stdout


def accepted(body: bytes) -> dict[int, tuple[int, str]]:
    """The result of every context of an A-ASSOCIATE-AC body, with the transfer syntax of the accepted."""
    found = {}
    position = 68
    while position < len(body):
        kind, length = struct.unpack_from(">BxH", body, position)
        if kind == 0x21:
            number, result = body[position + 4], body[position + 6]
            syntax = body[position + 12 : position + 4 + length].decode() if result == 0 else ""
            found[number] = (result, syntax)
        position += 4 + length
    return found


def conversation(port: int) -> list[object]:
    """One peer's hour with an SCP: everything it hears."""
    heard: list[object] = []
    contexts = [
        (1, CT, (EXPLICIT,)),
        (3, VERIFICATION, (IMPLICIT,)),
        (5, MR, (IMPLICIT,)),
        (7, "1.2.3.4", (IMPLICIT,)),
        (9, CT, ("1.2.3.4.5",)),
    ]
    with Raw(port) as peer:
        peer.send(associate_rq(contexts=contexts))
        kind, body = peer.read_pdu()
        heard += [kind, body[:36], accepted(body)]
        for number, context_id in ((1, 1), (300, 5)):
            sop_class = CT if context_id == 1 else MR
            peer.send_message(
                store_rq(message_id=number, sop_class=sop_class), b"\x08\0\x05\0CS\0\0", context_id=context_id
            )
            heard.append(peer.read_command())
            peer.send_message(request(0x0030, message_id=number), context_id=3)
            heard.append(peer.read_command())
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        heard.append(peer.read_pdu())
    for broken in (pdu(99, b""), associate_rq(), pdu(DATA, struct.pack(">IBB", 99, 1, 3))):
        with Raw(port) as peer:
            assert peer.associate(contexts=contexts) == AC
            peer.send(broken)
            kind, body = peer.read_pdu()
            heard += [kind, body[2]]  # source; stock gives no reason
    return heard


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of stock pynetdicom
def test_on_the_wire_we_are_pynetdicom(receiver: Receiver) -> None:
    entity = AE("RELAYPACS")
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context(VERIFICATION)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
    try:
        theirs = conversation(server.server_address[1])
    finally:
        entity.shutdown()
    assert conversation(receiver.port) == theirs
