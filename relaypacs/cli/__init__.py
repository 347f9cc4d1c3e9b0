"""The command line: `relaypacs`. Commands load what they need when they run, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the answer is no, 2 usage, configuration or node not usable."""
    from relaypacs.cli.app import run

    run(arguments)
