"""Commands are quick: help loads no heavy library, and a verb only those it works with. Counted by modules, since
seconds are the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.unit.cli.rows import STUDY, filled
from tests.unit.cli.test_jobs import CONFIG

# Not pydantic: Typer takes it itself for what stands before a command; ours, the configuration's models, is looked for.
HEAVY = (
    "alembic", "boto3", "botocore", "crc32c", "prometheus_client", "psycopg", "pydicom", "pynetdicom", "redis", "rich",
    "sentry_sdk", "sqlalchemy", "starlette", "urllib3", "uvicorn",
)  # fmt: skip
PROGRAM = """
import contextlib, io, json, sys
from relaypacs.cli import app as commands
import typer.main

def every(command, words):
    yield words
    for name, one in sorted(getattr(command, "commands", {}).items()):
        yield from every(one, [*words, name])

found, seen = {}, 0
heavy = set(json.loads(sys.argv[1]))
for words in every(typer.main.get_command(commands.app), []):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            commands.run([*words, "--help"])
        except SystemExit as end:
            assert end.code == 0, words
    assert "Usage: relaypacs" in said.getvalue(), words
    seen += 1
    loaded = heavy & {name.partition(".")[0] for name in sys.modules}
    loaded |= {"relaypacs.config", "relaypacs.node", "relaypacs.forward"} & sys.modules.keys()
    if loaded:
        found.setdefault(" ".join(words), sorted(loaded))
        break
print(json.dumps([seen, found, len(sys.modules)]))
"""


def test_no_help_loads_anything_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(HEAVY)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    seen, found, modules = json.loads(done.stdout)
    assert found == {}
    assert seen > 30, "every command and group was asked"
    assert modules < 500


TABLE = {"prometheus_client", "sqlalchemy"}  # the job table and its histogram
WIRE = {"pydicom", "pynetdicom"}  # names of UIDs, contexts that an association proposed
TERMINAL = {"rich"}
MAY_LOAD: tuple[tuple[set[str], list[str]], ...] = (
    (
        set(),
        ["config check", "config show", "config reload", "caller test CT_1", "caller add Q --dry-run",
         "destination add q --to h:1 --called Q --dry-run"],
    ),
    (TERMINAL, ["caller list", "destination list", "config history"]),
    (TABLE | TERMINAL, ["queue", f"trace {STUDY}", "ledger", "hold --all --dry-run"]),
    (TABLE | TERMINAL | WIRE, ["associations", "config plan relaypacs.toml", "worksheet", "conformance"]),
)  # fmt: skip
"""In this order in one process, so that what is loaded for one is not taken for another's."""
VERBS = """
import contextlib, io, json, sys
from relaypacs.cli import app as commands
found = []
for words in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            commands.run(words.split())
        except SystemExit as end:
            code = end.code
    found.append([code, sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps([found, len(sys.modules)]))
"""


def test_a_verb_loads_only_what_it_works_with(tmp_path: Path) -> None:
    (tmp_path / "relaypacs.toml").write_text(CONFIG.format(folder=tmp_path))
    filled(tmp_path / "jobs.sqlite", now=time.time()).close()
    asked = [(words, allowed) for allowed, verbs in MAY_LOAD for words in verbs]
    command = [sys.executable, "-c", VERBS, *(words for words, _ in asked)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found, modules = json.loads(done.stdout)
    for (words, allowed), (code, loaded) in zip(asked, found, strict=True):
        assert code in (0, 1), words
        assert set(loaded) & set(HEAVY) <= allowed, words
    assert modules < 900
