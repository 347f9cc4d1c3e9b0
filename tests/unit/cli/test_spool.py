"""`relaypacs spool`, as a person runs it, on whole and on damaged folders."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from relaypacs.cli import main
from relaypacs.dicom.part10 import read_file_head
from tests.unit.spool.made import data, meta, put, writer


def _run(*arguments: str) -> tuple[int, str, str]:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["spool", *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spool = writer(tmp_path)
    for number in range(4):
        put(spool, data(5000 * number, number), number)
    spool.append_event("association", 1_700_000_000.0, {"outcome": "released"})
    spool.close()
    return tmp_path


def _segment(folder: Path) -> Path:
    (path,) = (folder / "segments").iterdir()
    return path


def _damage(folder: Path, at: int) -> None:
    with _segment(folder).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_ls_lists_segments_and_records(folder: Path) -> None:
    code, out, _ = _run("ls", "--folder", str(folder), "--json")
    (segment,) = json.loads(out)
    assert code == 0
    assert (segment["objects"], segment["events"], segment["dataset_bytes"]) == (4, 1, 30_000)
    assert (segment["state"], segment["place"]) == ("sealed", "segments")
    code, out, _ = _run("ls", segment["generation"][:10], "--folder", str(folder))
    assert code == 0
    assert "1.2.826.0.1.3" in out
    assert "event: association" in out
    code, out, _ = _run("ls", str(_segment(folder)), "--json")
    assert [record["at"]["number"] for record in json.loads(out)] == [0, 1, 2, 3, 4]


def test_an_open_segment_is_said_to_be_open(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    put(spool, b"x")
    append = spool.begin(meta(1))
    append.write([data(600_000)])
    _, out, _ = _run("ls", "--folder", str(tmp_path), "--json")
    assert [(row["state"], row["objects"], row["damage"]) for row in json.loads(out)] == [("open", 1, [])]
    assert _run("check", "--folder", str(tmp_path))[0] == 0
    append.abandon()


def test_cat_writes_a_dicom_file_and_an_event(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from relaypacs.cli import main; main()", "spool", "cat", str(_segment(folder)), "2"],
        capture_output=True,
        check=True,
    )
    read = read_file_head(done.stdout, file_length=len(done.stdout))
    assert read.sop_instance_uid == "1.2.826.0.1.2"
    assert done.stdout.endswith(data(10_000, 2))
    code, out, _ = _run("cat", str(_segment(folder)), "4")
    assert json.loads(out) == {"kind": "association", "time": 1_700_000_000.0, "body": {"outcome": "released"}}
    code, _, err = _run("cat", str(_segment(folder)), "99")
    assert code == 1
    assert "no valid record 99" in err


def test_check_tells_damage_from_a_torn_tail(folder: Path) -> None:
    code, out, _ = _run("check", "--folder", str(folder))
    assert code == 0
    assert "1 segment, 5 records whole, 0 segments damaged" in out
    with _segment(folder).open("r+b") as file:
        file.truncate(40_000)
    code, out, _ = _run("check", "--folder", str(folder))
    assert code == 0
    assert out.startswith("torn tail")
    _damage(folder, 4096 + 3900)
    code, out, _ = _run("check", "--folder", str(folder))
    assert code == 1
    assert out.startswith("DAMAGED (segments)")
    assert "record 1 at byte 4096" in out


def test_export_writes_what_verifies_around_damage(folder: Path, tmp_path: Path) -> None:
    _damage(folder, 4096 + 3900)
    code, out, err = _run("export", str(tmp_path / "out"), "--folder", str(folder))
    assert code == 1
    assert "3 objects written" in out
    assert "record 1 at byte 4096" in err
    files = sorted((tmp_path / "out").iterdir())
    assert [file.read_bytes()[128:132] for file in files] == [b"DICM"] * 3
    assert files[2].read_bytes().endswith(data(15_000, 3))


def test_quarantined_segments_are_listed_and_checked(folder: Path) -> None:
    path = _segment(folder)
    path.rename(folder / "quarantine" / path.name)
    _, out, _ = _run("ls", "--folder", str(folder), "--json")
    assert json.loads(out)[0]["place"] == "quarantine"


def test_what_is_not_there_is_named(folder: Path) -> None:
    assert _run("ls", "zz", "--folder", str(folder))[0] == 2
    assert "no segment begins with 'zz'" in _run("cat", "zz", "1", "--folder", str(folder))[2]
    assert "is no folder" in _run("ls", "--folder", str(folder / "nowhere"))[2]
