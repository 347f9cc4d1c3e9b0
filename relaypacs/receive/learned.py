"""What a receive process knows of what the destinations take: its configuration, and what they were seen to refuse.

`serving` asks for each association. The file of refusals (`relaypacs.refusals`) is looked at then, by its metadata
alone, and read when it has changed. One that can't be read is as if there were none: nothing is narrowed by it.
"""

from __future__ import annotations

import threading

from relaypacs import refusals
from relaypacs.config.model import Config
from relaypacs.dicom.contexts import Offer
from relaypacs.policy.takers import Refused, Takers


class Learned:
    """`policy.takers.Takers` that follows the file. Thread-safe."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path = config.refusals_file
        self._lock = threading.Lock()
        self._stamp: refusals.Stamp | None = None
        self._takers = self._compiled({})
        self._plain = self._takers

    def narrow(self, offer: Offer, calling_ae: str, called_ae: str) -> Offer:
        """What of `offer` some destination takes of objects that come under these AE titles."""
        stamp = refusals.stamp(self._path)
        if stamp != self._stamp:
            with self._lock:
                if stamp is None:
                    self._takers = self._plain
                else:
                    self._takers = self._compiled(refusals.of_config(self._path, self._config))
                self._stamp = stamp
        return self._takers.narrow(offer, calling_ae, called_ae)

    def _compiled(self, refused: Refused) -> Takers:
        config = self._config
        return Takers(
            config.rule,
            config.routing.default,
            config.destination,
            ae_titles_case_sensitive=config.receive.ae_titles_case_sensitive,
            refused=refused,
        )
