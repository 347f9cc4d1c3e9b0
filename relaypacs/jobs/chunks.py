"""Long lists of values in pieces that one statement takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

IN_LIST = 5000
"""Values in one IN list; SQLite takes 32,766 parameters, PostgreSQL 65,535."""
_T = TypeVar("_T")


def chunks(values: Iterable[_T], size: int = IN_LIST) -> Iterator[list[_T]]:
    """`values` in lists of at most `size`."""
    source = iter(values)
    while chunk := list(islice(source, size)):
        yield chunk
