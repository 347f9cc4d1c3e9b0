"""How commands speak: data on standard output, messages on standard error, ages and sizes as people read them.

What peers wrote (AE titles, UIDs, identifiers) passes through `printable`, so it can't steer a terminal.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_WIDEST = 400
"""Columns of a table that does not go to a terminal: nothing is cut there."""


def out(text: str = "") -> None:
    """A line of data."""
    sys.stdout.write(text + "\n")


def out_json(document: object) -> None:
    """One JSON document on a line of its own."""
    out(json.dumps(document))


def tell(message: str) -> None:
    """A message for the person at the terminal."""
    sys.stderr.write(message + "\n")


def out_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; every column but the first is aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def printable(text: str) -> str:
    """`text` with control and other unprintable characters written as escapes."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def age(seconds: float | None) -> str:
    """A span of time in its two largest units (`2 h 5 min`); `-` for none."""
    if seconds is None:
        return "-"
    left = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, unit))
        if len(parts) == 2:
            break
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def when(time: float | None) -> str:
    """A moment in the reader's own time zone; `-` for none, and for one that no calendar has."""
    moment = _moment(time)
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(time: float | None) -> str | None:
    """A moment for machines: ISO 8601, UTC, milliseconds."""
    moment = _moment(time)
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _moment(time: float | None) -> datetime | None:
    try:
        return None if time is None else datetime.fromtimestamp(time, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def counted(number: int, what: str) -> str:
    """`1 instance`, `2 instances`, `2 deliveries`."""
    if number == 1:
        return f"1 {what}"
    if what.endswith("y"):
        return f"{number} {what[:-1]}ies"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"
