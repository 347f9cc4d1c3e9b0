"""The receivers that `scripts/bench receive` compares, each a real program in a folder of its own.

`Receiver` starts one, says where it listens, clears what it stored between runs, and measures its processes: CPU time
with that of children that ended, and the peak of resident memory since `reset_peak`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from relaypacs.spool.reader import SpoolReader
from scripts.lib.bench_folder import put_aside
from tests.peers.dcmtk import STORESCP
from tests.peers.node import RELAYPACS, to_toml
from tests.peers.orthanc import Orthanc
from tests.peers.ports import answers, free_port
from tests.peers.program import Program

_LIB = Path(__file__).parent
_FREED_KEPT = 64
"""Freed segments kept for the next run: as in a node that runs, the spool is written into files that exist."""


def _nobody(_group: int) -> None:
    pass


class Receiver:
    """A program that takes C-STOREs on `port`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.called = "RELAYPACS"
        self.folder = folder
        self.port = free_port()
        self._program: Program | None = None
        folder.mkdir(parents=True)

    def command(self) -> list[str | Path]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What to add to its environment."""
        return {}

    def start(self, started: Callable[[int], None] = _nobody) -> None:
        """Start it; it accepts connections on return. `started` is told its process group before that."""
        self._program = Program(self.command(), log_path=self.folder / "log", environment=self.environment())
        started(self._program.pid)
        self._program.wait_ready(lambda: answers(self.port), 20.0)

    def stop(self) -> None:
        """End it."""
        if self._program is not None:
            self._program.stop(5.0)
            self._program = None

    def clear(self) -> None:
        """Forget what it stored."""

    def _processes(self) -> list[psutil.Process]:
        assert self._program is not None
        top = psutil.Process(self._program.pid)
        return [top, *top.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time of its processes so far."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak."""
        for process in self._processes():
            with suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """Sum over its living processes of each one's peak resident memory."""
        total = 0
        for process in self._processes():
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10
        return total


class Relay(Receiver):
    """RelayPACS's receive processes; `whole` runs the whole node, whose intake then uses the same cores."""

    def __init__(self, name: str, folder: Path, *, ack: str = "spooled", whole: bool = False) -> None:
        super().__init__(name, folder)
        self._whole = whole
        self._spool = folder / "state" / "spool"
        tables = {
            "node": {"state_dir": str(folder / "state")},
            "receive": {"host": "127.0.0.1", "port": self.port, "ae_titles": ["RELAYPACS"], "ack": ack},
            "spool": {"min_free_bytes": 1 << 30, "recycle_segments": _FREED_KEPT},
            "sidecar": {"port": free_port()},
            "log": {"level": "warning"},
        }
        (folder / "relaypacs.toml").write_text(to_toml(tables, {"caller": [{"ae_title": "*"}]}))

    def command(self) -> list[str | Path]:
        """What to run."""
        role = [] if self._whole else ["--role", "receive"]
        return [RELAYPACS, "serve", *role, "--config", self.folder / "relaypacs.toml"]

    def clear(self) -> None:
        """Free every full segment for reuse, as the sweep does in a node."""
        if self._whole:
            return
        reader = SpoolReader(self._spool, recycle=True, recycle_segments=_FREED_KEPT)
        for generation in reader.generations():
            reader.free(generation)
        reader.close()


class StoreScp(Receiver):
    """DCMTK's storescp."""

    def __init__(self, name: str, folder: Path, *, tuned: bool, fork: bool = False) -> None:
        super().__init__(name, folder)
        self._tuned, self._fork = tuned, fork
        self._stored = folder / "stored"

    def start(self, started: Callable[[int], None] = _nobody) -> None:
        """Start it."""
        self._stored.mkdir(exist_ok=True)
        super().start(started)

    def command(self) -> list[str | Path]:
        """What to run: bit preserving, the fastest it has."""
        fork: list[str | Path] = ["--fork"] if self._fork else []
        return [STORESCP, *fork, "+B", "-aet", "RELAYPACS", "-od", self._stored, str(self.port)]

    def environment(self) -> dict[str, str]:
        """Nagle off when tuned."""
        return {"TCP_NODELAY": "1"} if self._tuned else {}

    def clear(self) -> None:
        """Put its files aside."""
        put_aside(self._stored)


class StockAe(Receiver):
    """pynetdicom's own AE, chunked mode (`bench_stock_ae.py`)."""

    def command(self) -> list[str | Path]:
        """What to run."""
        (self.folder / "stored").mkdir(exist_ok=True)
        return [sys.executable, _LIB / "bench_stock_ae.py", str(self.port), self.folder / "stored"]

    def clear(self) -> None:
        """Put its files aside."""
        put_aside(self.folder / "stored")


class Discard(Receiver):
    """Reads, and answers without storing: the protocol's own limit (`bench_discard.py`), or, `bare`, a loop that
    counts bytes and knows no protocol: the sender's limit."""

    def __init__(self, name: str, folder: Path, *, bare: bool) -> None:
        super().__init__(name, folder)
        self._bare = bare

    def command(self) -> list[str | Path]:
        """What to run."""
        return [sys.executable, _LIB / "bench_discard.py", str(self.port), "bare" if self._bare else "lane"]


class OrthancPeer(Receiver):
    """Orthanc, alone."""

    def __init__(self, name: str, folder: Path, *, tuned: bool) -> None:
        super().__init__(name, folder)
        self.called = "ORTHANC"
        self._orthanc = Orthanc(folder / "o", environment={"TCP_NODELAY": "1"} if tuned else {}, StableAge=600)
        self.port = self._orthanc.dicom_port

    def start(self, started: Callable[[int], None] = _nobody) -> None:
        """Start it."""
        self._orthanc.start()
        self._program = self._orthanc.program
        started(self._program.pid)

    def stop(self) -> None:
        """End it."""
        self._orthanc.stop()
        self._program = None
