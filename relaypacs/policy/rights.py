"""What a caller may do once it is admitted: which abstract syntaxes are offered to it. Pure.

Used by `receive` for each `[[caller]]` when it starts. What the node supports and this caller may not use is refused
per presentation context by the user (PS3.8 table 9-18, result 1); what the node does not support, as for everyone (3).
"""

from __future__ import annotations

from dataclasses import replace

from relaypacs.config.model import Caller
from relaypacs.dicom.contexts import VERIFICATION, Offer
from relaypacs.dicom.uid import uid_names
from relaypacs.policy.pattern import compile_pattern


def offer_to(caller: Caller, offer: Offer) -> Offer:
    """What of `offer` this caller may use."""
    denied = set() if caller.echo else {VERIFICATION}
    if not caller.store:
        denied |= offer.storage
    elif caller.sop_classes:
        patterns = [compile_pattern(one) for one in caller.sop_classes]
        denied |= {
            uid
            for uid in offer.storage
            if not any(pattern.fullmatch(name) for pattern in patterns for name in (uid, *uid_names(uid)))
        }
    return replace(offer, storage=offer.storage - denied, denied=offer.denied | denied)
