"""Wake-ups across nodes: `LocalWake`, and Redis' publish and subscribe between the nodes' relay processes.

Workers of this node are woken at once, those of others within a quarter of a second while Redis is there. What is
published while a subscription is broken is lost; so whoever is subscribed again wakes everybody once. One thread
listens; nobody waits for it.
"""

from __future__ import annotations

import contextlib
import random
import threading

from redis.client import PubSub

from relaypacs.wake import link
from relaypacs.wake.keeper import Keeper
from relaypacs.wake.local import LocalWake
from relaypacs.wake.script import ring

_GATHER_SECONDS = 0.25
"""How far apart others are woken: each time all their idle workers ask the job table."""
_SILENCE_SECONDS = 15.0
"""After this long without a message the connection is tried."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 15.0


class RedisWake:
    """A `wake.protocol.Wake` over all nodes that share `[redis] url` and `key_prefix`. Listens from `start` on."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._channel = keeper.key("wake")
        self._local = LocalWake()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="wake", daemon=True)
        self.subscribed = threading.Event()
        """Set while others are heard."""

    def start(self) -> None:
        """Listen to others, in a thread of its own."""
        self._thread.start()

    def notify(self, destination: str) -> None:
        """See `Wake`."""
        self._local.notify(destination)
        if not self._closing.is_set():
            op = ring(self._channel, f"{self._keeper.who} {destination}")
            self._keeper.tell(("wake", destination), op, gather_seconds=_GATHER_SECONDS)

    def wait(self, destination: str, timeout_seconds: float) -> bool:
        """See `Wake`."""
        return self._local.wait(destination, timeout_seconds)

    def close(self) -> None:
        """See `Wake`. The thread ends with its next message or the process."""
        self._closing.set()

    def _listen(self) -> None:
        pause, cluster = _FIRST_PAUSE_SECONDS, False
        while not self._closing.is_set():
            try:
                client = link.connect(self._keeper.settings, cluster=cluster)
                with contextlib.closing(client), client.pubsub() as subscriber:  # type: ignore[no-untyped-call]
                    subscriber.subscribe(self._channel)
                    self._hear(subscriber)
            except link.TROUBLES as error:
                cluster = cluster or link.is_moved(error)
            if self.subscribed.is_set():
                pause = _FIRST_PAUSE_SECONDS
                self.subscribed.clear()
            self._closing.wait(pause * (0.8 + 0.4 * random.random()))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _hear(self, subscriber: PubSub) -> None:
        """Wake whom the messages name, until the connection breaks (may raise `TROUBLES`) or is silent when asked."""
        asked = False
        while not self._closing.is_set():
            message = subscriber.get_message(timeout=link.ANSWER_TIMEOUT_SECONDS if asked else _SILENCE_SECONDS)
            if message is None:
                if asked:
                    return
                subscriber.ping()
                asked = True
                continue
            asked = False
            if message["type"] == "subscribe":
                self.subscribed.set()
                self._ring("")
            elif message["type"] == "message":
                who, _, destination = str(message["data"]).partition(" ")
                if who != self._keeper.who:
                    self._ring(destination)

    def _ring(self, destination: str) -> None:
        """Wake the workers of a destination, of every one for ""; who isn't known here has nobody to wake."""
        for known in self._local.destinations():
            if destination in ("", known):
                self._local.notify(known)
