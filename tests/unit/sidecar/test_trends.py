"""Estimates from earlier scrapes: right at a steady pace, absent without enough to go by, bounded in memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from relaypacs.sidecar.trends import DRAIN_WINDOW_SECONDS, Trend, Trends
from tests.unit.cli.rows import filled

GIB = 1 << 30


def test_a_disk_that_fills_up() -> None:
    trends = Trends()
    assert trends.hours_until_full(0.0, 100 * GIB, 1 * GIB) is None, "one look is no pace"
    assert trends.hours_until_full(5.0, 90 * GIB, 1 * GIB) is None, "nor is a moment"
    assert trends.hours_until_full(3600.0, 91 * GIB, 1 * GIB) is None, "what is long ago does not count"
    assert trends.hours_until_full(3600.0 + 360.0, 90 * GIB, 1 * GIB) == pytest.approx(89 / 10)
    assert trends.hours_until_full(3600.0 + 720.0, 91 * GIB, 1 * GIB) is None, "it does not shrink"
    assert trends.hours_until_full(3600.0 + 721.0, 1 * GIB, 1 * GIB) == 0.0


def test_a_queue_that_drains() -> None:
    trends = Trends()
    assert trends.drain_seconds("pacs", 0) == 0.0
    assert trends.drain_seconds("pacs", 5) is None
    trends.delivered(0.0, {"pacs": 100, "web": 7})
    trends.delivered(60.0, {"pacs": 220, "web": 7})
    assert trends.drain_seconds("pacs", 50) == pytest.approx(25.0)
    assert trends.drain_seconds("web", 50) is None, "nothing is delivered there"
    trends.delivered(60.0 + 2 * DRAIN_WINDOW_SECONDS, {"pacs": 220})
    assert trends.drain_seconds("pacs", 50) is None, "it has stopped long ago"


def test_however_often_somebody_asks() -> None:
    trend = Trend(600.0)
    for number in range(100_000):
        trend.add(number * 0.01, float(number))
    assert len(trend._seen) < 500
    assert trend.per_second() == pytest.approx(100.0)


_SEEN = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "run/metrics")
from prometheus_client import Counter, generate_latest, CollectorRegistry
made = Counter("relaypacs_deliveries_total", "As the relay process counts.", ["destination", "outcome"])
for outcome, count in (("delivered", 5), ("warning", 2), ("deferred", 90)):
    made.labels("pacs", outcome).inc(count)
from relaypacs.sidecar.jobtable import JobTable
from relaypacs.sidecar.metrics import NodeEvents, NodeStates
from relaypacs.sidecar.trends import Trends
from tests.unit.sidecar.test_states import config_of
config, trends = config_of(folder), Trends()
trends.delivered(time.monotonic() - 70.0, {"pacs": 0})
trends.hours_until_full(time.monotonic() - 70.0, float(1 << 60), 0.0)
jobs, registry = JobTable(config), CollectorRegistry()
registry.register(NodeEvents(folder / "run/metrics", dict, trends))
registry.register(NodeStates(config, jobs, None, trends))
print(generate_latest(registry).decode())
jobs.close()
"""


def test_a_scrape_feeds_and_shows_them(tmp_path: Path) -> None:
    for name in ("spool/segments", "spool/free", "spool/quarantine", "staging", "run/metrics"):
        (tmp_path / name).mkdir(parents=True)
    filled(tmp_path / "jobs.sqlite", now=time.time()).close()  # one waits for pacs
    done = subprocess.run([sys.executable, "-c", _SEEN, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    values = dict(line.rpartition(" ")[::2] for line in done.stdout.splitlines() if not line.startswith("#"))
    assert float(values['relaypacs_queue_drain_seconds{destination="pacs"}']) == pytest.approx(10.0, rel=0.1)
    assert values['relaypacs_queue_drain_seconds{destination="archive"}'] == "0.0"
    assert 0 < float(values["relaypacs_spool_hours_until_full"]) < 1
