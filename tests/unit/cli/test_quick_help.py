"""Help is quick: no command's help loads a heavy library. Counted by modules, since seconds are the machine's."""

from __future__ import annotations

import json
import subprocess
import sys

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
