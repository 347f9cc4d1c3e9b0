"""How much of the node each address and AE title may take, counted across its receive processes in shared memory.

`node` makes one `Limits` before it forks; each receive process joins it with its slot, and `receive.edge` asks before
it takes a connection or an association. Exact: a lock that the kernel drops with its holder guards every step. A
process that died is forgotten when its successor joins. Memory is fixed; a full bucket refuses like a reached limit.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import mmap
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from relaypacs.config.model import Receive

CONNECTIONS, CONNECTIONS_OF_ADDRESS = "connection-limit", "connection-limit-address"
ASSOCIATIONS, ASSOCIATIONS_OF_AE, RATE = "association-limit", "association-limit-ae", "association-rate"
SENTENCES = {
    CONNECTIONS: "too many connections are open: raise [receive] max_connections",
    CONNECTIONS_OF_ADDRESS: "too many connections from this address: raise [receive] max_connections_per_address",
    ASSOCIATIONS: "too many associations are open: raise [receive] max_associations",
    ASSOCIATIONS_OF_AE: "too many associations of this calling AE title: raise [receive] max_associations_per_ae",
    RATE: "this address asks for associations too fast: raise [receive] max_association_rate_per_address",
}
"""Why something was refused: the metric's word, and the sentence that names the mend."""

_UNBOUNDED = 1 << 30
"""Counted all the same, for `Share.associations_of`."""
_WAYS = 8
_BUCKETS = 4096
_ROWS = _WAYS * _BUCKETS
_OF_CALLER = 1 << 63
"""Set in the keys of calling AE titles' associations alone."""


class Limits:
    """The shared counters of one node."""

    def __init__(self, receive: Receive, processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Call it before the fork. `clock` is the same for all processes of a machine."""
        self.receive = receive
        self.clock = clock
        self._salt = secrets.token_bytes(16)  # so that nobody can choose addresses that share a bucket
        self._lock_fd = os.memfd_create("relaypacs-limits", os.MFD_CLOEXEC)
        self._thread_lock = threading.Lock()
        memory = memoryview(mmap.mmap(-1, _ROWS * (8 + 4 * processes + 16)))
        self._keys = memory[: 8 * _ROWS].cast("Q")
        counts = memory[8 * _ROWS : (8 + 4 * processes) * _ROWS]
        self._counts = [counts[4 * _ROWS * slot : 4 * _ROWS * (slot + 1)].cast("I") for slot in range(processes)]
        self._rate_keys = memory[(8 + 4 * processes) * _ROWS : (16 + 4 * processes) * _ROWS].cast("Q")
        self._rate_times = memory[(16 + 4 * processes) * _ROWS :].cast("d")

    def join(self, slot: int = 0) -> Share:
        """In the process of `slot`: its share, empty at first, whatever an earlier process of that slot held."""
        self._counts[slot][:] = memoryview(bytes(4 * _ROWS)).cast("I")
        return Share(self, slot)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else looks or changes, in any process."""
        with self._thread_lock:  # a record lock doesn't tell the threads of a process apart
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)

    def key(self, kind: str, name: str) -> int:
        """The key of something that is counted; never 0."""
        digest = hashlib.blake2b(f"{kind}\0{name}".encode(), digest_size=8, key=self._salt).digest()
        number = int.from_bytes(digest, "little") or 1
        return number | _OF_CALLER if kind == ASSOCIATIONS_OF_AE else number & ~_OF_CALLER or 1

    def callers_open(self) -> int:
        """How many calling AE titles have an association open, over all processes. Looked at without the lock."""
        return sum(key >= _OF_CALLER and self.total(row) > 0 for row, key in enumerate(self._keys))

    def total(self, row: int) -> int:
        """The count in a row over all processes."""
        return sum(counts[row] for counts in self._counts)

    def row(self, key: int) -> int:
        """The row of `key`, a free one if it has none, -1 if there is none. Call it locked."""
        first = key % _BUCKETS * _WAYS
        free = -1
        for row in range(first, first + _WAYS):
            if self.total(row) == 0:
                free = row if free < 0 else free
            elif self._keys[row] == key:
                return row
        return free

    def add(self, row: int, key: int, slot: int, change: int) -> None:
        """Change the count of `slot` in a row. Call it locked."""
        self._keys[row] = key
        self._counts[slot][row] += change

    def pace(self, key: int, per_second: float) -> bool:
        """Whether another event of `key` keeps to the rate, with a second's worth at once; it counts if so.

        The generic cell rate algorithm (ITU-T I.371): one time per key. A full bucket forgets its calmest key.
        """
        now = self.clock()
        first = key % _BUCKETS * _WAYS
        rows = range(first, first + _WAYS)
        row = next((row for row in rows if self._rate_keys[row] == key), -1)
        if row < 0:
            row = min(rows, key=self._rate_times.__getitem__)
            self._rate_keys[row], self._rate_times[row] = key, 0.0
        due = max(now, self._rate_times[row])
        if due - now > max(0.0, 1.0 - 1.0 / per_second) + 1e-9:
            return False
        self._rate_times[row] = due + 1.0 / per_second
        return True


class Share:
    """One receive process's part; thread-safe. What was taken is given back exactly once."""

    def __init__(self, limits: Limits, slot: int) -> None:
        self._limits, self._slot = limits, slot

    def renew(self, receive: Receive) -> None:
        """Count against these limits from now on; what none was for stays so (`config.change`)."""
        self._limits.receive = receive

    def connect(self, host: str) -> str | None:
        """Count a connection from this numeric address, or the word for why not."""
        return self._take(self._connection(host))

    def disconnect(self, host: str) -> None:
        """A connection has ended."""
        self._give(self._connection(host))

    def has_most(self) -> bool:
        """Whether this process has at least two connections more than another. Looked at without the lock: a guess."""
        limits = self._limits
        row = limits.row(limits.key(CONNECTIONS, ""))
        counts = [one[row] for one in limits._counts] if row >= 0 else [0]
        return row >= 0 and counts[self._slot] >= min(counts) + 2

    def associate(self, calling_ae: str) -> str | None:
        """Count an association of this calling AE title, or the word for why not."""
        return self._take(self._association(calling_ae))

    def ended(self, calling_ae: str) -> None:
        """An association has ended."""
        self._give(self._association(calling_ae))

    def associations_of(self, calling_ae: str) -> int:
        """How many associations of this calling AE title the node has now, over all its receive processes."""
        limits = self._limits
        key = limits.key(ASSOCIATIONS_OF_AE, calling_ae)
        with limits.locked():
            row = limits.row(key)
            return limits.total(row) if row >= 0 else 0

    def request(self, host: str) -> str | None:
        """Count an association request from this address, or the word for why it came too soon."""
        rate = self._limits.receive.max_association_rate_per_address
        if rate:
            with self._limits.locked():
                if not self._limits.pace(self._limits.key("address", network(host)), rate):
                    return RATE
        return None

    def _connection(self, host: str) -> Sequence[tuple[str, str, int]]:
        receive = self._limits.receive
        return (
            (CONNECTIONS, "", receive.max_connections),
            (CONNECTIONS_OF_ADDRESS, network(host), receive.max_connections_per_address),
        )

    def _association(self, calling_ae: str) -> Sequence[tuple[str, str, int]]:
        receive = self._limits.receive
        return (
            (ASSOCIATIONS, "", receive.max_associations),
            (ASSOCIATIONS_OF_AE, calling_ae, receive.max_associations_per_ae or _UNBOUNDED),
        )

    def _take(self, wanted: Sequence[tuple[str, str, int]]) -> str | None:
        limits = self._limits
        keys = [(limits.key(word, name), word, most) for word, name, most in wanted if most]
        with limits.locked():
            for number, (key, word, most) in enumerate(keys):
                row = limits.row(key)
                if row < 0 or limits.total(row) >= most:
                    for taken, _, _ in keys[:number]:
                        limits.add(limits.row(taken), taken, self._slot, -1)
                    return word
                limits.add(row, key, self._slot, 1)
        return None

    def _give(self, taken: Sequence[tuple[str, str, int]]) -> None:
        limits = self._limits
        keys = [limits.key(word, name) for word, name, most in taken if most]
        with limits.locked():
            for key in keys:
                limits.add(limits.row(key), key, self._slot, -1)


def network(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that whoever has one IPv6 address has all of."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else address.packed[:8].hex()
