"""What a dicomweb destination lists of a study: QIDO-RS for the instances of its series (PS3.18 10.6).

Used by `verify` and `examine`. Pages are asked for until one brings nothing new, since a destination may give fewer
than are asked for. Answers are bounded in size, number and time. Never raises for anything a network or a peer does;
what could not be asked is a sentence.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from relaypacs.config.model import Destination
from relaypacs.errors import ConfigError
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.http import Answer, ConnectFailed, ExchangeFailed, HttpPeer
from relaypacs.forward.listed import LONGEST_SECONDS, MOST_LISTED, Listed, Wanted
from relaypacs.forward.stow_answer import read_results
from relaypacs.forward.tls import web_tls
from relaypacs.policy.outcome import search_trouble

_PAGE = 200
"""Instances asked for at once: the most that Azure gives."""
_LONGEST_ANSWER_BYTES = 16 << 20
_TOO_MUCH = "destination answers searches without end: see its log"


class _Unknown(Exception):
    """What is there can't be known; the message says why."""


def search(
    destination: Destination, authorization: Authorization, study: str, wanted: Wanted, by_name: bool = False
) -> Listed:
    """Ask for what is `wanted` of a study; `by_name`: with a question for each instance."""
    peer = HttpPeer(
        destination.url,
        authorization.shown,
        connect_timeout_seconds=destination.connect_timeout_seconds,
        response_timeout_seconds=destination.response_timeout_seconds,
        tls=web_tls(destination),
        renew=authorization.renew,
    )
    asked = _Search(peer, destination.credentials_env, study)
    try:
        for series, instances in wanted.items():
            for one in instances if by_name else ():
                asked.page(series, f"?SOPInstanceUID={one}&limit=1")
            if not by_name:
                asked.series(series, instances)
    except (_Unknown, ConnectFailed, ExchangeFailed, ConfigError) as problem:
        return Listed(trouble=str(problem))
    finally:
        peer.close()
    return Listed(frozenset(asked.found))


class _Search:
    """The questions about one study."""

    def __init__(self, peer: HttpPeer, credentials_env: str, study: str) -> None:
        self.found: set[str] = set()
        self._peer, self._credentials_env, self._study = peer, credentials_env, study
        self._until = time.monotonic() + LONGEST_SECONDS

    def series(self, series: str, wanted: Collection[str]) -> None:
        """Page by page, until all that is wanted was named or a page brings nothing new."""
        offset = 0
        while not self.found.issuperset(wanted):
            before = len(self.found)
            where = f"?limit={_PAGE}" + (f"&offset={offset}" if offset else "")
            count = self.page(series, where)
            if len(self.found) == before:
                break
            offset += count

    def page(self, series: str, query: str) -> int:
        """One search; how many results it had."""
        if len(self.found) > MOST_LISTED or time.monotonic() > self._until:
            raise _Unknown(_TOO_MUCH)
        answer = self._get(f"/studies/{self._study}/series/{series}/instances{query}")
        if answer.status == 204 or (answer.status == 404 and self._searches()):
            return 0
        named = read_results(answer.body) if answer.status == 200 and answer.body is not None else None
        if named is None:
            raise _Unknown(search_trouble(answer.status, credentials_env=self._credentials_env))
        self.found.update(named)
        return len(named)

    def _searches(self) -> bool:
        """Whether the destination answers searches at all: some answer 404 for a study that they don't have."""
        answer = self._get(f"/studies?StudyInstanceUID={self._study}&limit=1")
        return answer.status == 204 or (answer.status == 200 and (answer.body or b"").lstrip()[:1] == b"[")

    def _get(self, path: str) -> Answer:
        return self._peer.request(
            "GET", path, headers={"Accept": "application/dicom+json"}, limit_bytes=_LONGEST_ANSWER_BYTES
        )
