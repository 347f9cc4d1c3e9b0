"""Ends what a benchmark started, also when the benchmark itself was killed.

`Guard` is used by `scripts/bench receive`; run as a program this is its other half: it reads from standard input what
to end, and does so when that is closed without a last word. It is in a session of its own, so no signal meant for the
benchmark reaches it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


class Guard:
    """Remembers process groups and a folder; `close` when they were ended and deleted in good order."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True
        )

    def watch(self, group: int) -> None:
        """A process group that was started."""
        self._say(str(group))

    def close(self) -> None:
        """Everything has ended."""
        self._say("done")
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the program as SIGINT does: with everything it has to tidy up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda which, _: sys.exit(128 + which))


def main() -> None:
    """Wait for the end of standard input."""
    folder = Path(sys.argv[1])
    groups = []
    for line in sys.stdin:
        if line == "done\n":
            return
        groups.append(int(line))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
