"""`relaypacs conformance`: a DICOM Conformance Statement of this node, in the structure of PS3.2 annex A, as Markdown.

Written from the configuration in force, so it says what this node does, not what one could. No names of hosts or
callers are in it: it is for handing out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from relaypacs import __version__
from relaypacs.config.options import endpoint
from relaypacs.dicom.contexts import storage_offer
from relaypacs.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from relaypacs.policy.association_advice import name_of

if TYPE_CHECKING:
    from relaypacs.config import Config

_STATUSES = (
    ("Success", "0000", "The object is durable on this node's disk; it will be delivered, or held visibly."),
    (
        "Refused: Out of Resources",
        "A700",
        "No room, the disk failed, or the object is too large. Send again later.",
    ),
    ("Error: Cannot Understand", "C000", "No dataset, or a command without SOP Class or SOP Instance UID."),
    ("Refused: Invalid SOP Instance", "0117", "The Affected SOP Instance UID is no UID."),
    ("Refused: SOP Class Not Supported", "0122", "The SOP class is not that of the presentation context."),
    ("Failure: Processing Failure", "0110", "An unexpected internal error; nothing was kept."),
)
_REJECTIONS = (
    ("1", "1", "3", "The calling AE title is not configured, or not from this address, or not with this certificate."),
    ("1", "1", "7", "The called AE title is not this node's."),
    ("1", "1", "2", "Another application context than DICOM's was proposed."),
    ("1", "2", "2", "Protocol version 1 was not proposed."),
    ("2", "3", "2", "A limit is reached, or there is no room. Try again later."),
)


def conformance(config: Config) -> str:
    """The whole document."""
    return "\n".join(_document(config)) + "\n"


def _document(config: Config) -> Iterator[str]:
    receive, tls = config.receive, config.tls
    offer = storage_offer(receive.transfer_syntaxes, receive.private_sop_classes, receive.max_transfer_syntaxes)
    syntaxes = sorted(offer.transfer_syntaxes)
    web = [one for one in config.destination if one.kind == "dicomweb"]
    dimse = [one for one in config.destination if one.kind == "dimse"]
    yield f"# DICOM Conformance Statement: RelayPACS {__version__}, node {config.node.name}"
    yield ""
    yield "Structure: PS3.2 annex A. Made by `relaypacs conformance` from the configuration in force."
    yield from _section("1 Conformance statement overview")
    yield (
        "RelayPACS receives composite SOP instances from modalities, keeps them durably, and relays each unchanged to "
        "the destinations that its rules name, by C-STORE or STOW-RS. It offers no query, retrieval or storage "
        "commitment, displays nothing and creates no instances of its own."
    )
    yield ""
    yield from _table(
        ("Service", "User (SCU)", "Provider (SCP)"),
        [
            ("Storage", "yes" if dimse else "no", "yes"),
            ("Verification", "yes" if dimse else "no", "yes"),
            ("Study Root Query/Retrieve, FIND", _yes(one.verify == "c-find" for one in dimse), "no"),
            ("STOW-RS (PS3.18)", "yes" if web else "no", "no"),
            ("QIDO-RS (PS3.18)", _yes(one.verify == "qido" for one in web), "no"),
        ],
    )
    yield from _section("2 Networking")
    yield from _section("2.1 Implementation model", level=3)
    yield (
        "One application entity receives (STORAGE-SCP) and one sends (STORAGE-SCU). An instance is acknowledged once "
        "it is durable; independently of that it is delivered, at least once, to each destination, in parallel."
    )
    yield from _section("2.2 AE specifications: STORAGE-SCP", level=3)
    yield from _scp(config, syntaxes, len(offer.storage))
    yield from _section("Presentation contexts accepted", level=4)
    yield "Each of these abstract syntaxes with each of the transfer syntaxes below; role SCP, no extended negotiation."
    yield ""
    yield from _table(
        ("Abstract syntax", "UID"),
        [("Verification", "1.2.840.10008.1.1"), *_named(offer.storage)],
    )
    yield ""
    yield from _table(("Transfer syntax", "UID"), _named(syntaxes))
    yield ""
    yield "Of several transfer syntaxes in one context the first proposed that is in the list is accepted."
    yield from _section("C-STORE response statuses", level=4)
    yield from _table(("Service status", "Code", "When"), _STATUSES)
    yield from _section("A-ASSOCIATE-RJ", level=4)
    if receive.conceal:
        yield "Whoever is not admitted gets 1/1/1 (permanent, no reason given); the others are:"
        yield ""
    yield from _table(
        ("Result", "Source", "Reason", "When"),
        [row for row in _REJECTIONS if not (receive.conceal and row[2] in ("3", "7"))],
    )
    yield from _section("2.3 AE specifications: STORAGE-SCU", level=3)
    yield from _scu(config)
    yield from _section("2.4 Network interfaces and configuration", level=3)
    yield "TCP/IP, IPv4 and IPv6. AE titles, addresses, ports, limits and timeouts are configurable."
    yield ""
    ports = [("DICOM", str(receive.port))] if receive.plain else []
    ports += [("DICOM", str(endpoint(one)[1])) for one in receive.also_listen if receive.plain]
    ports += [("DICOM over TLS", str(endpoint(one)[1])) for one in tls.listen]
    yield from _table(("Service", "TCP port"), ports)
    yield from _section("3 Media interchange")
    yield "None."
    yield from _section("4 Transformation of DICOM to CDA")
    yield "None."
    yield from _section("5 Support of character sets")
    yield (
        "Datasets are relayed byte for byte, whatever their Specific Character Set (0008,0005). For routing and for "
        "the job table text is decoded by it; what can't be decoded is routed by its association."
    )
    yield from _section("6 Security")
    yield from _security(config)
    yield from _section("7 Annexes")
    yield (
        "Instances created: none. Attributes added, changed or coerced: none. Standard extended, specialized and "
        "private SOP classes are relayed as received; private SOP classes are accepted where configured."
    )


def _scp(config: Config, syntaxes: list[str], classes: int) -> Iterator[str]:
    receive = config.receive
    yield from _table(
        ("Item", "Value"),
        [
            ("Application context name", "1.2.840.10008.3.1.1.1"),
            ("AE titles answered", ", ".join(f"`{title}`" for title in receive.ae_titles)),
            ("Storage SOP classes / transfer syntaxes", f"{classes} / {len(syntaxes)}"),
            ("Associations at once", str(receive.max_associations)),
            ("Associations at once of one calling AE title", str(receive.max_associations_per_ae or "no limit")),
            ("Asynchronous operations window", f"{receive.max_operations_invoked} invoked, 1 performed at a time"),
            ("Maximum Length Received", f"{receive.max_pdu_bytes} bytes"),
            ("Implementation class UID", IMPLEMENTATION_CLASS_UID),
            ("Implementation version name", IMPLEMENTATION_VERSION_NAME),
            ("Storage level of conformance", "2 (full): every attribute is kept, private ones too"),
            ("Digital signatures", "kept, not verified: no byte of a dataset changes"),
            ("Retention", "until delivered everywhere, then as configured; nothing can be retrieved"),
        ],
    )


def _scu(config: Config) -> Iterator[str]:
    dimse = [one for one in config.destination if one.kind == "dimse"]
    web = [one for one in config.destination if one.kind == "dicomweb"]
    if not config.destination:
        yield "No destination is configured."
        return
    if dimse:
        yield (
            "An association is opened when instances are owed and kept open while more come. For each instance its SOP "
            "class is proposed with the transfer syntax it was received in, in a presentation context of its own, at "
            "most 128 in an association. Instances are never converted. A status of 0000, 0111 or Bxxx counts as "
            "delivered; A7xx and unknown ones are tried again by the destination's schedule; others end in the dead "
            "letter queue, with the reason."
        )
        yield ""
    if web:
        yield (
            'STOW-RS: `POST …/studies`, `multipart/related; type="application/dicom"`, several instances in a request. '
            "An instance counts as delivered only if the response's Referenced SOP Sequence (0008,1199) names it."
        )
        yield ""
    if any(one.verify != "none" for one in config.destination):
        yield (
            "Whether what was delivered is there is asked afterwards, on an association of its own with Study Root "
            "C-FIND (1.2.840.10008.5.1.4.1.2.2.1) at IMAGE level by Study and Series Instance UID, or with QIDO-RS for "
            "the instances of each series. What is missing is sent again."
        )
        yield ""
    most = max(one.associations for one in config.destination)
    operations = max((one.max_operations for one in dimse), default=1)
    window = f"up to {operations} operations invoked are proposed" if operations > 1 else "not proposed"
    yield (
        f"Up to {most} associations or requests at once per destination. Asynchronous operations window: {window}. "
        "No user identity, no role selection."
    )


def _yes(any_of: Iterable[bool]) -> str:
    return "yes" if any(any_of) else "no"


def _security(config: Config) -> Iterator[str]:
    tls = config.tls
    if tls.listen:
        yield (
            "TLS as in PS3.15 B.12 (BCP 195, RFC 9325): TLS 1.2 and 1.3. Certificates of senders: "
            f"{tls.client_certificates}."
        )
    else:
        yield "No TLS listener is configured."
    secured = sum(one.tls for one in config.destination if one.kind == "dimse")
    yield f"Destinations reached by C-STORE over TLS: {secured}."
    if any(caller.credentials_env for caller in config.caller):
        yield "User Identity Negotiation (PS3.7 D.3.3.7): user name, or user name and passcode, inside TLS only."
    yield (
        "Admission is by calling AE title, address, certificate and user identity, as configured for each caller; "
        "nobody is admitted otherwise."
    )
    yield from _audit(config)


def _audit(config: Config) -> Iterator[str]:
    yield ""
    yield (
        "Audit trail (PS3.15 A.5): Application Activity, DICOM Instances Transferred (received, delivered, given up; "
        "per association and study), Export, Audit Log Used, and Security Alert (associations refused for who asked, "
        "changes of the configuration, what people do with deliveries) are kept in the node's database. Patients are "
        "told " + ("by Patient ID alone." if config.node.identifiers else "in none of them.")
    )
    if config.audit.collector:
        yield "Each is sent to a repository as syslog over TLS (PS3.15 A.6; RFC 5424, RFC 5425), at least once."
    else:
        yield "No repository that they are sent to is configured."


def _section(title: str, level: int = 2) -> list[str]:
    return ["", f"{'#' * level} {title}", ""]


def _named(uids: Iterable[str]) -> list[tuple[str, str]]:
    return sorted((name_of(uid), uid) for uid in uids)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"
