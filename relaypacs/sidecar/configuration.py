"""How the configuration stands, for `/readyz` and `/metrics`: what the supervisor tells in `run/config/*.json`.

A file that is refused never makes the node unready: what was in force is, and a wrong file must not take nodes out of
service one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relaypacs.sidecar.app import Check

STATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "relaypacs_config_version": ("Number of the configuration in force (`relaypacs config history`).", ()),
    "relaypacs_config_rejected": ("1 while the files hold a configuration that was refused, else 0.", ()),
    "relaypacs_config_waiting_options": ("Changed options that wait for a restart of the node.", ()),
}
"""Name, help text and labels of every gauge, as `metrics.STATES`."""


@dataclass(frozen=True, slots=True)
class _State:
    version: int
    rejected: int
    waiting: int


def configuration(run_dir: Path) -> Check:
    """The check: not needed, so that it is only shown."""
    state = _state(run_dir)
    if state is None:
        return Check(True, "as it was when the node started", needed=False)
    if state.rejected:
        mend = "see the log, or `relaypacs config check`"
        return Check(
            False,
            f"the changed files are refused, version {state.version} stays in force; {mend}",
            needed=False,
        )
    waits = f"; {state.waiting} options wait for a restart" if state.waiting else ""
    return Check(True, f"version {state.version} is in force{waits}", needed=False)


class ConfigurationStates(Collector):
    """The gauges, read when Prometheus asks; none without a supervisor that reloads."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def describe(self) -> list[Metric]:
        """Nothing: registering reads no file."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges, now."""
        state = _state(self._run_dir)
        if state is not None:
            values = state.version, min(1, state.rejected), state.waiting
            for (name, (text, _)), value in zip(STATES.items(), values, strict=True):
                yield GaugeMetricFamily(name, text, value=value)


def _state(run_dir: Path) -> _State | None:
    """Of all supervisors of this node, the oldest version and the worst of the rest."""
    found = []
    for file in (run_dir / "config").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_text(encoding="utf-8"))
            found.append(_State(int(told["version"]), len(told["rejected"]), len(told["waiting"])))
    if not found:
        return None
    return _State(min(s.version for s in found), max(s.rejected for s in found), max(s.waiting for s in found))
