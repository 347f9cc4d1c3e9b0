"""What peers wrote, made storable: a UID or an AE title may hold anything and may be of any length.

Pure. One object with a hostile value must not make the transaction fail that takes it in, for ever, with everything
behind it.
"""

from __future__ import annotations

import hashlib

LONGEST = 256
"""Characters kept of a value. UIDs have at most 64 (PS3.5 9.1), LO and SH values 64 and 16 (PS3.5 6.2); an index
entry of PostgreSQL has 2704 bytes."""
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def storable(value: str) -> str:
    """`value` without what a database refuses (NUL, lone surrogates); what is too long ends in a hash of all of it.

    The same value gives the same result, and different long values give different ones.
    """
    if value.isascii() and len(value) <= LONGEST and "\0" not in value:
        return value
    clean = value.replace("\0", _REPLACED).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(clean) <= LONGEST:
        return clean
    mark = "#" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return clean[: LONGEST - len(mark)] + mark
