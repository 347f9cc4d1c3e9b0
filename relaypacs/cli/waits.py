"""What queued and deferred deliveries wait for, in words: hours, a pause after trouble, their turn, a time, a person.

`queue` and `trace` show it. Hours come from the configuration and times from the job table; whether a destination is
paused only the running node knows, so its sidecar is asked (`/metrics`). Without an answer that much is not said.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from relaypacs import alive
from relaypacs.cli import say
from relaypacs.config import Config, Destination
from relaypacs.dicom.uid import is_uid
from relaypacs.jobs.values import QueueRow
from relaypacs.model import State
from relaypacs.policy.hours import closed_for, parse_hours

_ASK_SECONDS = 3.0
_LONGEST_ANSWER_BYTES = 16 << 20
_BREAKER, _DRAIN = "relaypacs_destination_breaker", "relaypacs_queue_drain_seconds"
_HALF_OPEN, _OPEN = 1.0, 2.0
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the running node: whether it relays (None: not to be seen from here), and by destination its
    circuit breaker and the seconds that its queue is estimated to take."""

    relaying: bool | None = None
    breakers: Mapping[str, float] = field(default_factory=dict)
    drain_seconds: Mapping[str, float] = field(default_factory=dict)


def look(config: Config) -> Known:
    """Ask the node that runs here."""
    place = config.run_dir / "alive" / "relay"
    relaying = None
    with suppress(OSError):
        relaying = alive.is_held(place) if config.run_dir.is_dir() else None
    samples = _samples(config) if relaying is not False else {}
    return Known(relaying, samples.get(_BREAKER, {}), samples.get(_DRAIN, {}))


def holding(name: str, destination: Destination | None, known: Known, now: float) -> str:
    """What keeps all of a destination's deliveries from going now, or nothing. `now`: seconds since the epoch."""
    if destination is None:
        return (
            "its [[destination]], which is not configured any more: add it again, send elsewhere with `relaypacs "
            f"resend`, or `relaypacs discard --to {name}`"
        )
    if known.relaying is False:
        return "the node: its relay process is not running"
    if destination.send_between:
        at = time.localtime(now)
        left = closed_for(parse_hours(destination.send_between), at.tm_hour * 3600 + at.tm_min * 60 + at.tm_sec)
        if left > 0:
            return f"its hours ({destination.send_between}), which begin in {say.age(left)}"
    breaker = known.breakers.get(name)
    if breaker == _OPEN:
        return (
            f"{name} to answer: it is paused after trouble, and asked again at least once a minute (`relaypacs "
            f"destination test {name}` says what is wrong)"
        )
    if breaker == _HALF_OPEN:
        return f"one instance that is tried first: {name} answers again after trouble"
    return ""


def of_row(row: QueueRow, destination: Destination | None, known: Known, now: float) -> dict[State, str]:
    """What the deliveries of each state wait for, as the rest of `… wait for …`."""
    found = {}
    name = row.destination
    held_up = holding(name, destination, known, now)
    if row.counts.get(State.QUEUED):
        sending = row.counts.get(State.ACTIVE, 0)
        left = known.drain_seconds.get(name, 0.0)
        pace = f", all done in about {say.age(left)} at the present pace" if left >= 1 else ""
        found[State.QUEUED] = held_up or f"their turn: {say.counted(sending, 'other')} under way{pace}"
    if row.counts.get(State.DEFERRED):
        left = 0.0 if row.next_attempt_at is None else row.next_attempt_at - now
        until = f"the next try, in {say.age(left)} at the earliest" if left > 0 else "their turn"
        if held_up and State.QUEUED not in found:  # said once
            until += f", and for {held_up}"
        why = f"; the last one ended: {say.printable(row.reason)}" if row.reason else ""
        found[State.DEFERRED] = until + why
    if row.counts.get(State.HELD):
        found[State.HELD] = f"a person: `relaypacs release --to {name}`, or `discard`"
    if row.counts.get(State.FAILED):
        found[State.FAILED] = f"a person: `relaypacs retry --to {name} --state failed`, or `discard`"
        if row.failed_reason:
            found[State.FAILED] += f"; the one queued last ended: {say.printable(row.failed_reason)}"
        if is_uid(row.failed_study):  # else nothing to put into a command
            found[State.FAILED] += f" (`relaypacs trace {row.failed_study}`)"
    return found


def _samples(config: Config) -> dict[str, dict[str, float]]:
    """What the sidecar shows of each destination, by metric; nothing if it does not answer, or wants another token."""
    host, port = config.sidecar.host, config.sidecar.port
    token = config.sidecar.token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection: http.client.HTTPConnection
    if config.sidecar.certificate:
        # This machine's own, under whatever name its certificate is for; no other is shown the token.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        headers = headers if host in _ANYWHERE or host.startswith("127.") else {}
        connection = http.client.HTTPSConnection(_ANYWHERE.get(host, host), port, timeout=_ASK_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(_ANYWHERE.get(host, host), port, timeout=_ASK_SECONDS)
    try:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        text = answer.read(_LONGEST_ANSWER_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines() if answer.status == 200 else ():
        metric, _, rest = line.partition('{destination="')
        if metric in (_BREAKER, _DRAIN):
            name, _, value = rest.partition('"} ')
            with suppress(ValueError):
                found.setdefault(metric, {})[name] = float(value)
    return found
