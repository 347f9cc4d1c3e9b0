"""A RelayPACS node as a user runs it: a configuration file, `relaypacs serve`, the CLI beside it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.peers.dcmtk import run
from tests.peers.orthanc import Orthanc
from tests.peers.ports import free_port, wait_until
from tests.peers.program import Program

RELAYPACS = Path(sys.executable).with_name("relaypacs")
Table = Mapping[str, Any]


def dimse(name: str, port: int, called_ae: str, **settings: Any) -> dict[str, Any]:
    """A `[[destination]]` reached by C-STORE on 127.0.0.1."""
    return {"name": name, "kind": "dimse", "host": "127.0.0.1", "port": port, "called_ae": called_ae, **settings}


def dicomweb(name: str, url: str, **settings: Any) -> dict[str, Any]:
    """A `[[destination]]` reached by STOW-RS."""
    return {"name": name, "kind": "dicomweb", "url": url, **settings}


def both_ways(orthanc: Orthanc) -> list[dict[str, Any]]:
    """Two destinations, `orthanc-dimse` and `orthanc-web`, that are one Orthanc."""
    return [dimse("orthanc-dimse", orthanc.dicom_port, orthanc.aet), dicomweb("orthanc-web", orthanc.dicomweb_url)]


class Node:
    """Context manager. `sections` overrides tables of the configuration (`{"spool": {"recycle": False}}`).

    `wrapper` is put before the command (`strace …`); ports left 0 are free ones. Without `rules`, everything goes to
    every destination; without `callers`, everyone may send. State lives in `folder/state`; a second `start()`
    continues with it on the same ports. With `folder_of_files` the configuration is a folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        destinations: Sequence[Table] = (),
        rules: Sequence[Table] | None = None,
        callers: Sequence[Table] = ({"ae_title": "*"},),
        sections: Mapping[str, Table] | None = None,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        port: int = 0,
        http_port: int = 0,
        folder_of_files: bool = False,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.http_port = http_port or free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.ae_title = "RELAYPACS"
        self.state_dir = folder / "state"
        self.config_path = folder / "relaypacs.toml"
        self._wrapper = list(wrapper)
        self._environment = dict(environment or {})
        self._program: Program | None = None
        tables: dict[str, dict[str, Any]] = {
            "node": {"state_dir": str(self.state_dir)},
            "receive": {"host": "127.0.0.1", "port": self.port, "ae_titles": [self.ae_title], "processes": 2},
            "spool": {"min_free_bytes": 64 << 20},
            "sidecar": {"host": "127.0.0.1", "port": self.http_port},
        }
        for name, table in (sections or {}).items():
            tables.setdefault(name, {}).update(table)
        if rules is None:
            names = [one["name"] for one in destinations]
            rules = [{"name": "everything", "to": names}] if names else []
        lists = {"caller": callers, "destination": destinations, "rule": rules}
        folder.mkdir(parents=True, exist_ok=True)
        if folder_of_files:
            self.config_path = folder / "conf"
            self.config_path.mkdir(exist_ok=True)
            (self.config_path / "node.toml").write_text(to_toml(tables, {}))
            for name, entries in lists.items():
                (self.config_path / f"{name}.toml").write_text(to_toml({}, {name: entries}))
        else:
            self.config_path.write_text(to_toml(tables, lists))

    def launch(self) -> None:
        """Start `relaypacs serve` without waiting."""
        command = [*self._wrapper, str(RELAYPACS), "serve", "--config", str(self.config_path)]
        self._program = Program(command, log_path=self.folder / "node.log", environment=self._environment)

    def start(self, timeout_seconds: float = 20.0) -> None:
        """Start it and return when `/readyz` answers 200."""
        self.launch()
        self.program.wait_ready(self.is_ready, timeout_seconds)

    @property
    def program(self) -> Program:
        """The running supervisor; RuntimeError when there is none."""
        if self._program is None:
            raise RuntimeError("the node is not running")
        return self._program

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, grace_seconds: float = 10.0) -> int | None:
        """SIGTERM and wait; returns the exit code (0 is a clean end), None if it was not running."""
        if self._program is None:
            return None
        code = self._program.stop(grace_seconds)
        self._program = None
        return code

    def pids(self) -> list[int]:
        """Process ids of the supervisor and everything below it, the supervisor first."""
        try:
            top = psutil.Process(self.program.pid)
            return [top.pid, *(child.pid for child in top.children(recursive=True))]
        except psutil.NoSuchProcess:
            return []

    def kill(self, pid: int | None = None) -> None:
        """`kill -9` of one process, or of every process of the node at once."""
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            return
        for one in self.pids():
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self.program.kill()
        self._program = None

    def log(self) -> str:
        """Everything it logged, over all its starts."""
        return (self.folder / "node.log").read_text(errors="replace")

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Its log lines, decoded; only those of one event name if given."""
        # What a process was writing when it was killed ends in the middle, and the next line begins there.
        begins = '{"timestamp"'
        lines = (line[line.rfind(begins) :] for line in self.log().splitlines() if begins in line)
        decoded: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in decoded if not name or line.get("event") == name]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET to the sidecar."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """Whether `/readyz` answers 200."""
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def metric(self, sample: str) -> float:
        """Value of one sample of `/metrics` by its full text, labels included; 0.0 when it isn't there."""
        for line in self.get("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def cli(self, *words: str | Path, timeout_seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `relaypacs WORDS… --config …` beside the node."""
        return run([RELAYPACS, *words, "--config", self.config_path], timeout_seconds)

    def cli_json(self, *words: str) -> Any:
        """Decoded output of `relaypacs WORDS… --json`; RuntimeError when it fails."""
        command = [str(RELAYPACS), *words, "--json", "--config", str(self.config_path)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def ledger(self) -> dict[str, Any]:
        """The whole node's ledger (`relaypacs ledger --json`)."""
        ledger: dict[str, Any] = self.cli_json("ledger")
        return ledger

    def queue(self) -> list[dict[str, Any]]:
        """Deliveries per destination and state (`relaypacs queue --json`)."""
        queue: list[dict[str, Any]] = self.cli_json("queue")
        return queue

    def wait_settled(self, received: int, timeout_seconds: float = 60.0) -> dict[str, Any]:
        """Return the ledger once `received` objects are in it and none is pending; TimeoutError otherwise."""
        ledger: dict[str, Any] = {}

        def settled() -> bool:
            ledger.update(self.ledger())
            return bool(ledger["received"] >= received and ledger["pending"] == 0)

        try:
            wait_until(settled, f"{received} objects settled", timeout_seconds, every_seconds=0.3)
        except TimeoutError as late:
            raise TimeoutError(f"{late}; ledger: {ledger}") from None
        return ledger


def to_toml(tables: Mapping[str, Table], lists: Mapping[str, Sequence[Table]]) -> str:
    """A configuration file: `[name]` tables and `[[name]]` lists of tables."""
    parts = [f"[{name}]\n{_body(table)}" for name, table in tables.items()]
    parts += [f"[[{name}]]\n{_body(table)}" for name, entries in lists.items() for table in entries]
    return "\n".join(parts)


def _body(table: Table) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value)
