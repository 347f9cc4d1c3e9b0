"""rsyslog from Debian as an audit collector: TLS with client certificates, what came in a file, a line per message."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType

from tests.peers.pki import Identity
from tests.peers.ports import answers, free_port
from tests.peers.program import Program

RSYSLOGD = Path("/usr/sbin/rsyslogd")


class Collector:
    """Context manager. `start` and `stop` as often as wanted, on the same port, into the same file."""

    def __init__(self, folder: Path, identity: Identity, ca: Path, *, permitted: str) -> None:
        """`permitted`: the name of the only client certificate that is let in."""
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._folder = folder
        self.file = folder / "messages"
        self._program: Program | None = None
        (folder / "rsyslog.conf").write_text(
            f"""
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
       defaultNetstreamDriverCAFile="{ca}" defaultNetstreamDriverCertFile="{identity.certificate}"
       defaultNetstreamDriverKeyFile="{identity.key}" parser.escapeControlCharactersOnReceive="off")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/name"
       permittedPeer=["{permitted}"])
template(name="raw" type="string" string="%rawmsg%\\n")
input(type="imtcp" port="{self.port}" address="127.0.0.1")
action(type="omfile" file="{self.file}" template="raw" flushOnTXEnd="on" asyncWriting="off")
"""
        )

    def start(self) -> None:
        """Start it; returns when it listens."""
        self._program = Program(
            [RSYSLOGD, "-n", "-f", self._folder / "rsyslog.conf", "-i", self._folder / "pid"],
            log_path=self._folder / "log",
        )
        self._program.wait_ready(lambda: answers(self.port), 20)

    def stop(self) -> None:
        """End it in order: it writes what it has."""
        if self._program is not None:
            self._program.stop(10.0)
            self._program = None

    def kill(self) -> None:
        """SIGKILL."""
        assert self._program is not None
        self._program.kill()
        self._program = None

    def freeze(self) -> None:
        """SIGSTOP: it accepts connections by the kernel's grace, and reads nothing."""
        assert self._program is not None
        os.kill(self._program.pid, signal.SIGSTOP)

    def lines(self) -> list[str]:
        """What has come, a message each."""
        return self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []

    def log(self) -> str:
        """What it said of itself."""
        return (self._folder / "log").read_text(errors="replace")

    def __enter__(self) -> Collector:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
