"""Commands are quick: help loads no heavy library, and a verb only those it works with. Counted by modules, since
seconds are the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
MAY_LOAD: dict[str, set[str]] = {
    "config check": set(),
    "config show": set(),
    "config history": TERMINAL,
    "config reload": set(),
    "caller list": TERMINAL,
    "caller test CT_1": set(),
    "caller add Q --dry-run": set(),
    "destination list": TERMINAL,
    "destination add q --to h:1 --called Q --dry-run": set(),
    "worksheet": WIRE,
    "conformance": WIRE,
    "queue": TABLE | TERMINAL,
    f"trace {STUDY}": TABLE,
    "ledger": TABLE,
    "hold --all --dry-run": TABLE | TERMINAL,
    "associations": TABLE | WIRE,
    "config plan relaypacs.toml": TABLE | WIRE | TERMINAL,
}
ONE = """
import contextlib, io, json, sys
from relaypacs.cli import app as commands
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        commands.run(sys.argv[1:])
    except SystemExit as end:
        code = end.code
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules}), len(sys.modules)]))
"""


@pytest.mark.parametrize("words", MAY_LOAD)
def test_a_verb_loads_only_what_it_works_with(words: str, tmp_path: Path) -> None:
    (tmp_path / "relaypacs.toml").write_text(CONFIG.format(folder=tmp_path))
    filled(tmp_path / "jobs.sqlite", now=time.time()).close()
    done = subprocess.run(
        [sys.executable, "-c", ONE, *words.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    code, loaded, modules = json.loads(done.stdout)
    assert code in (0, 1)
    assert set(loaded) & set(HEAVY) <= MAY_LOAD[words]
    assert modules < 800
