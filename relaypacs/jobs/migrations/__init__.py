"""How the schema came to be, one Alembic revision after the other; run by `JobStore.migrate`, never by hand.

`REVISIONS` lists them in order, so that a process can tell an old, a current and a newer schema without Alembic.
"""

from __future__ import annotations

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011")
