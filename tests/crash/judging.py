"""Runs of the crash suite as tests: lived, judged, and without a fault."""

from __future__ import annotations

import random
from pathlib import Path

from tests.crash.harness.rig import Setting
from tests.crash.harness.runs import Run, live
from tests.crash.harness.verdict import Totals

WHOLE_NODES = 0.1
"""Starting a node anew is most of the time all this takes."""


def judged(runs: list[Run], setting: Setting, tmp_path: Path) -> Totals:
    """What came of these runs on one node; AssertionError with the seed if a promise was broken."""
    seed = random.randrange(1 << 30)
    totals = Totals()
    live(tmp_path / "life", setting, runs, random.Random(seed), totals, whole_nodes=WHOLE_NODES)
    print(f"seed {seed}: {totals.line()}")
    assert totals.faults == [], f"seed {seed}"
    assert totals.runs == len(runs)
    return totals
