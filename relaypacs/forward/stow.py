"""STOW-RS (PS3.18 10.5): many instances per request, streamed from mapped files, settled by what the answer names.

The body decides, not the status: an instance is delivered only if the Referenced SOP Sequence names it. A request that
is refused whole is split until the culprit stands alone, so a poison instance stops nobody. Two guards more: the same
SOP Instance UID never twice in a request, and what was tried before travels in a request of its own.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from relaypacs.config.model import Destination
from relaypacs.config.secrets import Credentials
from relaypacs.errors import ConfigError
from relaypacs.failpoint import reach
from relaypacs.forward.checksum import Corrupt, checked, intact
from relaypacs.forward.http import Answer, ConnectFailed, ExchangeFailed, HttpPeer
from relaypacs.forward.memory import Memory
from relaypacs.forward.names import spoken
from relaypacs.forward.sender import Payload, Proceed, Read, Report, Trouble, Unreadable
from relaypacs.forward.stow_answer import Listing, clean_uid, limit_bytes, read_listing
from relaypacs.forward.tls import web_tls
from relaypacs.model import Claim, Deferred, Delivered, Outcome, Scope
from relaypacs.policy.outcome import (
    CORRUPT,
    STORED_UNDER_ANOTHER_UID,
    http_refusal,
    http_trouble,
    refused_kind,
    stow_outcome,
)

_PIECE_BYTES = 1 << 20
TRACE_HEADER = "X-Trace-Id"
"""The trace ids of our log lines (the associations the objects came in), so that the peer's log can be matched."""
_MOST_TRACES = 8
_REFUSED_IN_A_ROW = 3
"""So many requests of one instance refused without a listing: it is the destination, not the instances."""


class StowSender:
    """A `forward.sender.Sender` over STOW-RS."""

    def __init__(
        self,
        destination: Destination,
        credentials: Callable[[], Credentials],
        renew: Callable[[str], bool] | None = None,
        memory: Memory | None = None,
    ) -> None:
        """`credentials` and `renew` as in `HttpPeer`: those of an `Authorization`; `memory` is the destination's."""
        self._memory = memory or Memory()
        self._peer = HttpPeer(
            destination.url,
            credentials,
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=web_tls(destination),
            renew=renew,
        )
        self._credentials_env = destination.credentials_env
        self._max_request_bytes = destination.max_request_bytes
        self._speaks_dicomweb = False
        self._refused_in_a_row = 0

    def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
        """See `Sender`. A request is one step: all of its instances are tried together."""
        requests = deque(group_requests(batch, self._max_request_bytes))
        while requests and proceed(requests[0], self._peer.close):
            with ExitStack() as stack:
                group = _open(requests.popleft(), read, report, stack)
                if not group:
                    continue
                started = time.time()
                try:
                    answer = self._post(group)
                except (ConnectFailed, ConfigError) as problem:
                    return Trouble(str(problem), opening=True)
                except Corrupt:
                    # The request ended short, so nothing of it is stored. Opened anew, the culprit is left out.
                    self._peer.close()
                    requests.appendleft([claim for claim, _ in group])
                    continue
                except ExchangeFailed as problem:
                    for claim, _ in group:
                        report(claim, Deferred(str(problem), Scope.SITE), started, time.time())
                    return Trouble(str(problem))
                reach("stow.answered")

            def told(claim: Claim, outcome: Outcome, started: float = started) -> None:
                report(claim, outcome, started, time.time())

            trouble, again = self._settle([claim for claim, _ in group], answer, told)
            if trouble is not None:
                return trouble
            requests.extendleft(reversed(again))
        return None

    def prepare(self) -> Trouble | None:
        """Nothing to do: a connection more is no matter."""
        return None

    @property
    def is_open(self) -> bool:
        """No: HTTP has no associations to run out of."""
        return False

    def rest(self) -> None:
        """Close the connection."""
        self._peer.close()

    def close(self) -> None:
        """Close the connection."""
        self._peer.close()

    def _post(self, group: Sequence[tuple[Claim, Payload]]) -> Answer:
        boundary = secrets.token_hex(16)
        head = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        length = sum(len(head) + len(payload.file) for _, payload in group) + len(tail)

        def body() -> Iterator[bytes | memoryview]:
            for _, payload in group:
                yield head
                yield payload.file[: len(payload.file) - len(payload.dataset)]
                pieces = (
                    (payload.dataset[start : start + _PIECE_BYTES],)
                    for start in range(0, len(payload.dataset), _PIECE_BYTES)
                )
                # Again, for this may be long after it was opened, or a second time: the bytes of a worker that slept
                # past its lease may be another object's by now.
                for (piece,) in checked(pieces, payload.dataset, payload.crc32c):
                    yield piece
                    reach("stow.mid-body")
            yield tail
            reach("stow.sent")

        return self._peer.request(
            "POST",
            "/studies",
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Content-Length": str(length),
                "Accept": "application/dicom+json",
                TRACE_HEADER: ", ".join(list(dict.fromkeys(one.association_id for one, _ in group))[:_MOST_TRACES]),
            },
            body=body,
            limit_bytes=limit_bytes(len(group)),
        )

    def _settle(
        self, group: Sequence[Claim], answer: Answer, report: Callable[[Claim, Outcome], None]
    ) -> tuple[Trouble | None, list[list[Claim]]]:
        """Report what the answer decides; returns the destination's trouble, or the requests to make instead."""
        module = read_listing(answer.body) if answer.body else None
        listing = module or Listing()
        if module is not None:
            self._speaks_dicomweb, self._refused_in_a_row = True, 0
        unlisted = []
        for claim in group:
            outcome = listed_outcome(clean_uid(claim.sop_instance_uid), listing)
            if outcome is None:
                unlisted.append(claim)
                continue
            pair = claim.sop_class_uid, claim.transfer_syntax_uid
            if isinstance(outcome, Delivered):
                self._memory.stored(pair)
            elif outcome.status is not None and refused_kind(outcome.status):
                self._memory.refused_by_status(pair)
            report(claim, outcome)
        if not unlisted:
            return None, []
        strangers = listing.stored.keys() - {clean_uid(claim.sop_instance_uid) for claim in group}
        trouble = http_trouble(answer.status, credentials_env=self._credentials_env)
        if trouble is not None and not (200 <= answer.status < 300 and (strangers or listing.other_failures)):
            for claim in unlisted:
                report(claim, trouble)
            return Trouble(trouble.reason, answer.retry_after_seconds), []
        if answer.status == 413:
            self._max_request_bytes = max(sum(one.location.file_length for one in group) // 2, 1)
        if len(unlisted) > 1:
            middle = len(unlisted) // 2
            return None, [unlisted[:middle], unlisted[middle:]]
        claim = unlisted[0]
        if strangers:
            report(claim, STORED_UNDER_ANOTHER_UID)
        elif 200 <= answer.status < 300:
            report(claim, stow_outcome(None))
        else:
            return self._refused(claim, answer.status, report, named=module is not None), []
        return None, []

    def _refused(
        self, claim: Claim, status: int, report: Callable[[Claim, Outcome], None], *, named: bool
    ) -> Trouble | None:
        """The one instance of a request refused with a 4xx `status`; `named`: by an answer in DICOM JSON."""
        refusal = http_refusal(status, spoken(claim.transfer_syntax_uid))
        self._refused_in_a_row += 0 if named else 1
        if self._refused_in_a_row >= _REFUSED_IN_A_ROW:
            reason = f"destination refuses every request (HTTP {status}) and names no instance: check `url`"
            report(claim, Deferred(reason, Scope.SITE, status))
            return Trouble(reason)
        if status == 415 and self._speaks_dicomweb:
            self._memory.refused_by_status((claim.sop_class_uid, claim.transfer_syntax_uid))
        # Until it has answered in DICOM JSON it may be no DICOMweb service at all: nothing is given up for that.
        report(claim, refusal if self._speaks_dicomweb else Deferred(refusal.reason, Scope.INSTANCE, status))
        return None


def group_requests(batch: Sequence[Claim], max_request_bytes: int) -> list[list[Claim]]:
    """Share a batch out to requests, in order: each at most `max_request_bytes` of files (one instance always fits),
    no SOP Instance UID twice, and an instance that was tried before alone."""
    requests: list[list[Claim]] = []
    current: list[Claim] = []
    uids: set[str] = set()
    size = 0
    for claim in batch:
        uid, length = clean_uid(claim.sop_instance_uid), claim.location.file_length
        if claim.attempts:
            requests.append([claim])
            continue
        if current and (size + length > max_request_bytes or uid in uids):
            requests.append(current)
            current, uids, size = [], set(), 0
        current.append(claim)
        uids.add(uid)
        size += length
    return [*requests, current] if current else requests


def listed_outcome(uid: str, listing: Listing) -> Outcome | None:
    """What a listing says of a UID (PS3.18 10.5.3), or None if it doesn't name it."""
    if uid in listing.stored:
        return Delivered(listing.stored[uid], warning=listing.stored[uid] != 0)
    if uid in listing.failed:
        return stow_outcome(listing.failed[uid])
    return None


def _open(claims: Sequence[Claim], read: Read, report: Report, stack: ExitStack) -> list[tuple[Claim, Payload]]:
    """Open the payloads of a request, leaving out what can't be read or is not what was received."""
    group = []
    for claim in claims:
        try:
            payload = stack.enter_context(read(claim))
        except Unreadable:
            continue
        if intact(payload.dataset, payload.crc32c):
            group.append((claim, payload))
        else:
            now = time.time()
            report(claim, CORRUPT, now, now)
    return group
