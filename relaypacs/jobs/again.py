"""A transaction that another one got in the way of is done again.

Called by whatever writes rows that other nodes or people may write at the same moment. Two can insert the same key, or
wait for each other's rows: the database gives one of them up, whole, and the second time it sees what the other did.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from sqlalchemy import Connection

from relaypacs.errors import Overtaken

TRIES = 3
_T = TypeVar("_T")


def until_alone(writing: Callable[[], AbstractContextManager[Connection]], do: Callable[[Connection], _T]) -> _T:
    """What `do` returns, in the first of `TRIES` transactions that nobody got in the way of. Overtaken if none was."""
    for left in range(TRIES, 0, -1):
        try:
            with writing() as connection:
                return do(connection)
        except Overtaken:
            if left == 1:
                raise
    raise AssertionError("the last try returns or raises")
