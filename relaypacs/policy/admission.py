"""Who may associate with this node: an A-ASSOCIATE-RQ's names and address against the configuration.

`receive.edge` asks `admit` before anything is built for a connection; intake asks `find_caller` for the policies of a
caller. Pure. A rejection carries the standard's result, source and reason (PS3.8 9.3.4) for the peer, a fixed word
for the metric, and a sentence that names the mend for the log.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from relaypacs.config.model import Caller, Receive
from relaypacs.config.secrets import Credentials
from relaypacs.dicom.identity import IdentityType, UserIdentity, read_user_identity
from relaypacs.dicom.pdu import APPLICATION_CONTEXT, AssociateHead
from relaypacs.policy.aetitle import check_ae_title, clean_ae_title, same_ae_title
from relaypacs.policy.pattern import compile_pattern


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection: its numeric address, and what TLS has proven of it."""

    host: str
    tls: bool = False
    certificate_names: tuple[str, ...] = ()
    """Names of the verified client certificate; empty without one. First its subject as RFC 4514 writes it
    (`CN=ct1,O=Clinic`), then its subject alternative names (`DNS:ct1.example`, `IP:10.0.0.1`, `URI:…`, `email:…`)."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Welcome: under which entry of the configuration, with both AE titles cleaned."""

    caller: Caller
    calling_ae: str
    called_ae: str
    peer: Peer


@dataclass(frozen=True, slots=True)
class Rejected:
    """Not welcome: the A-ASSOCIATE-RJ to answer, a word for the metric, a sentence for people."""

    result: int
    source: int
    reason: int
    word: str
    sentence: str


# Result, source, reason of PS3.8 9.3.4 and the metric's word for each.
CALLING_AE = (1, 1, 3, "calling-ae")
CALLED_AE = (1, 1, 7, "called-ae")
APPLICATION = (1, 1, 2, "application-context")
PROTOCOL = (1, 2, 2, "protocol-version")
OVERLOAD = (2, 3, 2)  # transient: the modality tries again; the word is that of the limit
NO_SPACE = (2, 3, 2, "no-space")
UNKNOWN_CALLER = "no [[caller]] has this calling AE title: add one"
WRONG_ADDRESS = "the [[caller]] of this calling AE title may not connect from this address"
CERTIFICATE = (1, 1, 3, "certificate")
USER_IDENTITY = (1, 1, 1, "user-identity")  # PS3.7 D.3.3.7 names no reason of its own
_NOBODYS: Mapping[Caller, Credentials] = MappingProxyType({})


def admit(
    head: AssociateHead,
    peer: Peer,
    receive: Receive,
    callers: Sequence[Caller],
    credentials: Mapping[Caller, Credentials] = _NOBODYS,
) -> Admitted | Rejected:
    """Decide by protocol version, application context, called AE title, calling AE title, address and what is shown.

    `credentials` is what callers with `credentials_env` have to show. With `conceal` every answer is 1/1/1.
    Raises `PduError` where the user identity is broken.
    Nobody is admitted who no `[[caller]]` names; a blank AE title names nobody, whatever the pattern (PS3.8 9.3.2).
    """
    calling_ae, called_ae = clean_ae_title(head.calling_ae), clean_ae_title(head.called_ae)
    sensitive = receive.ae_titles_case_sensitive
    if not head.protocol_version & 0x0001:  # bit 0 is version 1; only that bit is tested
        return Rejected(*PROTOCOL, "the peer speaks no version 1 of the upper layer protocol")
    if head.application_context != APPLICATION_CONTEXT:
        return Rejected(*APPLICATION, "the peer proposed another application context than DICOM's")
    identity = read_user_identity(head)
    rejected = _not_among(called_ae, calling_ae, receive)
    if rejected is None:
        titled = [one for one in callers if _title_matches(one.ae_title, calling_ae, sensitive)]
        own = [one for one in titled if same_ae_title(one.ae_title, calling_ae, case_sensitive=sensitive)]
        if any(one.certificate or one.credentials_env for one in own):
            # What an entry for this very title wants to be shown, no pattern excuses from, whatever address and called
            # AE title the peer chooses.
            titled = own
        here = [one for one in titled if _address_matches(one.networks, peer.host)]
        meant = [one for one in here if _may_call(one, called_ae, sensitive)]
        fit = _shown([one for one in meant if one in own] or meant, identity, peer, credentials)
        if isinstance(fit, Rejected):
            rejected = fit
        elif fit:
            return Admitted(fit[0], calling_ae, called_ae, peer)
        elif here:
            rejected = Rejected(*CALLED_AE, "its [[caller]] may not call this AE title: add it to called_ae there")
        elif titled:
            rejected = Rejected(*CALLING_AE, WRONG_ADDRESS)
        else:
            rejected = Rejected(*CALLING_AE, UNKNOWN_CALLER)
    return replace(rejected, result=1, source=1, reason=1) if receive.conceal else rejected


def _not_among(called_ae: str, calling_ae: str, receive: Receive) -> Rejected | None:
    """Why nobody is admitted under these titles, or None."""
    sensitive = receive.ae_titles_case_sensitive
    if not called_ae or (
        receive.check_called_ae
        and not any(same_ae_title(called_ae, ours, case_sensitive=sensitive) for ours in receive.ae_titles)
    ):
        return Rejected(
            *CALLED_AE, "the called AE title is not ours: add it to [receive] ae_titles, or correct it at the sender"
        )
    if not _is_ae_title(calling_ae):
        return Rejected(*CALLING_AE, "the calling AE title is blank or no AE title: correct it at the sender")
    return None


def _may_call(caller: Caller, called_ae: str, case_sensitive: bool) -> bool:
    return not caller.called_ae or any(
        same_ae_title(called_ae, one, case_sensitive=case_sensitive) for one in caller.called_ae
    )


def _shown(
    callers: Sequence[Caller], identity: UserIdentity | None, peer: Peer, credentials: Mapping[Caller, Credentials]
) -> list[Caller] | Rejected:
    """Those of `callers` whose certificate and user identity it shows, or why it does of none."""
    certified = [one for one in callers if _has_certificate(one, peer)]
    if callers and not certified and not peer.tls:
        return Rejected(
            *CERTIFICATE, "its [[caller]] wants a certificate, which is shown inside TLS only: let it connect with TLS"
        )
    if callers and not certified:
        shown = f'"{peer.certificate_names[0]}"' if peer.certificate_names else "none"
        wants = (
            f"its certificate is {shown}, and its [[caller]] wants another: correct it at the sender, or certificate"
        )
        return Rejected(*CERTIFICATE, f"{wants} there")
    reasons = [_unfit(identity, peer, one, credentials.get(one) if one.credentials_env else None) for one in certified]
    fit = [one for one, reason in zip(certified, reasons, strict=True) if not reason]
    return fit if fit or not certified else Rejected(*USER_IDENTITY, reasons[0])


def _has_certificate(caller: Caller, peer: Peer) -> bool:
    patterns = [compile_pattern(one) for one in caller.certificate]
    return not patterns or any(pattern.fullmatch(name) for pattern in patterns for name in peer.certificate_names)


def _unfit(identity: UserIdentity | None, peer: Peer, caller: Caller, wanted: Credentials | None) -> str:
    """Why a user identity is not the caller's (PS3.7 D.3.3.7), or nothing."""
    if not caller.credentials_env:
        if identity is None:
            return ""
        # Taking it unseen would let a password mean nothing.
        return "it shows a user identity and its [[caller]] has none: set credentials_env there, or none at the sender"
    if not peer.tls:
        return "its [[caller]] wants a user identity, which counts inside TLS only: let it connect with TLS"
    if identity is None:
        return "it shows no user identity, and its [[caller]] has credentials_env: set user and passcode at the sender"
    if identity.kind not in (IdentityType.USERNAME, IdentityType.USERNAME_AND_PASSCODE):
        name = _OTHER_IDENTITIES.get(identity.kind, "of an unknown type")
        return f"its user identity is {name}, which is not supported: set username and passcode at the sender"
    username, password = (wanted.username, wanted.password) if wanted else ("", "")
    if (identity.kind == IdentityType.USERNAME_AND_PASSCODE) != bool(password):
        return f"its [[caller]] wants a username {'and a passcode' if password else 'without passcode'}"
    same = hmac.compare_digest(identity.primary, username.encode())
    same &= hmac.compare_digest(identity.secondary, password.encode())
    return "" if same and username else "its username or passcode is wrong: compare them with the variables' values"


_OTHER_IDENTITIES: Mapping[int, str] = {
    IdentityType.KERBEROS: "a Kerberos ticket",
    IdentityType.SAML: "a SAML assertion",
    IdentityType.JWT: "a JSON web token",
}


def find_caller(
    callers: Sequence[Caller], calling_ae: str, *, case_sensitive: bool, peer_host: str | None = None
) -> Caller | None:
    """The entry for a cleaned calling AE title: an exact title before a pattern, else the first in the file.

    `peer_host`, if given, must lie in one of the entry's networks (an entry without networks takes any).
    """
    found = None
    for caller in callers:
        if not _title_matches(caller.ae_title, calling_ae, case_sensitive):
            continue
        if peer_host is not None and not _address_matches(caller.networks, peer_host):
            continue
        if same_ae_title(caller.ae_title, calling_ae, case_sensitive=case_sensitive):
            return caller
        found = found or caller
    return found


def _is_ae_title(title: str) -> bool:
    try:
        check_ae_title(title)
    except ValueError:
        return False
    return True


def _title_matches(pattern: str, title: str, case_sensitive: bool) -> bool:
    return bool(title) and _pattern(pattern, case_sensitive).match(title) is not None


@functools.lru_cache(maxsize=4096)
def _pattern(pattern: str, case_sensitive: bool) -> re.Pattern[str]:
    # Not fnmatch: brackets are legal in AE titles and mean themselves.
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.compile(escaped + r"\Z", re.DOTALL if case_sensitive else re.DOTALL | re.IGNORECASE)


def _address_matches(networks: tuple[str, ...], peer_host: str) -> bool:
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(peer_host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 peer on an IPv6 listener
    return any((mapped or address) in network for network in _networks(networks))


@functools.lru_cache(maxsize=4096)
def _networks(networks: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(network, strict=False) for network in networks)
