"""One program in the background: started with its output in a file, stopped by its pid.

Used by every peer here. A program that dies while it starts raises with the end of its output, so that a test says
what went wrong. The whole process group is ended, because `storescp --fork` and the node have children.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.peers.ports import wait_until


class Program:
    """A running program. `log_path` holds what it wrote to standard output and standard error."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log_path = log_path
        self.command = [str(word) for word in command]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also its process group's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, or None while it runs (negative: the signal that ended it)."""
        return self._process.poll()

    def log(self) -> str:
        """Everything it wrote so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Return when `ready()`; RuntimeError with the end of the log when it died or took too long."""

        def ready_or_dead() -> bool:
            return self.exit_code is not None or ready()

        try:
            wait_until(ready_or_dead, f"{self.command[0]} ready", timeout_seconds, every_seconds=0.02)
        except TimeoutError as late:
            self.kill()
            raise RuntimeError(f"{late}\n{self.log()[-3000:]}") from None
        if self.exit_code is not None:
            raise RuntimeError(f"{self.command[0]} ended with {self.exit_code}\n{self.log()[-3000:]}")

    def signal(self, number: int) -> None:
        """Send a signal to the program alone, not to its children."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, grace_seconds: float = 3.0) -> int:
        """SIGTERM, and SIGKILL to the whole group after `grace_seconds`; returns the exit code."""
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to the program and its children, at once; returns the exit code."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()
