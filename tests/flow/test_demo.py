"""The demo's promise: `scripts/demo --once` ends with 0 and says so in its last line."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.peers.dcmtk import run
from tests.peers.ports import wait_until
from tests.peers.program import Program

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_demo_once(tmp_path: Path) -> None:
    done = run([ROOT / "scripts" / "demo", "--once", "--keep", tmp_path / "kept"], 280.0)
    assert done.returncode == 0, done.stdout[-3000:]
    last = done.stdout.rstrip("\n").rpartition("\n")[2]
    found = re.fullmatch(r"demo: sent=(\d+) orthanc-dimse=(\d+) orthanc-web=(\d+) failed=0", last)
    assert found, last
    assert len(set(found.groups())) == 1
    assert int(found[1]) > 100
    assert [line for line in _commands() if str(tmp_path / "kept") in line] == []
    assert (tmp_path / "kept" / "node" / "relaypacs.toml").exists()


@pytest.mark.timeout(300)
def test_demo_stays_up_until_ctrl_c(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    demo = Program([ROOT / "scripts" / "demo", "--keep", kept], log_path=tmp_path / "log")
    try:
        demo.wait_ready(lambda: "Ctrl-C ends everything." in demo.log(), 200.0)
        commands = re.findall(r"^  (\S+ (?:queue|trace|ledger) .+)$", demo.log(), re.MULTILINE)
        assert len(commands) == 3
        for command in commands:
            done = run(command.split())
            assert done.returncode == 0, done.stdout
        for url in re.findall(r"^  (http://\S+)", demo.log(), re.MULTILINE):
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.status == 200
        demo.signal(signal.SIGINT)
        wait_until(lambda: demo.exit_code is not None, "the demo's end", 20.0)
    finally:
        demo.kill()
    assert [line for line in _commands() if str(kept) in line] == []


def _commands() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
