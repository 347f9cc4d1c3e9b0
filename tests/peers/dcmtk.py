"""DCMTK's programs, by absolute path: pynetdicom installs the same names into a venv."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.peers.ports import answers, free_port
from tests.peers.program import Program

STORESCU = "/usr/bin/storescu"
DCMSEND = "/usr/bin/dcmsend"
ECHOSCU = "/usr/bin/echoscu"
STORESCP = "/usr/bin/storescp"
DCMDUMP = "/usr/bin/dcmdump"


def run(command: Sequence[str | Path], timeout_seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end with nothing on standard input; its output is text in `stdout` (both streams)."""
    return subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        check=False,
    )


def storescu(
    port: int,
    paths: Sequence[Path],
    *,
    called: str = "RELAYPACS",
    calling: str = "STORESCU",
    options: Sequence[str] = ("-x=",),
    timeout_seconds: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """`storescu` to 127.0.0.1. It halts at the first refusal unless `--no-halt` is among the options."""
    command: list[str | Path] = [STORESCU, *options, "-aet", calling, "-aec", called, "127.0.0.1", str(port), *paths]
    return run(command, timeout_seconds)


def dcmsend(
    port: int,
    paths: Sequence[Path],
    *,
    called: str = "RELAYPACS",
    calling: str = "DCMSEND",
    options: Sequence[str] = (),
    timeout_seconds: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """`dcmsend` to 127.0.0.1; it negotiates each file's own transfer syntax."""
    command: list[str | Path] = [DCMSEND, *options, "-aet", calling, "-aec", called, "127.0.0.1", str(port), *paths]
    return run(command, timeout_seconds)


def echoscu(port: int, *, called: str = "RELAYPACS", calling: str = "ECHOSCU") -> subprocess.CompletedProcess[str]:
    """`echoscu` to 127.0.0.1; exit code 0 is a C-ECHO answered with success."""
    return run([ECHOSCU, "-aet", calling, "-aec", called, "127.0.0.1", str(port)], 30.0)


class StoreScp:
    """Context manager: `storescp +B` (bit preserving), one process per association, writing into `folder`.

    `options` are added to its command line (`--abort-during`, `--sleep-after 1`, `-pm` …). `accept` is the transfer
    syntax option; by default everything DCMTK knows.
    """

    def __init__(
        self, folder: Path, *, aet: str = "STORESCP", accept: str = "+xa", options: Sequence[str] = ("-pm",)
    ) -> None:
        self.folder = folder
        self.aet = aet
        self.port = free_port()
        self._options = [accept, *options]
        self._program: Program | None = None

    def start(self) -> None:
        """Start it, or start it again on the same port and folder; returns when it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [STORESCP, "--fork", "-v", "+B", "-dhl", "-aet", self.aet, "-od", str(self.folder)]
        self._program = Program([*command, *self._options, str(self.port)], log_path=self.folder.with_suffix(".log"))
        self._program.wait_ready(lambda: answers(self.port), 10.0)

    def stop(self) -> None:
        """End it and the children that serve associations."""
        if self._program:
            self._program.stop(0.5)
            self._program = None

    @property
    def program(self) -> Program:
        """The running `storescp`; RuntimeError when it isn't."""
        if self._program is None:
            raise RuntimeError("storescp is not running")
        return self._program

    def __enter__(self) -> StoreScp:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def files(self) -> list[Path]:
        """The DICOM files it stored (named MODALITY.SOPInstanceUID; a UID sent again overwrites its file)."""
        return sorted(path for path in self.folder.iterdir() if path.is_file())
