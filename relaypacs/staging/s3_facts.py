"""What an object's metadata in a bucket say: its SHA-256, and the facts that rows need. Pure.

S3 metadata are ASCII header values of at most 2 KB in all: a sender's text is percent-encoded. No UID, no name.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote

from relaypacs.staging.protocol import StagedFacts

SHA256 = "sha256"
"""Of the whole file, hexadecimal."""
DIGEST = "digest"
"""Of the instance: dataset and transfer syntax."""
_TEXTS = {"association-id": "association_id", "calling-ae": "calling_ae", "called-ae": "called_ae", "peer": "peer"}
_LONGEST = 400


def to_metadata(sha256: str, facts: StagedFacts | None) -> dict[str, str]:
    """The metadata to put."""
    found = {SHA256: sha256}
    if facts is not None:
        found |= {DIGEST: facts.digest, "received-at": repr(facts.received_at)}
        found |= {name: quote(str(getattr(facts, field)), safe=":,[]+")[:_LONGEST] for name, field in _TEXTS.items()}
    return found


def of_metadata(found: Mapping[str, str]) -> StagedFacts | None:
    """The facts in metadata; None if they are not all there."""
    try:
        texts = {field: unquote(found[name]) for name, field in _TEXTS.items()}
        return StagedFacts(digest=found[DIGEST], received_at=float(found["received-at"]), **texts)
    except (KeyError, ValueError):
        return None
