"""Read the configuration (written next)."""

from __future__ import annotations

from pathlib import Path

from relaypacs.config.model import Config


def load_config(path: Path | None) -> Config:
    """Placeholder until the loader lands."""
    raise NotImplementedError
