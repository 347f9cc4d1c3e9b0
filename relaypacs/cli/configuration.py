"""`relaypacs config check` and `config show`. Each returns its exit code; secrets are shown as asterisks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from relaypacs.cli import say, settings
from relaypacs.config import warnings
from relaypacs.config.show import show_config, to_toml


def check(given: Path | None) -> int:
    """Load the configuration; its problems are the ConfigError that leaves here, its warnings are told."""
    place = settings.find(given)
    config = settings.load(given)
    for warning in warnings(config, os.environ):
        say.tell(f"relaypacs: warning: {warning}")
    counts = (
        say.counted(len(config.caller), "caller"),
        say.counted(len(config.destination), "destination"),
        say.counted(len(config.rule), "rule"),
    )
    say.out(f"{place} is fine: {', '.join(counts)}.")
    return 0


def show(given: Path | None, *, changed: bool, as_json: bool) -> int:
    """Print the configuration in force, as TOML or JSON; `changed`: only what differs from the defaults."""
    document = show_config(settings.load(given, secrets=False), changed_only=changed)
    if as_json:
        say.out_json(document)
    else:
        sys.stdout.write(to_toml(document))
    return 0
