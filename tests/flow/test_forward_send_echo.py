"""Echo of both kinds of destination, and sending files without a node, to real peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relaypacs.config.model import Destination
from relaypacs.dicom.part10 import file_head
from relaypacs.forward.echo import echo
from relaypacs.forward.lane import Address
from relaypacs.forward.send import send_files
from relaypacs.model import Deferred, Delivered, Failed, Outcome, Scope
from tests.flow.test_forward_cstore import stored
from tests.flow.test_forward_dispatch import dimse, web
from tests.peers.dcmtk import StoreScp
from tests.peers.orthanc import Orthanc
from tests.peers.ports import free_port
from tests.unit.forward.deliveries import CT, EXPLICIT, JPEG_BASELINE, STUDY, dataset
from tests.unit.forward.dimsepeer import Connection, DimsePeer
from tests.unit.forward.webpeer import Reply, WebPeer


def ask(destination: Destination, **environment: str) -> tuple[bool, str]:
    ok, sentence, milliseconds, *_ = echo(destination, calling_ae="RELAYPACS", environment=environment)
    assert milliseconds >= 0
    return ok, sentence


def test_echo_answers(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc()
    assert ask(dimse(peer.dicom_port)) == (True, "destination answers C-ECHO")
    assert ask(web(peer.dicomweb_url)) == (True, "destination answers HTTP")


def test_echo_says_what_is_wrong(orthanc: Callable[..., Orthanc], storescp: Callable[..., StoreScp]) -> None:
    strict = orthanc(DicomCheckCalledAet=True)
    ok, sentence = ask(dimse(strict.dicom_port, called_ae="WRONG"))
    assert not ok
    assert "`called_ae`" in sentence
    for destination in (dimse(free_port()), web(f"http://127.0.0.1:{free_port()}/dicom-web")):
        ok, sentence = ask(destination)
        assert not ok
        assert "nothing listens there" in sentence
    ok, sentence = ask(web("http://no-such-host.invalid/dicom-web"))
    assert not ok
    assert "host name" in sentence
    ok, sentence = ask(dimse(storescp(options=("--refuse",)).port))
    assert not ok
    assert "rejected" in sentence


def test_echo_of_dicomweb_judges_the_status() -> None:
    for status, fine in ((200, True), (204, True), (400, True), (404, True), (301, False), (401, False), (503, False)):
        with WebPeer(lambda _, status=status: Reply(status)) as peer:  # type: ignore[misc]
            ok, _ = ask(web(peer.url))
            assert ok is fine
            assert peer.requests[0].path == "/rs/studies?limit=1"
    ok, sentence = ask(web("http://127.0.0.1:1/", credentials_env="NOT_SET"))
    assert not ok
    assert "NOT_SET_TOKEN" in sentence


def test_echo_of_a_peer_that_hangs() -> None:
    def serve(peer: Connection) -> None:
        peer.accept()
        peer.read_pdu()
        peer.read_pdu()

    with DimsePeer(serve) as peer:
        ok, sentence = ask(dimse(peer.port, response_timeout_seconds=0.3))
    assert not ok
    assert "silent" in sentence


def write(folder: Path, name: str, uid: str, transfer_syntax: str = EXPLICIT, pixels: int = 512) -> Path:
    path = folder / name
    path.write_bytes(file_head(CT, uid, transfer_syntax, source_ae="") + dataset(uid, pixels=pixels))
    return path


def send(paths: list[Path], port: int) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}

    def report(path: Path, outcome: Outcome, seconds: float) -> None:
        assert path.name not in found
        assert seconds >= 0
        found[path.name] = outcome

    send_files(paths, Address("127.0.0.1", port, "RELAYPACS", "ANY", 2.0, 5.0), report)
    assert list(found) != []
    assert set(found) == {path.name for path in paths}
    return found


def test_files_are_sent_as_they_are_and_bad_ones_are_said(tmp_path: Path, storescp: Callable[..., StoreScp]) -> None:
    scp = storescp(accept="+x=")
    good = [write(tmp_path, f"{number}.dcm", f"{STUDY}.80.{number}", pixels=number * 50_000) for number in range(5)]
    compressed = write(tmp_path, "jpeg.dcm", f"{STUDY}.80.9", JPEG_BASELINE)
    text = tmp_path / "readme.txt"
    text.write_text("no DICOM")
    empty = tmp_path / "empty"
    empty.touch()
    missing = tmp_path / "missing"
    found = send([text, *good[:2], empty, compressed, missing, *good[2:], tmp_path], scp.port)
    assert {found[path.name] for path in good} == {Delivered(0)}
    failed = {name: outcome.reason for name, outcome in found.items() if isinstance(outcome, Failed)}
    assert "not a DICOM Part 10 file" in failed["readme.txt"]
    assert "not a DICOM Part 10 file" in failed["empty"]
    assert "no presentation context" in failed["jpeg.dcm"]
    assert "can't be read: No such file" in failed["missing"]
    assert "can't be read" in failed[tmp_path.name]
    assert len(found) == 10
    bodies = stored(scp)
    for path in good:
        content = path.read_bytes()
        assert any(content.endswith(body) for body in bodies.values())
    assert len(bodies) == 5


def test_after_trouble_the_rest_is_not_tried(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"{number}.dcm", f"{STUDY}.81.{number}") for number in range(4)]

    def serve(peer: Connection) -> None:
        peer.accept()
        peer.store()
        peer.read_object()
        peer.read_pdu()

    with DimsePeer(serve) as peer:
        found: dict[str, Outcome] = {}
        address = Address("127.0.0.1", peer.port, "RELAYPACS", "ANY", 2.0, 0.4)
        send_files(paths, address, lambda path, outcome, _: found.update({path.name: outcome}))
    assert found["0.dcm"] == Delivered(0)
    for name in ("1.dcm", "2.dcm", "3.dcm"):
        outcome = found[name]
        assert isinstance(outcome, Deferred)
        assert outcome.scope is Scope.SITE
        assert "silent" in outcome.reason
