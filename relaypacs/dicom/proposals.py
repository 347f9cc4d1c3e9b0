"""What a peer proposed and what we answered, written down small: the association log's part of negotiation.

`receive` writes it with `describe`, the command line reads it with `read_description`. Proposals that ask for the same
and got the same are one; the standard's own prefix is `~`. Bounded, whatever a hostile peer proposes. Pure.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relaypacs.dicom.contexts import VERIFICATION, Answered, Offer, negotiate, read_proposals
from relaypacs.dicom.pdu import PduError

_PREFIX = "1.2.840.10008."
_MOST_SYNTAXES = 16
_MOST_CHARACTERS = 16_000
"""Longer descriptions are cut between two proposals."""
_REMEMBERED_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposed presentation context (PS3.8 9.3.2.2) and its answer."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    """At most 16 of them; empty if there were more than may be proposed."""
    result: int | None
    """PS3.8 table 9-18; None where the association was refused before that."""
    transfer_syntax: str = ""
    """The accepted one."""


@dataclass(frozen=True, slots=True)
class Description:
    """Everything that was proposed, as text, and whether nothing could be sent in what was accepted of it."""

    text: str
    useless: bool = False


def describe(items: bytes, offer: Offer | None) -> Description:
    """Describe the presentation context items of an A-ASSOCIATE-RQ as `offer` answers them; None: as nobody did.

    What can't be read is left out. Remembered by its bytes, as negotiation is.
    """
    return _remembered(items, offer) if len(items) <= _REMEMBERED_BYTES else _describe(items, offer)


def _describe(items: bytes, offer: Offer | None) -> Description:
    answers: dict[int, Answered] = {}
    proposals: dict[Proposed, None] = {}
    try:
        if offer is not None:
            negotiated = negotiate(items, offer)
            answers = {one.context_id: one for one in (*negotiated.accepted, *negotiated.rejected)}
        for context_id, abstract_syntax, syntaxes in read_proposals(
            items, offer.max_transfer_syntaxes if offer else 128
        ):
            answer = answers.get(context_id)
            accepted = answer.transfer_syntax if answer is not None and answer.result == 0 else ""
            result = answer.result if answer is not None else None
            one = Proposed(abstract_syntax, tuple((syntaxes or ())[:_MOST_SYNTAXES]), result, accepted)
            proposals[one] = None
    except PduError:
        pass
    return Description(_written(proposals), offer is not None and _useless(proposals))


_remembered = functools.lru_cache(maxsize=64)(_describe)


def _useless(proposals: Iterable[Proposed]) -> bool:
    accepted = {one.abstract_syntax for one in proposals if one.result == 0}
    others = any(one.abstract_syntax != VERIFICATION for one in proposals)
    return not (accepted - {VERIFICATION} if others else accepted)


def _written(proposals: Iterable[Proposed]) -> str:
    parts: list[str] = []
    length = 2
    for one in proposals:
        syntaxes = [_short(syntax) for syntax in one.transfer_syntaxes]
        entry = [_short(one.abstract_syntax), syntaxes, one.result, _short(one.transfer_syntax)]
        text = json.dumps(entry, separators=(",", ":"))
        length += len(text) + 1
        if length > _MOST_CHARACTERS:
            break
        parts.append(text)
    return f"[{','.join(parts)}]" if parts else ""


def read_description(text: str) -> list[Proposed]:
    """What `describe` wrote; empty for text that it did not write."""
    try:
        return list(_read(json.loads(text))) if text else []
    except (ValueError, TypeError):
        return []


def _read(entries: object) -> Iterator[Proposed]:
    if not isinstance(entries, list):
        raise TypeError
    for abstract_syntax, syntaxes, result, accepted in entries:
        transfer_syntaxes = tuple(_long(str(one)) for one in syntaxes)
        yield Proposed(_long(str(abstract_syntax)), transfer_syntaxes, result, _long(str(accepted)))


def _short(uid: str) -> str:
    if uid.startswith(_PREFIX):
        return "~" + uid.removeprefix(_PREFIX)
    return "=" + uid if uid.startswith(("~", "=")) else uid  # no UID, and not taken for one


def _long(text: str) -> str:
    if text.startswith("~"):
        return _PREFIX + text[1:]
    return text.removeprefix("=")
