"""The relays that `scripts/bench relay` compares, and the destinations they relay to: real programs, measured.

A relay is a `bench_receivers.Receiver` that also passes on: by itself, or when `pass_on` is called once everything was
sent to it. A destination says how many whole objects it has.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from scripts.lib.bench_folder import put_aside
from scripts.lib.bench_receivers import OrthancPeer, Receiver, StoreScp
from tests.peers.dcmtk import DCMSEND
from tests.peers.node import RELAYPACS, dicomweb, dimse, to_toml
from tests.peers.orthanc import Orthanc
from tests.peers.ports import free_port, wait_until
from tests.peers.seaweed import SeaweedFS

_LIB = Path(__file__).parent
_LUA = """
function OnStoredInstance(id, tags, metadata, origin)
  if origin['RequestOrigin'] ~= 'Lua' then SendToModality(id, 'there') end
end
"""
_TUNED = {"TCP_NODELAY": "1"}


class FolderDestination(StoreScp):
    """DCMTK's storescp +B: each object a file."""

    web_url = ""

    def whole(self, least_bytes: int) -> int:
        """How many objects are there, none shorter than `least_bytes`; the newest may still be being written."""
        with os.scandir(self._stored) as entries:
            return sum(1 for entry in entries if entry.stat().st_size >= least_bytes)

    def count(self) -> int:
        """How many objects have begun to arrive: cheaper than `whole`."""
        return len(os.listdir(self._stored))


class OrthancDestination(OrthancPeer):
    """Orthanc: counts what is in its index."""

    def __init__(self, name: str, folder: Path, *, tuned: bool) -> None:
        super().__init__(name, folder, tuned=tuned)
        self._before = 0

    @property
    def web_url(self) -> str:
        """Base URL of its DICOMweb service."""
        return self._orthanc.dicomweb_url

    def whole(self, least_bytes: int) -> int:
        """How many instances it stores."""
        return self.count()

    def count(self) -> int:
        """How many instances it stores."""
        return self._orthanc.count() - self._before

    def clear(self) -> None:
        """Count from here: what it deletes would be in the way of what it stores next."""
        self._before = self._orthanc.count()


Destination = FolderDestination | OrthancDestination


class RelayUnderTest(Receiver):
    """A receiver that relays to `to`."""

    def __init__(self, name: str, folder: Path, to: Destination) -> None:
        super().__init__(name, folder)
        self.to = to
        self.passing_cpu_seconds = 0.0
        self.passing_peak_bytes = 0

    def pass_on(self) -> None:
        """Everything was sent to the relay: what it doesn't relay by itself is relayed now."""

    def finish(self) -> None:
        """Everything was relayed: what is left to do is done, so that it is not paid by the next relay."""


class NoRelay(RelayUnderTest):
    """The sender straight to the destination: what no relay can be faster than."""

    def __init__(self, name: str, folder: Path, to: Destination) -> None:
        super().__init__(name, folder, to)
        self.port, self.called = to.port, to.called

    def start(self) -> None:
        """There is nothing to start."""

    def _processes(self) -> list[psutil.Process]:
        return []


class RelayPacs(RelayUnderTest):
    """A whole node with its defaults, SQLite and the filesystem. `hung`: a second destination takes connections and
    never says a word. `s3`: it stages in a SeaweedFS of its own, beside it on the same machine,
    after the hot time or, `at_once`, while it relays."""

    def __init__(
        self,
        name: str,
        folder: Path,
        to: Destination,
        *,
        web: bool = False,
        hung: bool = False,
        s3: bool = False,
        at_once: bool = False,
    ) -> None:
        super().__init__(name, folder, to)
        there = dicomweb("there", to.web_url) if web else dimse("there", to.port, to.called)
        destinations = [there]
        self._hung = socket.create_server(("127.0.0.1", 0)) if hung else None
        if self._hung is not None:
            destinations.append(dimse("hung", self._hung.getsockname()[1], "HUNG"))
        self._s3 = SeaweedFS(folder / "seaweed") if s3 else None
        self._relayed = 0
        tables: dict[str, dict[str, Any]] = {
            "node": {"state_dir": str(folder / "state")},
            "receive": {"host": "127.0.0.1", "port": self.port, "ae_titles": ["RELAYPACS"]},
            "sidecar": {"port": free_port()},
            "log": {"level": "warning"},
        }
        self._sidecar_port = tables["sidecar"]["port"]
        if self._s3 is not None:
            tables["staging"] = self._s3.section(**({"hot_seconds": 0.0} if at_once else {}))
        lists = {
            "caller": [{"ae_title": "*"}],
            "destination": destinations,
            "rule": [{"name": "all", "to": [one["name"] for one in destinations]}],
        }
        (folder / "relaypacs.toml").write_text(to_toml(tables, lists))

    def command(self) -> list[str | Path]:
        """What to run."""
        serve: list[str | Path] = [RELAYPACS, "serve", "--config", self.folder / "relaypacs.toml"]
        if self._s3 is None:
            return serve
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in self._s3.environment().items()), *serve]

    def start(self) -> None:
        """Start it, and its object storage before."""
        if self._s3 is not None:
            self._s3.start()
        super().start()

    def finish(self) -> None:
        """Wait until all is staged, which it does 2 s later."""
        self._relayed += self.to.count()
        wait_until(lambda: self._staged() >= self._relayed, f"{self.name} to stage", 120)

    def _staged(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._sidecar_port}/metrics", timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("relaypacs_staged_instances_total"))

    def stop(self) -> None:
        """End it."""
        super().stop()
        if self._hung is not None:
            self._hung.close()
        if self._s3 is not None:
            self._s3.stop()


class OrthancRelay(RelayUnderTest):
    """Orthanc: by Lua each instance when it is stored, or, `by_study`, one request once the study is there."""

    def __init__(self, name: str, folder: Path, to: Destination, *, tuned: bool, by_study: bool = False) -> None:
        super().__init__(name, folder, to)
        self.called = "ORTHANC"
        self._by_study = by_study
        self._sent: set[str] = set()
        script = folder / "route.lua"
        script.write_text(_LUA)
        self._orthanc = Orthanc(
            folder / "o",
            environment=_TUNED if tuned else {},
            StableAge=600,
            DicomModalities={"there": [to.called, "127.0.0.1", to.port]},
            LuaScripts=[] if by_study else [str(script)],
        )
        self.port = self._orthanc.dicom_port

    def start(self) -> None:
        """Start it."""
        self._orthanc.start()
        self._program = self._orthanc.program

    def pass_on(self) -> None:
        """Send the study."""
        if self._by_study:
            studies = set(self._orthanc.get_json("/studies"))
            body = json.dumps({"Resources": list(studies - self._sent), "Synchronous": True})
            self._sent = studies
            connection = http.client.HTTPConnection("127.0.0.1", self._orthanc.http_port, timeout=600)
            connection.request("POST", "/modalities/there/store", body)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            if answer.status != 200:
                raise SystemExit(f"{self.name}: Orthanc answered {answer.status}")

    def stop(self) -> None:
        """End it."""
        self._orthanc.stop()
        self._program = None


class StoreThenSend(RelayUnderTest):
    """DCMTK: storescp, and when everything is there, dcmsend of its folder."""

    def __init__(self, name: str, folder: Path, to: Destination, *, tuned: bool) -> None:
        super().__init__(name, folder, to)
        self._environment = _TUNED if tuned else {}
        self._scp = StoreScp("storescp", folder / "scp", tuned=tuned)
        self.port = self._scp.port

    def start(self) -> None:
        """Start storescp."""
        self._scp.start()
        self._program = self._scp._program

    def pass_on(self) -> None:
        """Send the folder."""
        to = ["-aec", self.to.called, "127.0.0.1", str(self.to.port)]
        sending = subprocess.Popen(
            [DCMSEND, *to, "+sd", str(self._scp.folder / "stored")],
            env={**os.environ, **self._environment},
            stdout=subprocess.DEVNULL,
        )
        try:
            _, status, used = os.wait4(sending.pid, 0)
        except BaseException:
            sending.kill()
            raise
        sending.returncode = os.waitstatus_to_exitcode(status)
        if sending.returncode:
            raise SystemExit(f"{self.name}: dcmsend ended with {sending.returncode}")
        self.passing_cpu_seconds = used.ru_utime + used.ru_stime
        self.passing_peak_bytes = used.ru_maxrss << 10

    def clear(self) -> None:
        """Put its files aside."""
        self._scp.clear()

    def stop(self) -> None:
        """End it."""
        self._scp.stop()
        self._program = None


class StockRelay(RelayUnderTest):
    """Stock pynetdicom both ways (`bench_stock_relay.py`)."""

    def command(self) -> list[str | Path]:
        """What to run."""
        (self.folder / "stored").mkdir(exist_ok=True)
        to = [str(self.to.port), self.to.called]
        return [sys.executable, _LIB / "bench_stock_relay.py", str(self.port), self.folder / "stored", *to]

    def clear(self) -> None:
        """Put its files aside."""
        put_aside(self.folder / "stored")
