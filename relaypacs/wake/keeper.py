"""A process's conversation with Redis: one thread, one connection, what is held renewed, every question bounded.

Made and started by `node` after the fork; `receive.shared`, `wake.windows` and `wake.remote` ask it. Callers never
touch the network: they wait for an answer for `[redis] timeout_seconds` at most, not at all while Redis is known to be
gone, and then get None: decide alone. Loss and return are a log line each; in between it is tried again with growing
pauses. What is held is registered anew on return. Nothing here raises.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable

import redis
from prometheus_client import Gauge

from relaypacs import log
from relaypacs.config.redis import Redis
from relaypacs.wake import link
from relaypacs.wake.script import SCRIPT, Op, drop, keep, pack, touch

UP = Gauge(
    "relaypacs_redis_up",
    "Whether Redis did what the process asked last; while 0 it keeps shared limits alone.",
    ["process"],
    multiprocess_mode="livemin",
)
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 15.0
_TELL_SECONDS = 0.05
"""How far apart things are said that nobody waits for."""
_MOST_OPS = 500
_MOST_TOLD = 1000
_CLOSE_SECONDS = 2.0


Hear = Callable[[int], None]


class _Ask:
    """A question and, once `done`, its answer (None: there is none)."""

    __slots__ = ("abandoned", "done", "member", "op", "said", "slots")

    def __init__(self, op: Op, slots: str, member: str) -> None:
        self.op, self.slots, self.member = op, slots, member
        self.done = threading.Event()
        self.said: int | None = None
        self.abandoned = False


class Keeper:
    """Thread-safe. `process` names it in the metric, `who` (unique per process) in Redis."""

    def __init__(self, settings: Redis, *, node: str, process: str) -> None:
        self.settings = settings
        self.who = f"{node}/{process}/{secrets.token_hex(4)}"
        self._process = process
        self._numbers = itertools.count(1)
        self._lease_ms = int(settings.lease_seconds * 1000)
        self._changed = threading.Condition()
        self._asks: deque[_Ask] = deque()
        self._told: dict[Hashable, tuple[Op, Hear]] = {}
        self._drops: dict[str, str] = {}
        self._held: dict[str, str] = {}
        self._crowds: dict[str, int] = {}
        self._unregistered = False
        self._up: bool | None = None
        self._late = False
        self._closing = False
        self._pause_seconds = 0.0
        self._renew_at = 0.0
        self._tell_at = float("inf")
        self._round_at = 0.0
        self._client: redis.Redis | None = None
        self._cluster = False
        self._sha = ""
        self._thread = threading.Thread(target=self._run, name="redis", daemon=True)

    def key(self, *parts: str) -> str:
        """A key of ours."""
        return link.key_of(self.settings, *parts)

    def member(self) -> str:
        """A new name for something to hold: who holds it, and a number."""
        return f"{self.who}/{next(self._numbers)}"

    def start(self) -> None:
        """Connect, in a thread of its own."""
        self._thread.start()

    def ask(self, op: Op, *, slots: str, member: str) -> int | None:
        """The answer to an operation that takes `member` in `slots`; None where there is none in time.

        What was taken (1) is held, and renewed, until `let_go`.
        """
        with self._changed:
            if self._closing or self._late or self._up is False:
                return None
            ask = _Ask(op, slots, member)
            self._asks.append(ask)
            self._changed.notify()
        if ask.done.wait(self.settings.timeout_seconds):
            return ask.said
        with self._changed:
            if not ask.done.is_set():
                ask.abandoned = True
                self._late = True  # the next one need not wait as long
        return ask.said

    @property
    def there(self) -> bool:
        """Whether Redis answered last; True until it was asked."""
        return self._up is not False

    def tell(
        self, name: Hashable, op: Op, hear: Hear = lambda said: None, *, gather_seconds: float = _TELL_SECONDS
    ) -> None:
        """Have something done soon, once for all that is told under the same name; forgotten while Redis is gone.

        `hear(answer)` is called from another thread. `gather_seconds`: how far apart such things may be.
        """
        with self._changed:
            if self._up is not False and len(self._told) < _MOST_TOLD:
                self._told[name] = op, hear
                self._soon(gather_seconds)

    def hold(self, slots: str, member: str) -> None:
        """Hold what was taken without Redis: it is registered as soon as Redis is there."""
        with self._changed:
            self._held[member] = slots
            self._drops.pop(member, None)
            self._unregistered = True
            self._changed.notify()

    def let_go(self, member: str) -> None:
        """Give back what is held."""
        with self._changed:
            slots = self._held.pop(member, None)
            if slots is not None and (len(self._drops) < _MOST_TOLD):
                self._drops[member] = slots
                self._soon(_TELL_SECONDS)

    def crowd(self, slots: str) -> int:
        """How many others stood in the queue for `slots` when it was last renewed."""
        return self._crowds.get(slots, 0)

    def close(self) -> None:
        """Give back everything if Redis is there, and end. Takes two seconds at most."""
        with self._changed:
            self._closing = True
            self._drops.update(self._held)
            self._held.clear()
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    # The thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_time():
                    self._changed.wait(max(0.0, self._next_at() - time.monotonic()))
                ops, told, asks = self._gather(time.monotonic())
                if self._closing and (not ops or self._up is False):
                    break
            if ops:
                self._converse(ops, told, asks)
        self._disconnect()

    def _next_at(self) -> float:
        if self._unregistered and self._up is not False:
            return 0.0
        return self._renew_at if self._up is False else min(self._renew_at, self._tell_at)

    def _soon(self, gather_seconds: float) -> None:
        """Have what is told and given back sent (lock held)."""
        self._tell_at = min(self._tell_at, self._round_at + gather_seconds)
        self._changed.notify()

    def _is_time(self) -> bool:
        return self._closing or bool(self._asks) or self._next_at() <= time.monotonic()

    def _gather(self, now: float) -> tuple[list[Op], list[tuple[Op, Hear]], list[_Ask]]:
        """What to say now (lock held): what is given back, what is held if that is due, then the questions."""
        ops = [drop(slots, member) for member, slots in itertools.islice(self._drops.items(), _MOST_OPS)]
        for op in ops:
            self._drops.pop(str(op.arguments[0]))
        self._tell_at = now if self._drops else float("inf")
        if self._renew_at <= now or self._unregistered:
            self._unregistered = False
            ops.append(touch(self.key("probe")))
            by_slots: dict[str, list[str]] = {}
            for member, slots in self._held.items():
                by_slots.setdefault(slots, []).append(member)
            ops += [keep(slots, f"{slots}:queue", members, self.who) for slots, members in by_slots.items()]
            self._crowds = {slots: self._crowds.get(slots, 0) for slots in by_slots}
            self._renew_at = now + self.settings.lease_seconds / 3
        told = list(self._told.values())
        self._told.clear()
        asks = [self._asks.popleft() for _ in range(min(len(self._asks), _MOST_OPS))]
        return ops + [op for op, _ in told] + [ask.op for ask in asks], told, asks

    def _converse(self, ops: list[Op], told: list[tuple[Op, Hear]], asks: list[_Ask]) -> None:
        said, problem = self._say(ops)
        if self._up and isinstance(problem, redis.ConnectionError | OSError):
            said, problem = self._say(ops)  # it was restarted, or had closed an idle connection
        with self._changed:
            if said is None:
                self._drops |= {str(op.arguments[0]): op.keys[0] for op in ops if op.name == "drop"}
                self._fail([*asks, *self._asks])
                self._asks.clear()
            else:
                self._answer(asks, said[len(ops) - len(asks) :])
                for op, answer in zip(ops, said, strict=False):
                    if op.name == "keep":
                        self._crowds[op.keys[0]] = answer
                self._round_at = time.monotonic()
        for (_, hear), one in zip(told, said[len(ops) - len(asks) - len(told) :] if said else (), strict=False):
            hear(one)
        self._told_so(problem)

    def _say(self, ops: list[Op]) -> tuple[list[int] | None, Exception | None]:
        """The answers, or what is wrong."""
        keys, arguments = pack(ops, self._lease_ms)
        try:
            return self._evaluate(keys, arguments), None
        except link.TROUBLES as error:
            self._disconnect()
            if self._cluster or not link.is_moved(error):
                return None, error
        self._cluster = True
        return self._say(ops)

    def _evaluate(self, keys: list[str], arguments: list[str]) -> list[int]:
        if self._client is None:
            self._client = link.connect(self.settings, cluster=self._cluster)
            self._sha = ""
        if not self._sha:
            self._sha = self._client.script_load(SCRIPT)
        try:
            said = self._client.evalsha(self._sha, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            said = self._client.eval(SCRIPT, len(keys), *keys, *arguments)
        return [int(one) for one in said]

    def _answer(self, asks: list[_Ask], said: list[int]) -> None:
        for ask, one in zip(asks, said, strict=True):
            ask.said = one
            if one == 1 and ask.abandoned and ask.member not in self._held:
                self._drops[ask.member] = ask.slots
                self._soon(0.0)
            elif one == 1:
                self._held[ask.member] = ask.slots
            ask.done.set()
        self._late = False

    def _fail(self, asks: list[_Ask]) -> None:
        self._pause_seconds = min(max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
        self._renew_at = time.monotonic() + self._pause_seconds * (0.8 + 0.4 * random.random())
        for ask in asks:
            ask.done.set()

    def _told_so(self, problem: Exception | None) -> None:
        """The metric, and one line for each change."""
        was, self._up = self._up, problem is None
        if problem is None:
            self._pause_seconds = 0.0
            if was is False:
                log.event(log.INFO, "redis-back", "Redis does what is asked: limits are shared again.")
        elif was is not False:
            said = (
                f"Redis is no help, {link.sentence(problem)}. Until it is back, shared limits are kept by each alone."
            )
            log.event(log.WARNING, "redis-lost", said)
        UP.labels(self._process).set(self._up)

    def _disconnect(self) -> None:
        if self._client is not None:
            with contextlib.suppress(*link.TROUBLES):
                self._client.close()
            self._client = None
