"""Who a node is to others that share its job table: its state folder, by a random name kept in it."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def identity(state_dir: Path) -> str:
    """The folder's identity, made once. OSError where it can't be read or written."""
    place = state_dir / "node.id"
    if not place.exists():
        # Written whole under another name first: a crash leaves no empty one.
        draft = state_dir / f"node.id.{os.getpid()}"
        draft.write_text(secrets.token_hex(16), encoding="ascii")
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, place)
        finally:
            draft.unlink()
    return place.read_text(encoding="ascii").strip()
