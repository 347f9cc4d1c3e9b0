"""The demo's promise: `scripts/demo --once` ends with 0 and says so in its last line."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from tests.peers.dcmtk import run

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_demo_once(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    done = run([ROOT / "scripts" / "demo", "--once", "--keep", tmp_path / "kept"], 280.0)
    assert done.returncode == 0, done.stdout[-3000:]
    last = done.stdout.rstrip("\n").rpartition("\n")[2]
    found = re.fullmatch(r"demo: sent=(\d+) orthanc-dimse=(\d+) orthanc-web=(\d+) failed=0", last)
    assert found, last
    assert len(set(found.groups())) == 1
    assert int(found[1]) > 100
    kept = str(tmp_path / "kept")
    left = [one for one in psutil.process_iter(["cmdline"]) if one.pid not in before]
    assert [one.info["cmdline"] for one in left if kept in " ".join(one.info["cmdline"] or [])] == []
    assert (tmp_path / "kept" / "node" / "relaypacs.toml").exists()
