"""What `relaypacs trace` says of verification: what a destination listed of a study that it said it stored. Pure."""

from __future__ import annotations

from relaypacs.cli.say import age, printable, when
from relaypacs.jobs.verification import Verified


def sentence(one: Verified, now: float) -> str:
    """The rest of `DESTINATION …`. `now`: seconds since the epoch."""
    lists = f"lists {one.found} of {one.expected} that it stored" if one.expected else "lists them"
    if one.due_at is None:
        asked = "" if one.checked_at is None else f", asked {when(one.checked_at)}"
        return f"{lists}{asked}" + (f": {printable(one.reason)}" if one.reason else "")
    left = one.due_at - now
    at = f"in {age(left)}" if left > 0 else "now"
    if one.rounds:
        return f"{lists}; the others were sent again (round {one.rounds}), it is asked anew {at}"
    if one.tries:
        return f"could not be asked whether it has them ({printable(one.reason)}); again {at}"
    return f"is asked {at} whether it has them"
