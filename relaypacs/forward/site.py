"""One destination as its workers see it: up, or in trouble and paused.

In trouble the pause doubles from 1 s to 60 s (with jitter), and after it one worker at a time probes with a single
claim; the first answer of any kind opens the destination again. A destination never touches another's workers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from relaypacs import log
from relaypacs.forward.sender import Trouble

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
_LONGEST_ASKED_SECONDS = 3600.0
_JITTER = 0.2


class Site:
    """The shared state of a destination's workers. `on_change(up)` hears each change, and the first state."""

    def __init__(self, name: str, on_change: Callable[[bool], None]) -> None:
        self._name = name
        self._on_change = on_change
        self._changed = threading.Condition()
        self._up: bool | None = None
        self._probing = False
        self._stopped = False
        self._pause_seconds = 0.0
        self._resume_at = 0.0

    def take_turn(self) -> bool | None:
        """Wait until this worker may claim. True: as a probe, with one claim. None: the site has been stopped.

        Every turn ends with `end_turn`.
        """
        with self._changed:
            while not self._stopped:
                if self._up is not False:
                    return False
                wait = self._resume_at - time.monotonic()
                if not self._probing and wait <= 0:
                    self._probing = True
                    return True
                self._changed.wait(None if self._probing else wait)
            return None

    def end_turn(self, *, probe: bool, trouble: Trouble | None, answered: bool) -> None:
        """How the turn went: the destination's `trouble`, whether it `answered` for any instance, or neither."""
        with self._changed:
            if probe:
                self._probing = False
            was = self._up
            if trouble is not None:
                # What other workers find while it is paused already is the same trouble, not more of it.
                if probe or was is not False:
                    self._pause(trouble)
                self._up = False
            elif answered and (probe or was is not False):
                self._up, self._pause_seconds = True, 0.0
            now_up, changed = self._up, self._up != was
            self._changed.notify_all()
        if changed and now_up is not None:
            self._on_change(now_up)
            self._say(trouble)

    def stop(self) -> None:
        """Let every waiting worker go."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _pause(self, trouble: Trouble) -> None:
        self._pause_seconds = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        asked = min(trouble.retry_after_seconds, _LONGEST_ASKED_SECONDS)
        spread = 1 + _JITTER * random.random()
        self._resume_at = time.monotonic() + max(self._pause_seconds * spread, asked)

    def _say(self, trouble: Trouble | None) -> None:
        if trouble is not None:
            log.event(log.WARNING, "destination-down", trouble.reason, destination=self._name)
        else:
            log.event(log.INFO, "destination-up", "The destination answers.", destination=self._name)
