"""Asking something that may hang (a disk, a database) without ever hanging with it.

Each question runs in a thread of its own, at most one at a time; whoever asks meanwhile waits for the same answer, to
a deadline. An idle sidecar has no such thread. A question that never returns costs one thread, and is not asked again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class NoAnswer(Exception):
    """The question was not answered within its deadline."""


class Probe(Generic[T]):
    """One question. `ask` is called in a thread; what it returns or raises is the answer.

    `deadline_seconds`: how long after asking an answer is still waited for. `fresh_seconds`: how long an answer is
    given again without asking.
    """

    def __init__(self, ask: Callable[[], T], *, deadline_seconds: float, fresh_seconds: float) -> None:
        self._ask = ask
        self._deadline_seconds = deadline_seconds
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._asked: Future[T] | None = None
        self._asked_at = 0.0
        self._answered_at = 0.0

    def start(self) -> None:
        """Ask now, unless the question is under way or its answer is fresh, so that several are asked in parallel."""
        with self._lock:
            now = time.monotonic()
            if self._asked and (not self._asked.done() or now - self._answered_at < self._fresh_seconds):
                return
            self._asked, self._asked_at = Future(), now
            threading.Thread(target=self._run, args=(self._asked,), name="probe", daemon=True).start()

    def answer(self) -> T:
        """The answer, asked for if need be. NoAnswer after the deadline; else whatever `ask` raises."""
        self.start()
        asked = self._asked
        assert asked is not None
        try:
            return asked.result(max(0.0, self._asked_at + self._deadline_seconds - time.monotonic()))
        except TimeoutError:
            if asked.done():  # the question itself ended in a TimeoutError
                raise
            waited = time.monotonic() - self._asked_at
            raise NoAnswer(f"no answer for {waited:.0f} s") from None

    def _run(self, asked: Future[T]) -> None:
        try:
            result = self._ask()
        except BaseException as error:
            self._answered_at = time.monotonic()
            asked.set_exception(error)
        else:
            self._answered_at = time.monotonic()
            asked.set_result(result)
