"""`docs/commands.md` says when each command ends with 1: every command is there, and those that can are seen to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from relaypacs.cli.app import app
from tests.unit.cli.rows import STUDY
from tests.unit.cli.test_jobs import empty, folder, run

__all__ = ["empty", "folder"]  # fixtures

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
NEVER = "–"
TO = ["--to", "h:104", "--called", "X"]
CASES: dict[str, list[str]] = {
    "config reload": [],
    "config history": [],
    "worksheet": ["--caller", "NOBODY"],
    "doctor": [],  # its destinations are nowhere
    "echo": ["pacs"],
    "destination test": ["pacs"],
    "destination forget": ["pacs"],
    "associations": ["ffff"],
    "caller add": ["--from-rejected", "ffff"],
    "caller test": ["NOBODY"],
    "trace": ["nobody"],
    "resend": ["9.9", "--to", "pacs"],
    "hold": ["--study", "9.9", "--yes"],
    "release": ["--study", "9.9", "--yes"],
    "retry": ["--study", "9.9", "--yes"],
    "discard": ["--study", "9.9", "--yes"],
    "ledger": ["--study", "9.9"],
    "rebuild": [],
    "node drain": ["nobody", "--lost", "--yes"],
    "export": ["9.9", "out"],
    "destination remove": ["spare"],
    "send": ["relaypacs.toml", "--to", "127.0.0.1:1", "--called", "X"],
}
"""Words that make a command say no in a folder with a job table and no node."""
ELSEWHERE = {
    "audit": ("tests/flow/test_audit.py", "test_what_the_trail_tells"),
    "serve": ("tests/unit/node/test_supervisor.py", "test_a_child_that_does_not_stop_is_killed"),
    "config plan": ("tests/flow/test_reload.py", "test_plan_history_and_rollback"),
    "config rollback": ("tests/flow/test_refused_change.py", "test_whatever_the_node_refuses_is_put_back"),
    "destination add": ("tests/flow/test_refused_change.py", "test_whatever_the_node_refuses_is_put_back"),
    "caller remove": ("tests/flow/test_refused_change.py", "test_whatever_the_node_refuses_is_put_back"),
    "reconcile": ("tests/flow/test_restoring.py", "test_a_lost_job_table_is_rebuilt_from_staging"),
    "verify": ("tests/flow/test_object_storage.py", "verify"),
    "spool cat": ("tests/unit/cli/test_spool.py", "test_cat_writes_a_dicom_file_and_an_event"),
    "spool check": ("tests/unit/cli/test_spool.py", "test_check_tells_damage_from_a_torn_tail"),
    "spool export": ("tests/unit/cli/test_spool.py", "test_export_writes_what_verifies_around_damage"),
}
"""What takes a node, a spool or a bucket: where it is tried."""


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command there is, without groups."""
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(words)
    for name, one in (below or {}).items():
        yield from commands(one, (*words, name))


def documented() -> dict[str, str]:
    """Each command's `1 when` of the page."""
    table = PAGE.partition("| command | 1 when |\n|---|---|\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `([a-z ]+)` \| (.+) \|$", table, re.MULTILINE))


# What makes a bucket takes one: tests/flow/test_object_storage.py.
YES = {one for one, when in documented().items() if when.startswith(NEVER)} - {"staging init"}


def test_every_command_is_on_the_page_and_in_the_table_of_exit_codes() -> None:
    known = set(commands(typer.main.get_command(app)))
    listed = set(re.findall(r"^\| `((?:[a-z]+ ?)+)", PAGE, re.MULTILINE))
    missing = {one for one in known if one not in documented()}
    assert not missing, "add a row to the table of exit codes in docs/commands.md"
    assert set(documented()) == known
    assert {
        one for one in known if one not in {text.strip() for text in listed} and not one.startswith("spool")
    } == set()


def test_whatever_may_say_no_is_seen_to() -> None:
    assert {one for one, when in documented().items() if not when.startswith(NEVER)} == set(CASES) | set(ELSEWHERE)
    for file, name in ELSEWHERE.values():
        assert name in (ROOT / file).read_text(), (file, name)


@pytest.mark.parametrize("command", CASES)
def test_it_says_no(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    if command == "destination remove":
        run("destination", "add", "spare", *TO, cwd=folder)
        run("resend", STUDY, "--to", "spare", cwd=folder)
    done = run(*command.split(), *CASES[command], cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.parametrize("command", sorted(YES))
def test_what_never_says_no_says_yes(command: str, folder: Path) -> None:
    words = [
        *command.split(),
        *{"spool ls": ["--folder", str(folder)], "destination forget": ["pacs"]}.get(command, []),
    ]
    done = run(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
