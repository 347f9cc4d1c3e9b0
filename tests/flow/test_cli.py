"""The commands beside a running node: what a person does from the first file sent to a study sent again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.peers.dcmtk import StoreScp
from tests.peers.node import RELAYPACS, Node, dimse
from tests.peers.orthanc import Orthanc
from tests.peers.ports import free_port, wait_until
from tests.samples import dataset_of, read_sample, samples, write_ct_series

LEDGER = {"duplicates": 0, "dropped": 0, "unrouted": 0, "held": 0, "discarded": 0, "imbalance": 0}


def send(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(RELAYPACS), "send", *map(str, words)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def test_sent_found_and_sent_again(
    tmp_path: Path, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    files = write_ct_series(tmp_path / "series", 6, rows=64, columns=64)
    (tmp_path / "series" / "notes.txt").write_text("no DICOM")
    (tmp_path / "series" / "link.dcm").symlink_to(tmp_path / "nowhere")
    archive, down = storescp(), free_port()
    relay = node(
        destinations=[
            dimse("archive", archive.port, archive.aet),
            dimse("down", down, "DOWN", retry="5x1h"),
        ]
    )
    done = send(tmp_path / "series", "--to", f"127.0.0.1:{relay.port}", "--called", "RELAYPACS", "--calling", "CT_1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^6 accepted, 0 failed, 0 unsent, 2 skipped$", done.stdout, re.MULTILINE), done.stdout
    assert "notes.txt" in done.stdout + done.stderr

    wait_until(lambda: len(archive.files()) == 6, "6 objects at the archive", 30.0)
    sent = sorted(path.read_bytes()[read_sample(path).dataset_offset :] for path in files)
    assert sorted(dataset_of(path.read_bytes()) for path in archive.files()) == sent

    def settled() -> bool:
        rows = {row["destination"]: row for row in relay.queue()}
        return rows["archive"]["oldest_seconds"] is None and rows["down"]["deferred"] >= 1

    wait_until(settled, "the one delivered, the other deferred", 30.0)
    book = relay.ledger()
    assert book == LEDGER | {
        "received": 6,
        "instances": 6,
        "routed": 12,
        "delivered": 6,
        "pending": 6,
        "failed": 0,
    }

    found = relay.cli_json("trace", "ID-ct")
    study = found["instances"][0]["study_instance_uid"]
    assert {one["calling_ae"] for one in found["instances"]} == {"CT_1"}
    text = relay.cli("trace", study).stdout
    assert "archive  delivered 6" in text
    assert re.search(r"^    \d deferred, 1 attempt, next try in (1 h|59 min|1 h \d min)", text, re.MULTILINE), text

    for path in archive.files():
        path.unlink()
    done = relay.cli("resend", study, "--to", "archive")
    assert (done.returncode, done.stdout) == (0, "6 instances queued for archive.\n")
    wait_until(lambda: len(archive.files()) == 6, "6 objects at the archive again", 30.0)
    wait_until(lambda: relay.ledger()["delivered"] == 12, "12 settled", 10.0)
    assert relay.ledger()["imbalance"] == 0


def test_send_tells_each_file_s_answer(tmp_path: Path, node: Callable[..., Node]) -> None:
    relay = node(callers=[{"ae_title": "CT_1"}])
    (file,) = write_ct_series(tmp_path / "series", 1, rows=16, columns=16)
    (tmp_path / "series" / "notes.txt").write_text("no DICOM")
    listing = next(one.path for one in samples() if one.name.endswith("DICOMDIR-implicit"))
    (tmp_path / "series" / "listing").write_bytes(listing.read_bytes())
    to = ("--to", f"127.0.0.1:{relay.port}", "--called", "RELAYPACS")
    done = send(tmp_path / "series", *to, "--calling", "CT_1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    answers = {Path(one["file"]).name: one for one in document["files"]}
    assert answers[file.name]["result"] == "accepted"
    assert answers[file.name]["status"] == 0
    assert answers["notes.txt"]["result"] == "skipped"
    assert "DICOMDIR" in answers["listing"]["reason"]
    assert [document[name] for name in ("accepted", "failed", "unsent", "skipped")] == [1, 0, 0, 2]
    assert send(file, tmp_path / "series" / "notes.txt", *to, "--calling", "CT_1").returncode == 1, "it was named"

    (tmp_path / "series" / "cut.dcm").write_bytes(file.read_bytes()[:140])
    done = send(tmp_path / "series", *to, "--calling", "CT_1")
    assert done.returncode == 1
    assert re.search(r"^failed  .*/cut.dcm: the File Meta Information ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("1 accepted, 1 failed, 0 unsent, 2 skipped\n")

    done = send(file, *to, "--calling", "NOBODY")
    assert done.returncode == 1
    assert "unsent  1 file: " in done.stdout
    assert "--calling" in done.stdout
    assert "calling_ae" not in done.stdout, "that is an option of a configuration"
    assert "Traceback" not in done.stderr
    done = send(file, "--to", f"127.0.0.1:{free_port()}", "--called", "RELAYPACS")
    assert done.returncode == 1
    assert "unsent  1 file: " in done.stdout
    assert done.stderr == ""


def test_echo(
    tmp_path: Path, node: Callable[..., Node], orthanc: Callable[..., Orthanc], storescp: Callable[..., StoreScp]
) -> None:
    archive, pacs = storescp(), orthanc()
    relay = node(
        destinations=[
            dimse("archive", archive.port, archive.aet),
            dimse("down", free_port(), "DOWN"),
            {"name": "web", "kind": "dicomweb", "url": pacs.dicomweb_url},
            {"name": "no-web", "kind": "dicomweb", "url": f"http://127.0.0.1:{free_port()}/dicom-web"},
        ]
    )
    for name in ("archive", "web"):
        done = relay.cli("echo", name)
        assert done.returncode == 0, done.stdout
        assert relay.cli_json("echo", name)["ok"] is True
    for name in ("down", "no-web"):
        done = relay.cli("echo", name)
        assert done.returncode == 1
        assert done.stdout.count("\n") == 1
        assert "Traceback" not in done.stdout


def test_who_only_looks_needs_no_secrets(tmp_path: Path, node: Callable[..., Node]) -> None:
    secret = {"name": "web", "kind": "dicomweb", "url": f"http://127.0.0.1:{free_port()}/rs", "credentials_env": "WEBX"}
    relay = node(destinations=[secret], environment={"WEBX_TOKEN": "t0ken"})
    asked: list[list[str | Path]] = [
        ["associations"],
        ["queue"],
        ["ledger"],
        ["worksheet"],
        ["conformance"],
        ["verify"],
    ]
    for words in (*asked, ["export", "1.2.3", tmp_path / "out"]):
        done = subprocess.run(
            [str(RELAYPACS), *map(str, words), "--config", str(relay.config_path)], capture_output=True, text=True
        )
        assert "WEBX" not in done.stderr, done.stderr
        assert done.returncode == (1 if words[0] == "export" else 0), done.stderr
