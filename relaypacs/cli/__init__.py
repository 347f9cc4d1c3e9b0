"""The command line: `relaypacs`. Commands load what they need when they run, so that `--help` is quick."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit: 0 done, 1 the answer is no, 2 usage, configuration or node not usable."""
    from relaypacs.cli.app import run

    run()
