"""One destination by its own protocol: what sends to it, whether it answers, and what it lists of a study.

`dispatch` makes one per destination. What its workers share is shared here: the access token and the memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.echo import echo
from relaypacs.forward.find import find
from relaypacs.forward.listed import Ask
from relaypacs.forward.memory import Memory
from relaypacs.forward.qido import search
from relaypacs.forward.sender import Sender, Trouble
from relaypacs.forward.stow import StowSender


class Spoken:
    """How a destination is spoken to. `calling_ae`: what is presented where it configures nothing."""

    def __init__(
        self, destination: Destination, calling_ae: str, memory: Memory, environment: Mapping[str, str] = os.environ
    ) -> None:
        """ConfigError if its credentials are not there."""
        self._destination, self._calling_ae, self._memory = destination, calling_ae, memory
        web = destination.kind == "dicomweb"
        self._authorization = Authorization(destination, environment) if web else None

    def sender(self) -> tuple[Sender, dict[str, str] | None]:
        """A worker's sender, and what the worker fills for it if it presents the calling AE title of who sent."""
        if self._authorization is not None:
            shown, renew = self._authorization.shown, self._authorization.renew
            return StowSender(self._destination, shown, renew, self._memory), None
        callers: dict[str, str] | None = {} if self._destination.calling_ae == ORIGINAL else None
        return CStoreSender(self._destination, self._calling_ae, self._memory, callers), callers

    def probe(self) -> Trouble | None:
        """Whether it answers: C-ECHO, or a small search. One that has no Verification answers all the same."""
        found = echo(
            self._destination,
            calling_ae=self._calling_ae,
            authorization=self._authorization,
            known=self._memory.recent(),
        )
        return None if found.answers else Trouble(found.sentence, found.retry_after_seconds)

    @property
    def ask(self) -> Ask:
        """What it lists of a study."""
        if self._authorization is None:
            return partial(find, self._destination, self._calling_ae)
        return partial(search, self._destination, self._authorization)
