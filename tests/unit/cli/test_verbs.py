"""What people do to deliveries by command: chosen, counted, asked, done, audited, and the node woken."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.wake.hints import HintReceiver
from tests.unit.cli.rows import STUDY, filled
from tests.unit.cli.test_app import COMMAND
from tests.unit.cli.test_jobs import CONFIG, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration and a job table with one delivery delivered, one deferred and one failed."""
    (tmp_path / "relaypacs.toml").write_text(CONFIG.format(folder=tmp_path))
    filled(tmp_path / "jobs.sqlite", now=time.time()).close()
    return tmp_path


def states(folder: Path) -> dict[str, int]:
    row = next(row for row in json.loads(run("queue", "--json", cwd=folder).stdout) if row["destination"] == "pacs")
    return {name: row[name] for name in ("queued", "deferred", "held", "failed") if row[name]}


def test_counts_first_and_changes_nothing_without_a_yes(folder: Path) -> None:
    before = states(folder)
    done = run("discard", "--to", "pacs", "--dry-run", cwd=folder)
    assert (done.returncode, states(folder)) == (0, before)
    assert [line.split() for line in done.stdout.splitlines() if line.strip().startswith("pacs")] == [
        ["pacs", "deferred", "1"],
        ["pacs", "failed", "1"],
    ]
    done = run("discard", "--to", "pacs", cwd=folder)
    assert (done.returncode, states(folder)) == (2, before)
    assert "this would discard 2 deliveries; say --yes to do it" in done.stderr


def test_hold_release_retry_discard(folder: Path) -> None:
    done = run("hold", "--to", "pacs", "--yes", cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 delivery held.")
    assert states(folder) == {"held": 1, "failed": 1}
    done = run("release", "--study", STUDY, "--yes", "--json", cwd=folder)
    document = json.loads(done.stdout)
    assert (document["found"], document["changed"], document["dry_run"]) == (1, 1, False)
    assert document["deliveries"] == [{"destination": "pacs", "state": "held", "count": 1}]
    assert states(folder) == {"queued": 1, "failed": 1}
    done = run("retry", "--state", "failed", "--yes", cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 delivery queued to be tried again.")
    assert states(folder) == {"queued": 2}
    done = run("discard", "--caller", "CT_1", "--older-than", "0s", "--yes", cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 deliveries discarded.")
    assert states(folder) == {}
    assert json.loads(run("ledger", "--json", cwd=folder).stdout)["imbalance"] == 0
    with sqlite3.connect(folder / "jobs.sqlite") as table:
        audited = list(table.execute("SELECT kind, json_extract(body, '$.changed') FROM audit ORDER BY id"))
    assert audited == [("hold", 1), ("release", 1), ("retry", 1), ("discard", 2)]


def test_resend_of_what_a_destination_refused(folder: Path) -> None:
    done = run("resend", "--to", "pacs", "--state", "failed", "--yes", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "1 instance queued for pacs.\n")
    done = run("resend", "--to", "archive", "--newer-than", "1d", cwd=folder)
    assert done.returncode == 2
    assert "this would resend 4 instances" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("hold",), "say what to hold"),
        (("hold", "--all", "--to", "pacs"), "--all goes with no other choice"),
        (("release", "--state", "failed"), "`release` concerns held deliveries, not failed"),
        (("retry", "--older-than", "soon"), "'soon' is no age"),
        (("resend", "--to", "pacs"), "say what to resend"),
        (("resend", "--to", "pasc", "--all"), "no destination is named 'pasc'"),
    ],
)
def test_wrong_usage_is_a_sentence(folder: Path, words: tuple[str, ...], says: str) -> None:
    done = run(*words, "--yes", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_nothing_that_fits_is_exit_code_1(folder: Path) -> None:
    done = run("hold", "--caller", "NOBODY", "--yes", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Nothing to hold.\n")


@pytest.mark.parametrize(
    ("answer", "code", "left"), [(b"y\n", 0, {"failed": 1}), (b"\n", 1, {"deferred": 1, "failed": 1})]
)
def test_a_person_is_asked_and_the_node_is_woken(folder: Path, answer: bytes, code: int, left: dict[str, int]) -> None:
    (folder / "run").mkdir()
    hints = HintReceiver(folder / "run" / "intake.sock")
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    done = subprocess.run(
        [COMMAND, "discard", "--state", "deferred", "-c", "relaypacs.toml"],
        cwd=folder,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Discard 1 delivery? [y/N]" in done.stderr
    assert (done.returncode, states(folder)) == (code, left)
    begun = time.monotonic()
    hints.wait(0.5)
    assert (time.monotonic() - begun < 0.3) == (code == 0)
    hints.close()
    os.close(ours)
    os.close(theirs)


def test_a_node_that_is_gone_is_drained(folder: Path) -> None:
    assert run("node", "drain", "node-1", "--lost", "--yes", cwd=folder).returncode == 1
    store = JobStore.open(f"sqlite:///{folder}/jobs.sqlite")
    store.join("node-1", "lost", 1.0)
    store.close()
    done = run("node", "drain", "node-1", "--lost", cwd=folder)
    assert (done.returncode, states(folder)) == (2, {"deferred": 1, "failed": 1})
    assert "give up 1 delivery of node node-1, for good; say --yes" in done.stderr
    assert run("node", "drain", "node-1", "--lost", "--dry-run", cwd=folder).stdout.startswith(
        "Would give up 1 delivery"
    )
    done = run("node", "drain", "node-1", "--lost", "--yes", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "1 delivery given up; the name node-1 is free.\n")
    assert states(folder) == {"failed": 2}
    assert "which was drained" in run("trace", STUDY, cwd=folder).stdout
