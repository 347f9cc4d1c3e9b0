"""Who takes over what a paused process had claimed: another node, or beside a node's relay process another one.

With staging in a bucket any node delivers what is there: the partner is a node. Otherwise it is a stand-in for a second
relay process of the node: the product's own Forwarder on the node's spool and staging, with the node's name, in a
process of its own (`forwarding.py`); it takes nothing in and sweeps nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.peers.ports import wait_until
from tests.peers.program import Program

_SCRIPT = Path(__file__).with_name("forwarding.py")


class Partner(Protocol):
    """What takes over."""

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def pids(self) -> list[int]:
        """Its processes."""

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Its log lines of one event name, decoded."""


class SecondWorker:
    """Context manager. `environment` names the job table."""

    def __init__(self, config_path: Path, log_path: Path, environment: Mapping[str, str]) -> None:
        # -P: the script's folder is no place to import from, so that PYTHONPATH decides which RelayPACS it is.
        self._command: list[str | Path] = [sys.executable, "-P", _SCRIPT, config_path]
        self._log_path, self._environment = log_path, dict(environment)
        self._program: Program | None = None

    def __enter__(self) -> SecondWorker:
        self._program = Program(self._command, log_path=self._log_path, environment=self._environment)
        wait_until(lambda: bool(self.events("second-forwards")), "the second relay", 20)
        return self

    def __exit__(self, *_: object) -> None:
        if self._program is not None:
            self._program.stop(10)
            self._program = None

    def pids(self) -> list[int]:
        """Process ids: one."""
        return [self._program.pid] if self._program is not None else []

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Its log lines of one event name, decoded."""
        lines = [line for line in self._log_path.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if not name or line.get("event") == name]
