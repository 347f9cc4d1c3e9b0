"""No crash state violates a promise; and the simulator sees it when the spool is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.spool.mutants import MUTANTS, copy_with
from tests.crash.spool.simulate import simulate

ROOT = Path(__file__).parents[3]


def test_no_crash_state_breaks_a_promise() -> None:
    counts = simulate(0, 20_000)
    assert counts.violations == []
    assert counts.states >= 20_000
    assert counts.flips > 300


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_crash_state_of_a_million_breaks_a_promise() -> None:
    counts = simulate(10_000, 1_000_000)
    assert counts.violations == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_spool_is_caught(name: str, tmp_path: Path) -> None:
    copy_with(MUTANTS[name], tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.spool.simulate", "--first-violation", "--states", "60000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"].startswith(str(tmp_path)), "the copy must be what was simulated"
    assert found["violation_count"] > 0, f"{name} survived {found['states']} states"
