"""What intake makes of objects under a configuration: its rules, and its callers' policies."""

from __future__ import annotations

from relaypacs.config import Config
from relaypacs.intake import ArrivalReader, CallerPolicy
from relaypacs.intake.arrival import View
from relaypacs.jobs.values import Arrival
from relaypacs.model import ObjectRecord
from relaypacs.policy.admission import find_caller
from relaypacs.policy.routing import Router


class Arrivals:
    """`arrival_reader` of the configuration in force: it may change between two batches of intake."""

    def __init__(self, config: Config) -> None:
        self._reader = arrival_reader(config)

    def __call__(self, record: ObjectRecord, view: View) -> Arrival:
        return self._reader(record, view)

    def take(self, reader: ArrivalReader) -> None:
        """Ask this one from now on."""
        self._reader = reader


def arrival_reader(config: Config) -> ArrivalReader:
    """The reader of the node's intake; commands that restore rows use it too."""
    folds = config.receive.ae_titles_case_sensitive

    def policy_of(calling_ae: str, peer: str) -> CallerPolicy:
        # The entry that admitted it: several may have one title, each for its own networks.
        host = peer.rpartition(":")[0].strip("[]") or None
        caller = find_caller(config.caller, calling_ae, case_sensitive=folds, peer_host=host)
        return CallerPolicy(caller.conflict, caller.resend) if caller else CallerPolicy()

    return ArrivalReader(Router(config.rule, config.routing.default, ae_titles_case_sensitive=folds), policy_of)
