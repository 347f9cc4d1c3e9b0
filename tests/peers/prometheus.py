"""A real Prometheus and PostgreSQL's exporter, from Debian."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers.ports import free_port
from tests.peers.program import Program


class Prometheus:
    """Context manager: scrapes `targets` (job name to ports on 127.0.0.1) each second, with the rules in `rules`."""

    def __init__(self, folder: Path, targets: Mapping[str, int], rules: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self._folder = folder
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in targets.items()
        ]
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules / "*ing.yml"), str(rules / "alerts.yml")],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML

    def __enter__(self) -> Prometheus:
        self._program = Program(
            [
                "/usr/bin/prometheus",
                f"--config.file={self._folder}/prometheus.yml",
                f"--storage.tsdb.path={self._folder}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            log_path=self._folder / "log",
        )
        self._program.wait_ready(lambda: _answers(f"http://127.0.0.1:{self.port}/-/ready"), 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.stop()

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now; ValueError where it is none."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as refused:
            raise ValueError(f"{expression}: {refused.read().decode()}") from None


class PostgresExporter:
    """Context manager: metrics of the PostgreSQL at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.port = free_port()
        self._folder, self._url = folder, url

    def __enter__(self) -> PostgresExporter:
        self._folder.mkdir(parents=True)
        self._program = Program(
            ["/usr/bin/prometheus-postgres-exporter", f"--web.listen-address=127.0.0.1:{self.port}"],
            log_path=self._folder / "log",
            environment={"DATA_SOURCE_NAME": re.sub(r"^postgresql\+\w+", "postgresql", self._url) + "?sslmode=disable"},
        )
        self._program.wait_ready(lambda: _answers(f"http://127.0.0.1:{self.port}/metrics"), 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.stop()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
