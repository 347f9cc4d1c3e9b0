"""The command line from outside: quick to start, one sentence per error, exit codes, no library loaded too early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import relaypacs

COMMAND = Path(sys.executable).parent / "relaypacs"


def run(*arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RELAYPACS_")}
    return subprocess.run(
        [str(COMMAND), *arguments], cwd=cwd, env=clean | environ, capture_output=True, text=True, timeout=60
    )


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "config", "echo", "send", "queue", "trace", "resend", "ledger", "db"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("group", ["", "config", "db", "spool", "caller", "staging", "node", "destination"])
def test_no_line_of_a_list_of_commands_is_cut_short(group: str) -> None:
    done = run(*group.split(), "--help", COLUMNS="80")
    assert done.returncode == 0
    listed = done.stdout.partition("\nCommands:\n")[2].splitlines()
    assert listed
    assert [line for line in listed if line.endswith("...")] == []


def test_version() -> None:
    assert run("--version").stdout == f"relaypacs {relaypacs.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("serve", "--role", "janitor"), "--role"),
        (("ledger", "--study", "1.2", "--association", "a"), "give --association or --study, not both"),
        (("send",), "Missing"),
        (("send", "absent.dcm", "--to", "h:1", "--called", "A"), "there is no file or folder 'absent.dcm'"),
        (("send", ".", "--to", "h", "--called", "A"), "write --to HOST:PORT"),
        (("send", ".", "--to", "h:70000", "--called", "A"), "write --to HOST:PORT"),
        (("send", ".", "--to", "h:1", "--called", "A" * 17), "--called: an AE title has 1 to 16 characters"),
        (("queue",), "no configuration file: give --config FILE"),
        (("config", "check", "-c", "absent.toml"), "absent.toml"),
        (("-c", "absent.toml", "queue"), "absent.toml"),
        (("serve", "--config", "absent.toml"), "absent.toml"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    if Path("/etc/relaypacs/relaypacs.toml").exists():
        pytest.skip("this machine has a configuration of its own")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_nothing_loads_prometheus_before_the_node_serves() -> None:
    """It chooses its multi-process mode when it is imported, so that is for `node.serve` to do."""
    program = (
        "import sys, relaypacs.cli.app, relaypacs.cli.settings, relaypacs.cli.configuration, relaypacs.node\n"
        "sys.exit([name for name in sys.modules if name.startswith(('prometheus_client', 'sqlalchemy'))] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-c", f"{COMMAND} --help | true"], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
