"""Every expression of the Grafana dashboards returns data, on a real Prometheus beside a node that works."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.test_jobs import postgres
from tests.contract.test_jobs.postgres import Postgres
from tests.peers.dcmtk import StoreScp, storescu
from tests.peers.node import Node, dimse
from tests.peers.ports import wait_until
from tests.peers.prometheus import PostgresExporter, Prometheus
from tests.samples import write_ct_series

CONF = Path(__file__).parents[2] / "conf"
ROUNDS = 6


def expressions() -> Iterator[tuple[str, str]]:
    """Where each stands, and what Prometheus is asked: what Grafana would put for its variables is put in."""
    for file in sorted((CONF / "grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".*")
                assert "$" not in expression, f"{file.name}: {expression} has a variable that is not known here"
                yield f"{file.name}, {panel['title']}", expression


def test_panels_are_well_formed() -> None:
    boards = {file.stem: json.loads(file.read_text()) for file in (CONF / "grafana").glob("*.json")}
    assert set(boards) == {"overview", "infrastructure", "database"}
    for name, board in boards.items():
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels), name
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells)), f"{name}: panels overlap"
        assert max(x for x, _ in cells) < 24, name


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_every_panel_has_data(
    tmp_path: Path, peers: ExitStack, node: Callable[..., Node], storescp: Callable[..., StoreScp]
) -> None:
    binaries = postgres.debian_binaries()
    if binaries is None or shutil.which("prometheus-postgres-exporter") is None:
        pytest.skip("PostgreSQL and its exporter are not installed")
    server = peers.enter_context(Postgres(binaries, *postgres.FAST))
    database = server.create_database("relaypacs")
    peers.enter_context(Postgres(binaries, *postgres.FAST, standby_of=server))
    archive = storescp()
    relay = node(
        destinations=[dimse("archive", archive.port, archive.aet)],
        callers=[{"ae_title": "CT*"}],
        sections={"jobs": {"url": database}, "routing": {"study_quiet_seconds": 1.0}, "staging": {"keep": "1d"}},
    )
    exporter = peers.enter_context(PostgresExporter(tmp_path / "exporter", database))
    targets = {"relaypacs": relay.http_port, "postgres": exporter.port}
    prometheus = peers.enter_context(Prometheus(tmp_path / "prometheus", targets, CONF / "prometheus"))
    for number in range(ROUNDS):
        files = write_ct_series(tmp_path / f"series-{number}", 2, rows=32, columns=32)
        assert storescu(relay.port, files, calling="CT_1").returncode == 0
        assert storescu(relay.port, files, calling="NOBODY").returncode != 0
        time.sleep(2.0)
    asked = list(expressions())
    assert len(asked) > 60
    empty: list[str] = []

    def all_return_data() -> bool:
        empty[:] = [f"{place}: {expression}" for place, expression in asked if not _has_data(prometheus, expression)]
        return not empty

    try:
        wait_until(all_return_data, "every panel has data", 20.0, every_seconds=2.0)
    except TimeoutError:
        pytest.fail("no data: " + "; ".join(empty))
    firing = {one["metric"]["alertname"] for one in prometheus.ask('ALERTS{alertstate="firing"}')}
    assert not firing, "a node that works is no reason to alarm anybody"


def _has_data(prometheus: Prometheus, expression: str) -> bool:
    return any(sample["value"][1] != "NaN" for sample in prometheus.ask(expression))
