"""One sentence about an association that names the mend: what to change here, or at the peer. Pure.

`relaypacs associations` shows it. It is made from what the log kept and from the configuration as it is now, so that it
says so where what is missing has been added since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relaypacs.config.model import Caller, Receive
from relaypacs.dicom.contexts import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    EXPLICIT_VR_LITTLE_ENDIAN,
    PROVIDER_REJECTION,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    VERIFICATION,
    Offer,
)
from relaypacs.dicom.proposals import Proposed
from relaypacs.dicom.uid import uid_names
from relaypacs.policy.admission import UNKNOWN_CALLER, WRONG_ADDRESS, find_caller
from relaypacs.policy.aetitle import same_ae_title

_MOST_SYNTAXES = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """What the association log knows of one."""

    association_id: str
    calling_ae: str
    called_ae: str
    host: str
    outcome: str
    word: str
    reason: str
    tries: int = 1
    contexts: Sequence[Proposed] = field(default_factory=tuple)


def mend(seen: Seen, receive: Receive, callers: Sequence[Caller], offer: Offer) -> str:
    """The sentence, or nothing where nothing is wrong. `offer` is what `receive` makes possible for anyone."""
    if seen.outcome == "rejected":
        return _about_refusal(seen, receive, callers)
    if refused := refused_classes(seen.contexts):
        return _about_contexts(seen, refused, receive, offer)
    if seen.word == "contexts":
        return f"{seen.calling_ae} proposed no presentation context: look at which objects it is set to send"
    return _about_end(seen)


def refused_classes(contexts: Sequence[Proposed]) -> list[list[Proposed]]:
    """The proposals of each abstract syntax of which not one was accepted, as the peer ordered them."""
    grouped: dict[str, list[Proposed]] = {}
    for one in contexts:
        grouped.setdefault(one.abstract_syntax, []).append(one)
    return [group for group in grouped.values() if all(one.result not in (0, None) for one in group)]


def name_of(uid: str) -> str:
    """What the standard calls a UID, or the UID."""
    return next(iter(uid_names(uid)), uid)


def _about_refusal(seen: Seen, receive: Receive, callers: Sequence[Caller]) -> str:
    who = seen.calling_ae or seen.host or "somebody"
    if seen.reason in (UNKNOWN_CALLER, WRONG_ADDRESS):
        return _about_caller(seen, receive, callers)
    if seen.word == "called-ae" and seen.called_ae:
        ours = any(
            same_ae_title(seen.called_ae, one, case_sensitive=receive.ae_titles_case_sensitive)
            for one in receive.ae_titles
        )
        if ours or not receive.check_called_ae:
            return (
                f"{who} calls this node {seen.called_ae}, which its [[caller]] may not: add it to called_ae there, "
                f"or correct the called AE title at {who}"
            )
        return (
            f"{who} calls this node {seen.called_ae}, and it answers to {', '.join(receive.ae_titles)}: correct the "
            f'called AE title at {who}, or add "{seen.called_ae}" to [receive] ae_titles'
        )
    return f"{who}: {seen.reason}"


def _about_caller(seen: Seen, receive: Receive, callers: Sequence[Caller]) -> str:
    title, sensitive = seen.calling_ae, receive.ae_titles_case_sensitive
    if find_caller(callers, title, case_sensitive=sensitive, peer_host=seen.host) is not None:
        return (
            f"{title} is admitted from {seen.host} by now, unless the node runs with an older configuration: "
            "`relaypacs config reload` shows why"
        )
    known = find_caller(callers, title, case_sensitive=sensitive)
    if known is not None:
        return (
            f"{title} came from {seen.host}, and its [[caller]] may connect from {', '.join(known.networks)} only: add "
            f"the address to networks there, or run `relaypacs caller add --from-rejected {seen.association_id}`"
        )
    close = find_caller(callers, title, case_sensitive=False)
    if close is not None:
        return f"{title} is not {close.ae_title}, for case counts: correct it at {seen.host}, or here"
    return (
        f"no [[caller]] is called {title}: `relaypacs caller add --from-rejected {seen.association_id}` admits it from "
        f"{seen.host}"
    )


def _about_contexts(seen: Seen, refused: Sequence[Sequence[Proposed]], receive: Receive, offer: Offer) -> str:
    group = refused[0]
    uid, result = group[0].abstract_syntax, group[0].result
    name = name_of(uid)
    more = f" ({len(refused) - 1} more of its SOP classes were refused)" if len(refused) > 1 else ""
    return f"{seen.calling_ae} proposed {name}{_why(group, uid, result, receive, offer)}{more}"


def _why(group: Sequence[Proposed], uid: str, result: int | None, receive: Receive, offer: Offer) -> str:
    if result == TRANSFER_SYNTAXES_NOT_SUPPORTED:
        syntaxes = list(dict.fromkeys(syntax for one in group for syntax in one.transfer_syntaxes))
        names = ", ".join(name_of(one) for one in syntaxes[:_MOST_SYNTAXES]) or "no transfer syntax"
        names += f" and {len(syntaxes) - _MOST_SYNTAXES} others" if len(syntaxes) > _MOST_SYNTAXES else ""
        there = f"have it propose {name_of(EXPLICIT_VR_LITTLE_ENDIAN)} as well"
        ours = [one for one in syntaxes if one in offer.takes(uid)]
        if ours:
            return (
                f" only with {names}, which no destination of it takes: add {ours[0]} to transfer_syntaxes of its "
                f"[[destination]], or {there}"
            )
        here = (
            f"add {syntaxes[0]} to [receive] transfer_syntaxes, or " if syntaxes and receive.transfer_syntaxes else ""
        )
        return f" only with {names}: {here}{there}"
    if result == USER_REJECTION:
        if uid == VERIFICATION:
            return ", and its [[caller]] may not echo: set echo = true there"
        return ", and its [[caller]] may not store it: look at store and sop_classes there"
    if result == PROVIDER_REJECTION:
        return (
            f" with too many transfer syntaxes: raise [receive] max_transfer_syntaxes ({receive.max_transfer_syntaxes})"
        )
    if result == ABSTRACT_SYNTAX_NOT_SUPPORTED:
        if uid in offer.storage:
            return ", which no destination of it takes: add it to sop_classes of one, or route it to another"
        named = uid_names(uid)
        if not named or (named[0].endswith("Storage") and "Commitment" not in named[0]):
            return f", which is not known here: add {uid} to [receive] private_sop_classes"
        return (
            ", and this node takes storage and verification only: point that service of it elsewhere, or switch it off"
        )
    return ", which was refused"


def _about_end(seen: Seen) -> str:
    who = seen.calling_ae
    if seen.outcome == "timeout":
        return (
            f"{who} was silent for too long: look why it hangs, or raise [receive] idle_timeout_seconds "
            "(between objects) or pdu_timeout_seconds (within one)"
        )
    if seen.outcome == "connection-lost":
        return f"the connection to {who} broke ({seen.reason}): look at firewalls and the network up to {seen.host}"
    if seen.outcome == "peer-aborted":
        return f"{who} gave up ({seen.reason}): its own log says why"
    if seen.outcome == "aborted":
        return f"the association with {who} was aborted ({seen.reason}): this is for its vendor, or for us"
    return ""
