"""The peers start, take a real file, give back its bytes, and end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pydicom.data import __file__ as pydicom_data

from tests.peers import dcmtk, stock
from tests.peers.dcmtk import StoreScp
from tests.peers.node import to_toml
from tests.peers.orthanc import Orthanc
from tests.peers.ports import answers, free_port
from tests.peers.program import Program

CT = Path(pydicom_data).parent / "test_files" / "CT_small.dcm"
PIXELS = CT.read_bytes()[-30000:-500]  # DCMTK and pynetdicom leave out the padding element after them
CT_UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


def test_orthanc_stores_and_gives_back(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc()
    sent = dcmtk.storescu(peer.dicom_port, [CT])
    assert sent.returncode == 0, sent.stdout
    assert peer.count() == 1
    assert PIXELS in peer.files()[CT_UID]
    assert dcmtk.echoscu(peer.dicom_port).returncode == 0


def test_orthanc_continues_with_its_storage(orthanc: Callable[..., Orthanc]) -> None:
    peer = orthanc()
    assert dcmtk.storescu(peer.dicom_port, [CT]).returncode == 0
    peer.stop()
    assert not answers(peer.dicom_port)
    peer.start()
    assert list(peer.instances()) == [CT_UID]


def test_storescp_takes_from_dcmsend(storescp: Callable[..., StoreScp]) -> None:
    peer = storescp()
    assert dcmtk.dcmsend(peer.port, [CT]).returncode == 0
    [path] = peer.files()
    assert PIXELS in path.read_bytes()


def test_stock_scp_keeps_what_it_answered_well() -> None:
    statuses = iter([0xA700, 0x0000])
    with stock.StockScp(answer=lambda _: next(statuses)) as peer:
        for _ in range(2):
            stock.storescu(peer.port, [CT])
        peer.wait_stored(1)
        assert (len(peer.stored), peer.refused, peer.associations) == (1, 1, 2)
        assert peer.stored[0].sop_instance_uid == CT_UID
        assert PIXELS in peer.stored[0].dataset


def test_a_program_that_dies_at_start_says_why(tmp_path: Path) -> None:
    program = Program(["/bin/sh", "-c", "echo no such luck; exit 3"], log_path=tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"ended with 3\nno such luck"):
        program.wait_ready(lambda: False, 5.0)


def test_stop_ends_the_children_too(tmp_path: Path) -> None:
    program = Program(["/bin/sh", "-c", "trap '' TERM; sleep 60 & wait; wait"], log_path=tmp_path / "log")
    program.wait_ready(lambda: len(psutil.Process(program.pid).children()) == 1, 5.0)
    [child] = psutil.Process(program.pid).children()
    program.stop(0.2)
    child.wait(2)
    assert not child.is_running()


def test_ports_are_never_given_twice() -> None:
    assert len({free_port() for _ in range(50)}) == 50


def test_toml_is_what_tomllib_reads() -> None:
    import tomllib

    tables = {"node": {"state_dir": Path("/x"), "identifiers": False}, "spool": {"segment_bytes": 1 << 20}}
    rules = [{"name": "a", "to": ["x", "y"], "tags": {"0008,0060": "C\\T"}}]
    read = tomllib.loads(to_toml(tables, {"rule": rules, "caller": []}))
    assert read == {
        "node": {"state_dir": "/x", "identifiers": False},
        "spool": {"segment_bytes": 1 << 20},
        "rule": rules,
    }
