"""The command line: `relaypacs`. Commands load what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF})


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the answer is no, 2 usage, configuration or node not usable."""
    _open_standard_streams()
    from relaypacs.cli.app import run

    try:
        try:
            run(arguments)
        finally:
            sys.stdout.flush()
    except OSError as problem:
        if problem.filename is not None or problem.errno not in _UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer has nowhere to go
        sys.stderr.write(f"relaypacs: standard output can't be written: {problem.strerror}\n")
        sys.exit(2)


def _open_standard_streams() -> None:
    """Give streams that were closed for us (`>&-`) to /dev/null.

    Else a file of the spool would get such a number, and whatever anybody prints would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
