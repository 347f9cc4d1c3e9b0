"""Waiting for a job table that is down: what intake asks it is asked again until there is an answer.

Called by `reading`. While it waits nothing is read, so the spool holds what arrives. Says once that it waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from relaypacs import log
from relaypacs.errors import JobsError, RowsLost

RETRY_SECONDS = 1.0
"""Wait after the job table refused a transaction."""
_T = TypeVar("_T")


def until_answered(stopped: threading.Event, ask: Callable[[], _T]) -> _T | None:
    """`ask` the job table, again and again while it is down; None only after `stopped`. RowsLost at once: waiting does
    not bring rows back."""
    told = False
    while not stopped.is_set():
        try:
            answer = ask()
        except RowsLost:
            raise
        except JobsError as problem:
            if not told:
                log.event(log.CRITICAL, "job-table-down", f"Intake waits for the job table: {problem}")
            told = True
            stopped.wait(RETRY_SECONDS)
        else:
            if told:
                log.event(log.INFO, "job-table-up", "The job table answers again; intake goes on.")
            return answer
    return None
