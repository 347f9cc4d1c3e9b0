"""The commands that ask the job table, as a person runs them, against a real one."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from relaypacs.cli import main
from tests.unit.cli.rows import ACCESSION, PATIENT, STUDY, arrival, filled
from tests.unit.cli.test_app import COMMAND

CONFIG = """
[node]
state_dir = "{folder}"
[[destination]]
name = "pacs"
kind = "dimse"
host = "127.0.0.1"
called_ae = "PACS"
[[destination]]
name = "archive"
kind = "dicomweb"
url = "http://127.0.0.1:1/dicom-web"
"""
LEDGER_KEYS = [
    "received",
    "instances",
    "duplicates",
    "dropped",
    "unrouted",
    "routed",
    "delivered",
    "pending",
    "failed",
    "held",
    "discarded",
    "imbalance",
]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process, for speed; `test_app` runs it as a program."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["--config", str(cwd / "relaypacs.toml"), *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with a configuration, and no job table yet."""
    (tmp_path / "relaypacs.toml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path


@pytest.fixture
def folder(empty: Path) -> Path:
    """A folder with a configuration and a job table."""
    filled(empty / "jobs.sqlite", now=time.time()).close()
    return empty


def test_queue_lists_every_destination_with_ages(folder: Path) -> None:
    done = run("queue", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == ["destination", "queued", "active", "deferred", "held", "failed", "oldest", "waiting"]
    assert lines[2] == ["archive", "0", "0", "0", "0", "0", "-"]
    assert lines[3][:6] == ["pacs", "0", "0", "1", "0", "1"]
    assert lines[3][6:8] == ["4", "min"] or lines[3][6:8] == ["5", "min"]
    rows = json.loads(run("queue", "--json", cwd=folder).stdout)
    assert [row["destination"] for row in rows] == ["archive", "pacs"]
    assert (rows[1]["deferred"], rows[1]["failed"], rows[0]["oldest_seconds"]) == (1, 1, None)
    assert 290 < rows[1]["oldest_seconds"] < 400


def test_queue_says_how_many_want_a_persons_eye_and_marked_lists_them(folder: Path) -> None:
    assert "Instances that want a person's eye: unrouted 1 (`relaypacs marked`" in run("queue", cwd=folder).stdout
    done = run("marked", cwd=folder)
    assert done.returncode == 0, done.stderr
    header, _, row, *mends = (line for line in done.stdout.splitlines() if line.strip())
    assert header.split() == ["mark", "study", "from", "instances", "last", "received"]
    assert row.split()[:4] == ["unrouted", STUDY, "CT_1", "1"]
    assert "add a [[rule]], then `relaypacs resend STUDY --to DEST`" in " ".join(" ".join(mends).split())
    (one,) = json.loads(run("marked", "--mark", "unrouted", "--json", cwd=folder).stdout)
    assert (one["mark"], one["study_instance_uid"], one["calling_ae"], one["instances"]) == (
        "unrouted",
        STUDY,
        "CT_1",
        1,
    )
    assert one["last_received_at"].endswith("+00:00")
    assert json.loads(run("marked", "--mark", "conflict", "--json", cwd=folder).stdout) == []
    done = run("marked", "--mark", "lost", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no lost; there are unrouted, conflict, unparsed" in " ".join(done.stderr.split())


def test_once_resent_nothing_is_marked(folder: Path) -> None:
    assert run("resend", STUDY, "--to", "pacs", cwd=folder).returncode == 0
    done = run("marked", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Nothing wants a person's eye.\n")
    assert "eye" not in run("queue", cwd=folder).stdout


@pytest.mark.parametrize("term", [STUDY, f"{STUDY}.0", ACCESSION, PATIENT])
def test_trace_finds_a_study_by_everything_it_is_known_by(folder: Path, term: str) -> None:
    done = run("trace", term, cwd=folder)
    assert done.returncode == 0, done.stderr
    for says in (
        f"Study {STUDY}: CT, 4 instances, 20240501, accession number {ACCESSION}, patient ID {PATIENT}",
        "from CT_1 (10.0.0.5:4242) as RELAYPACS; rule ct",
        "no rule matched",
        "pacs  delivered 1, deferred 1, failed 1",
        "1 deferred, 1 attempt, next try in 6 min",
        "pacs refuses the connection: start it",
        "1 failed, 1 attempt: pacs says 0122",
    ):
        assert says in " ".join(done.stdout.split()).replace("pacs delivered 1", "pacs  delivered 1")


def test_trace_of_one_instance_for_machines(folder: Path) -> None:
    document = json.loads(run("trace", f"{STUDY}.2", "--json", cwd=folder).stdout)
    (instance,) = document["instances"]
    (delivery,) = instance["deliveries"]
    assert instance["sop_instance_uid"] == f"{STUDY}.2"
    assert instance["received_at"].endswith("+00:00")
    assert (delivery["destination"], delivery["state"], delivery["attempts"]) == ("pacs", "deferred", 1)
    assert delivery["next_attempt_at"] > delivery["queued_at"]


def test_trace_of_the_unknown_says_so(folder: Path) -> None:
    done = run("trace", "nobody\x1b[2J", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nothing was received under 'nobody\\x1b[2J'" in done.stderr.replace("\\\\", "\\")
    assert "\x1b" not in done.stderr
    done = run("trace", "nobody", "--json", cwd=folder)
    assert (done.returncode, json.loads(done.stdout)) == (1, {"term": "nobody", "instances": []})


def test_resend_queues_what_is_not_on_its_way(folder: Path) -> None:
    done = run("resend", STUDY, "--to", "pacs", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "3 instances queued for pacs.\n")
    assert "1 instance already on the way there" in done.stderr
    assert json.loads(run("queue", "--json", cwd=folder).stdout)[1]["queued"] == 3
    assert json.loads(run("ledger", "--json", cwd=folder).stdout)["imbalance"] == 0
    done = run("resend", "9.9.9", "--to", "pacs", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nothing was received under '9.9.9'" in done.stderr
    for term in (ACCESSION, PATIENT):
        done = run("resend", term, "--to", "pacs", cwd=folder)
        assert done.returncode == 1
        assert f"{term!r} is no Study Instance UID" in done.stderr
        assert f"\n  {STUDY}\n" in done.stderr


def test_a_destination_that_is_not_there_lists_those_that_are(folder: Path) -> None:
    for arguments in (("resend", STUDY, "--to", "pasc"), ("echo", "pasc")):
        done = run(*arguments, cwd=folder)
        assert done.returncode == 2
        assert done.stderr == "relaypacs: no destination is named 'pasc'; there is archive, pacs\n"


def test_ledger_has_exactly_its_keys_and_balances(folder: Path) -> None:
    done = run("ledger", "--json", cwd=folder)
    book = json.loads(done.stdout)
    assert (done.returncode, list(book)) == (0, LEDGER_KEYS)
    assert (book["received"], book["unrouted"], book["routed"], book["delivered"]) == (4, 1, 3, 1)
    assert json.loads(run("ledger", "--association", "assoc-1", "--json", cwd=folder).stdout) == book
    assert json.loads(run("ledger", "--study", STUDY, "--json", cwd=folder).stdout) == book
    done = run("ledger", cwd=folder)
    assert done.stdout.splitlines()[-1] == "balanced"
    done = run("ledger", "--study", "9.9", cwd=folder)
    assert done.returncode == 1
    assert "Nothing was received under '9.9'" in done.stderr


def test_a_ledger_out_of_balance_is_exit_code_1(folder: Path) -> None:
    with sqlite3.connect(folder / "jobs.sqlite") as table:
        table.execute("DELETE FROM attempt WHERE delivery_id = 1")
        table.execute("DELETE FROM delivery WHERE id = 1")
    done = run("ledger", cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "imbalance 1")
    assert json.loads(run("ledger", "--json", cwd=folder).stdout)["imbalance"] == 1


def test_no_job_table_is_a_sentence_and_none_is_made(empty: Path) -> None:
    for arguments in (("queue",), ("trace", "x"), ("ledger",), ("resend", "1.2", "--to", "pacs")):
        done = run(*arguments, cwd=empty)
        assert done.returncode == 2
        assert done.stderr.startswith(
            f"relaypacs: the node has not run yet: there is no job table at {empty}/jobs.sqlite"
        )
    assert not (empty / "jobs.sqlite").exists()
    (empty / "jobs.sqlite").touch()
    done = run("queue", cwd=empty)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "relaypacs db migrate" in done.stderr
    (empty / "jobs.sqlite").write_bytes(b"this is no database, and long enough to see" * 100)
    done = run("queue", cwd=empty)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in done.stderr


def test_migrate_makes_the_job_table(empty: Path) -> None:
    done = run("db", "migrate", cwd=empty)
    assert (done.returncode, done.stdout) == (0, "")
    done = run("queue", cwd=empty)
    assert done.returncode == 0


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    store = filled(folder / "other.sqlite", now=time.time())
    store.take_in("node-1", [arrival(n, now=0.0, study=f"{STUDY}.{n}") for n in range(100, 1100)], [], [], 0.0)
    store.close()
    (folder / "other.toml").write_text(
        CONFIG.format(folder=folder) + f'[jobs]\nurl = "sqlite:///{folder}/other.sqlite"\n'
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {COMMAND} trace {PATIENT} -c other.toml | head -1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_nothing_of_a_trace_is_wider_than_a_terminal_but_a_word(folder: Path) -> None:
    done = run("trace", STUDY, cwd=folder)
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_who_only_looks_needs_no_secret_of_a_destination(folder: Path) -> None:
    """The node's service has them; an administrator's shell has not."""
    with (folder / "relaypacs.toml").open("a") as file:
        file.write('[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "https://web/"\ncredentials_env = "WEB"\n')
    for words in (("queue",), ("ledger",), ("trace", STUDY), ("config", "show"), ("hold", "--to", "pacs", "--dry-run")):
        done = run(*words, cwd=folder)
        assert (done.returncode, done.stderr) == (0, ""), words
    done = run("config", "check", cwd=folder)
    assert (done.returncode, "WEB_USERNAME" in done.stderr) == (2, True), "the node itself does"
