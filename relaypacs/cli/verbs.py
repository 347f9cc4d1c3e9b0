"""`hold`, `release`, `retry`, `discard`, `resend`: what people do to deliveries. Counts first, asks, then acts.

Each works on a selection (destination, study, caller, state, age) in pieces of bounded size, so that a node that runs
beside it is never kept waiting. What changed between the count and the act is left as it is. Wrong usage is a
ConfigError with a sentence.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence

from relaypacs.cli import say
from relaypacs.cli.person import who
from relaypacs.errors import ConfigError
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.states import SELECTS, Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Acted, Found, Selection
from relaypacs.model import State

PIECE = 500
"""Deliveries changed in one transaction."""
_MOST_TRACED, _MOST_LISTED = 1000, 20
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE = re.compile(r"([0-9]{1,6})([smhd])")
_DONE = {
    Verb.HOLD: "held",
    Verb.RELEASE: "released",
    Verb.RETRY: "queued to be tried again",
    Verb.DISCARD: "discarded",
    Verb.RESEND: "queued",
}


def selection(
    verb: Verb,
    *,
    destination: str | None,
    study: str | None,
    calling_ae: str | None,
    states: Sequence[str],
    older_than: str | None,
    newer_than: str | None,
    everything: bool,
    now: float,
) -> Selection:
    """What the options name. ConfigError if they name nothing in particular, or what the verb does not concern.

    `older_than` and `newer_than` are ages as `30m`, counted back from `now`. A resend always has a destination, so
    that does not make it particular.
    """
    concerned = SELECTS[verb]
    if wrong := [one for one in states if one not in concerned]:
        raise ConfigError([f"`{verb}` concerns {_listed(concerned)} deliveries, not {', '.join(wrong)}"])
    named = [None if verb is Verb.RESEND else destination, study, calling_ae, older_than, newer_than]
    if everything == (any(one is not None for one in named) or bool(states)):
        raise ConfigError(
            [
                "--all goes with no other choice of deliveries"
                if everything
                else f"say what to {verb}: --study, --caller, --state, --older-than, --newer-than"
                + ("" if verb is Verb.RESEND else ", --to")
                + ", or --all"
            ]
        )
    return Selection(
        destination=destination,
        study=study,
        calling_ae=calling_ae,
        states=frozenset(State(one) for one in states),
        before=None if older_than is None else now - age_seconds(older_than),
        after=None if newer_than is None else now - age_seconds(newer_than),
    )


def age_seconds(text: str) -> int:
    """`90s`, `30m`, `2h`, `7d` in seconds. ConfigError if it is none."""
    match = _AGE.fullmatch(text)
    if not match:
        raise ConfigError([f"{say.printable(text)!r} is no age; write a number with s, m, h or d, such as 30m"])
    return int(match[1]) * _SECONDS[match[2]]


def act(
    store: JobStore,
    verb: Verb,
    which: Selection,
    *,
    dry_run: bool,
    confirmed: bool,
    as_json: bool,
    poke: Callable[[], None],
) -> int:
    """Count what `which` fits, ask unless `confirmed`, do it, and wake the node. Returns 1 if nothing comes of it.

    ConfigError if it has to be asked and nobody is at the terminal.
    """
    found = store.find(verb, which)
    if not as_json:
        _show(store, verb, which, found)
    if dry_run or not found.ids:
        if as_json:
            say.out_json(_document(verb, found, None))
        return 0 if found.ids else 1
    count = say.counted(len(found.ids), "instance" if verb is Verb.RESEND else "delivery")
    if not confirmed and not agreed(f"{verb} {count}"):
        say.tell("Nothing was changed.")
        return 1
    done = Acted()
    asked_by = who()
    try:
        for some in chunks(found.ids, PIECE):
            done += store.act(verb, some, which, time.time(), by=asked_by)
    finally:
        poke()  # also when it ended half-way: what was done was done
    if as_json:
        say.out_json(_document(verb, found, done))
    else:
        _tell(verb, which, done)
    return 0 if done.changed or done.already_live else 1


def _show(store: JobStore, verb: Verb, which: Selection, found: Found) -> None:
    if not found.ids and verb is Verb.RESEND and which.study is not None:
        say.tell(_no_such_study(store, which.study))
    elif not found.ids:
        say.tell(f"Nothing to {verb}.")
    elif verb is not Verb.RESEND:
        rows = sorted(found.counts.items())
        say.out_table(
            ["destination", "state", "deliveries"], [[name, state, str(count)] for (name, state), count in rows]
        )


def _no_such_study(store: JobStore, term: str) -> str:
    """What to say where a study was named by something else than its UID."""
    shown = say.printable(term)
    studies = sorted({row.study_instance_uid for row in store.trace(term, limit=_MOST_TRACED)} - {""})
    if not studies:
        return f"Nothing was received under {shown!r}; give a Study Instance UID, as `relaypacs trace` shows it."
    said = [
        f"{shown!r} is no Study Instance UID.",
        f"It was received in {say.counted(len(studies), 'study')}; send each by its own:",
        *(f"  {say.printable(uid)}" for uid in studies[:_MOST_LISTED]),
    ]
    return "\n".join(said + (["  …"] if len(studies) > _MOST_LISTED else []))


def agreed(what: str) -> bool:
    """Ask at the terminal whether to do `what`. ConfigError if nobody is there."""
    if not sys.stdin.isatty():
        raise ConfigError([f"this would {what}; say --yes to do it, or --dry-run to only count"])
    sys.stderr.write(f"{what[0].upper()}{what[1:]}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(verb: Verb, which: Selection, done: Acted) -> None:
    if done.already_live:
        say.tell(f"{say.counted(done.already_live, 'instance')} already on the way there; nothing added for them.")
    if done.no_bytes:
        say.tell(
            f"{say.counted(done.no_bytes, 'instance')} no longer kept here ([staging] keep); "
            "send them from the modality or the PACS that has them."
        )
    if verb is Verb.RESEND:
        say.out(f"{say.counted(done.changed, 'instance')} {_DONE[verb]} for {which.destination}.")
    else:
        say.out(f"{say.counted(done.changed, 'delivery')} {_DONE[verb]}.")


def _document(verb: Verb, found: Found, done: Acted | None) -> dict[str, object]:
    return {
        "verb": verb.value,
        "found": len(found.ids),
        "deliveries": [
            {"destination": name, "state": state.value, "count": count}
            for (name, state), count in sorted(found.counts.items())
        ],
        "changed": done.changed if done else 0,
        "already_live": done.already_live if done else 0,
        "no_bytes": done.no_bytes if done else 0,
        "dry_run": done is None,
    }


def _listed(states: frozenset[State]) -> str:
    names = sorted(states)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
