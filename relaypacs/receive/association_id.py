"""What an association, or a refused request, is called: in the spool, the job table, the log, and by people."""

from __future__ import annotations

import secrets


def new_association_id(now: float) -> str:
    """20 hexadecimal digits: 12 of milliseconds since 1970, so that ids sort by time, and 8 random ones."""
    return f"{int(now * 1000):012x}{secrets.token_hex(4)}"
