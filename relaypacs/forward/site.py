"""One destination as its workers see it: up, or in trouble and paused; and how many of them may work at once.

In trouble the pause doubles from 1 s to 60 s (with jitter). After it one worker probes without an instance (C-ECHO, a
small search); once that is answered one instance is tried, and if that is answered too the destination is up, with one
worker. The window grows by one a second while work waits. A peer that takes no further association while others are
open is not in trouble: its window is what it takes. Workers are numbered; those below the window may work.
"""

from __future__ import annotations

import enum
import random
import threading
import time
from collections.abc import Callable

from relaypacs import log
from relaypacs.forward.sender import Trouble

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_LONGEST_ASKED_SECONDS = 3600.0
_JITTER = 0.2
_GROW_SECONDS = 1.0
"""Work waits so long before another association is asked for: a short study needs none."""
_FIRST_GROW_PAUSE_SECONDS, _LONGEST_GROW_PAUSE_SECONDS = 60.0, 3600.0
_LOOK_AGAIN_SECONDS = 30.0
"""A closed hour is looked at again so often, since clocks are changed."""
_MOST_STUDIES = 100
CLOSED, HALF_OPEN, OPEN = 0, 1, 2
"""The circuit breaker: all is well; it answers and one instance is tried; paused after trouble."""


class Turn(enum.Enum):
    """What a worker may do now."""

    WORK = "work"
    WIDEN = "widen"
    """Ask the destination for one more association, without a claim; then `end_widen`."""
    PROBE = "probe"
    """Ask whether it answers at all, without a claim; then `end_probe`."""
    TRIAL = "trial"
    """Claim one instance."""


class Site:
    """The shared state of a destination's workers. `on_change(up)` hears each change, and the first state."""

    def __init__(
        self,
        name: str,
        on_change: Callable[[bool], None],
        *,
        most: int = 1,
        closed_for: Callable[[float], float] = lambda _now: 0.0,
        on_window: Callable[[int], None] = lambda _window: None,
        on_breaker: Callable[[int], None] = lambda _breaker: None,
    ) -> None:
        """`most`: workers there are. `closed_for(now)`: seconds until its hours begin, 0 within them.
        `on_breaker` hears CLOSED, HALF_OPEN or OPEN."""
        self._name = name
        self._on_change = on_change
        self._on_window = on_window
        self._on_breaker = on_breaker
        self._most = most
        self._closed_for = closed_for
        self._changed = threading.Condition()
        self._up: bool | None = None
        self._asking = False
        self._answers = False
        self._stopped = False
        self._pause_seconds = 0.0
        self._resume_at = 0.0
        self._window = 1
        self._wanted = False
        self._grow_at: float | None = None
        self._grow_pause_seconds = 0.0
        self._working: set[int] = set()
        self._open: set[int] = set()
        self._suspects: dict[str, None] = {}
        self._poison: dict[str, None] = {}

    @property
    def suspects(self) -> tuple[str, ...]:
        """Studies of which instance after instance drew Out of Resources: a trial takes one of another study."""
        with self._changed:
            return tuple(self._suspects)

    def is_poison(self, study: str) -> bool:
        """Whether a study draws Out of Resources where others are taken: that is its own trouble, not the site's."""
        return study in self._poison

    def alone(self, number: int) -> bool:
        """Whether no other worker works or holds an association open."""
        with self._changed:
            return not (self._working | self._open) - {number}

    @property
    def is_down(self) -> bool:
        """Whether it was in trouble when it was last tried; also while an instance is tried after that."""
        return self._up is False

    @property
    def is_up(self) -> bool:
        """Whether it answered when it was last tried; neither is true before the first time."""
        return self._up is True

    def within_hours(self) -> bool:
        """Whether the destination may be sent to now."""
        return self._closed_for(time.time()) <= 0

    def take_turn(self, number: int = 0, before_waiting: Callable[[], object] | None = None) -> Turn | None:
        """Wait until worker `number` may do something, and say what. None: the site has been stopped.

        `before_waiting` is called once, before the first wait: what it holds open at the destination is released.
        Every turn ends with `end_turn`, `end_widen` or `end_probe`.
        """
        while True:
            with self._changed:
                while not self._stopped:
                    turn, wait = self._decide(number)
                    if turn is not None:
                        self._working.add(number)
                        self._asking |= turn is not Turn.WORK
                        return turn
                    if before_waiting is not None:
                        break
                    self._changed.wait(wait)
                else:
                    return None
            before_waiting()
            before_waiting = None

    def _decide(self, number: int) -> tuple[Turn | None, float | None]:
        """What the worker may do, or None and how long it waits at most (None: until something changes)."""
        closed = self._closed_for(time.time())
        if closed > 0:
            return None, min(closed, _LOOK_AGAIN_SECONDS)
        now = time.monotonic()
        if self._up is False:
            if self._asking:
                return None, None
            if self._answers:
                return Turn.TRIAL, None
            left = self._resume_at - now
            return (Turn.PROBE, None) if left <= 0 else (None, left)
        if number < self._window:
            return Turn.WORK, None
        if number > self._window or not self._wanted or self._asking or self._grow_at is None:
            return None, None
        left = self._grow_at - now
        return (Turn.WIDEN, None) if left <= 0 else (None, left)

    def end_turn(
        self,
        number: int = 0,
        *,
        trial: bool = False,
        trouble: Trouble | None,
        answered: bool,
        full: bool = False,
        nothing: bool = False,
        still_open: bool = False,
    ) -> None:
        """How work or a trial went: the destination's `trouble`, whether it `answered` for any instance, or neither.

        `full`: as much was claimed as might be, so more waits; `nothing`: there was nothing to do; `still_open`: the
        worker keeps an association.
        """
        with self._changed:
            self._left(number, still_open=still_open)
            if trial:
                self._asking = False
            was, now = self._up, time.monotonic()
            self._wanted = full
            if trouble is not None and trouble.opening and not trial and (self._working | self._open):
                self._narrow(len(self._working | self._open), now)
            elif trouble is not None:
                # What other workers find while it is paused already is the same trouble, not more of it.
                if trial or was is not False:
                    self._pause(trouble, now)
                self._up = False
                self._suspect(trouble.study)
            elif trial and nothing and self._answers:
                self._rise(now)
            elif answered and (trial or was is not False):
                if trial and self._suspects:
                    self._poison |= self._suspects
                    self._suspects = {}
                    for study in list(self._poison)[:-_MOST_STUDIES]:
                        del self._poison[study]
                self._rise(now)
            self._tell(was, trouble)

    def end_probe(self, number: int, trouble: Trouble | None) -> None:
        """Whether the destination answers: if so, an instance is tried next."""
        with self._changed:
            self._left(number, still_open=False)
            self._asking = False
            if trouble is None:
                self._answers = True
                self._on_breaker(HALF_OPEN)
            else:
                self._pause(trouble, time.monotonic())
            self._changed.notify_all()

    def end_widen(self, number: int, trouble: Trouble | None) -> None:
        """Whether the destination took one more association."""
        with self._changed:
            self._left(number, still_open=trouble is None)
            self._asking = False
            now = time.monotonic()
            if trouble is not None:
                self._narrow(self._window, now)
            elif self._up and number == self._window:
                self._resize(self._window + 1)
                self._grow_at = now + _GROW_SECONDS
            self._changed.notify_all()

    def accepted(self, study: str) -> None:
        """An instance of a study was taken: the study is nobody's suspect."""
        if study in self._poison or study in self._suspects:
            with self._changed:
                self._poison.pop(study, None)
                self._suspects.pop(study, None)

    def rested(self, number: int) -> None:
        """Worker `number` released what it held open."""
        with self._changed:
            self._open.discard(number)

    def stop(self) -> None:
        """Let every waiting worker go."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _left(self, number: int, *, still_open: bool) -> None:
        self._working.discard(number)
        if still_open:
            self._open.add(number)
        else:
            self._open.discard(number)

    def _rise(self, now: float) -> None:
        if self._grow_at is None:
            self._grow_at = now + _GROW_SECONDS
        self._up, self._answers, self._pause_seconds = True, False, 0.0
        self._on_breaker(CLOSED)

    def _narrow(self, window: int, now: float) -> None:
        """The destination takes no more than `window` at once; longer and longer until it is asked again."""
        pause = max(2 * self._grow_pause_seconds, _FIRST_GROW_PAUSE_SECONDS)
        if not self._grow_pause_seconds:
            sentence = f"The destination takes {window} association(s) at once, fewer than `associations`: so be it."
            log.event(log.INFO, "destination-window", sentence, destination=self._name)
        self._grow_pause_seconds = min(pause, _LONGEST_GROW_PAUSE_SECONDS)
        self._grow_at = now + self._grow_pause_seconds * (1 + _JITTER * random.random())
        self._resize(max(1, min(window, self._window)))

    def _resize(self, window: int) -> None:
        window = min(window, self._most)
        if window != self._window:
            self._window = window
            self._on_window(window)

    def _pause(self, trouble: Trouble, now: float) -> None:
        self._pause_seconds = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        asked = min(trouble.retry_after_seconds, _LONGEST_ASKED_SECONDS)
        spread = 1 + _JITTER * random.random()
        self._resume_at = now + max(self._pause_seconds * spread, asked)
        self._answers, self._grow_at = False, None
        self._on_breaker(OPEN)
        self._resize(1)

    def _suspect(self, study: str) -> None:
        if study and len(self._suspects) < _MOST_STUDIES:
            self._suspects[study] = None

    def _tell(self, was: bool | None, trouble: Trouble | None) -> None:
        """Notify who waits, and say a change."""
        self._changed.notify_all()
        if self._up == was or self._up is None:
            return
        self._on_change(self._up)
        if self._up:
            log.event(log.INFO, "destination-up", "The destination answers.", destination=self._name)
        elif trouble is not None:
            log.event(log.ERROR, "destination-down", trouble.reason, destination=self._name)
