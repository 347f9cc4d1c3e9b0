"""`docs/metrics.md` lists exactly the metrics there are: name, type and labels."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import relaypacs
from relaypacs.sidecar import configuration, metrics

ROOT = Path(relaypacs.__file__).parent
PAGE = ROOT.parent / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \| (?P<labels>[^|]*) \| (?P<meaning>[^|]+) \|$", re.MULTILINE)

STATES = metrics.STATES | configuration.STATES
Metrics = dict[str, tuple[str, tuple[str, ...]]]


def declared() -> Metrics:
    """Every metric of the code: those a module declares, and those the sidecar computes."""
    for source in sorted(ROOT.rglob("*.py")):
        if "prometheus_client" in source.read_text(encoding="utf-8"):
            importlib.import_module(".".join(source.relative_to(ROOT.parent).with_suffix("").parts))
    found: Metrics = {
        name: ("counter" if name.endswith("_total") else "gauge", labels) for name, (_, labels) in STATES.items()
    }
    for collector in set(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase) and collector.__module__.startswith("prometheus_client"):
            (family,) = collector.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (family.type, tuple(collector._labelnames))
    return found


def listed() -> Metrics:
    """Every metric of the page."""
    page = PAGE.read_text(encoding="utf-8")
    rows = {row["name"]: (row["type"], tuple(re.findall(r"`(\w+)`", row["labels"]))) for row in ROW.finditer(page)}
    assert len(rows) == len(re.findall(r"^\| `", page, re.MULTILINE)), "a row is malformed or doubled"
    return rows


def test_the_page_is_what_there_is() -> None:
    assert listed() == declared()


def test_names_and_helps_follow_prometheus_conventions() -> None:
    for name, (kind, _) in declared().items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert kind != "histogram" or name.endswith(("_seconds", "_bytes")), name
    for name, (help_text, _) in STATES.items():
        assert help_text.endswith("."), name
