"""What a running node takes of a new configuration, and what waits for its next start. Pure.

The supervisor asks when the files have changed; `docs/configuration.md` lists the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from relaypacs.config.model import Config
from relaypacs.errors import ConfigError

WHOLE = frozenset({"caller", "destination", "rule"})
"""Lists that a running node takes as they are."""
OPTIONS: Mapping[str, frozenset[str]] = {
    "sidecar": frozenset({"token", "max_requests_per_minute"}),
    "node": frozenset({"profile", "allow_plaintext"}),
    "log": frozenset({"level", "format"}),
    "routing": frozenset({"default"}),
    "receive": frozenset(
        {
            "ae_titles",
            "ae_titles_case_sensitive",
            "association_request_timeout_seconds",
            "check_called_ae",
            "conceal",
            "idle_timeout_seconds",
            "max_association_rate_per_address",
            "max_association_request_bytes",
            "max_associations",
            "max_associations_per_ae",
            "max_command_bytes",
            "max_connections",
            "max_connections_per_address",
            "max_operations_invoked",
            "max_pdu_bytes",
            "max_transfer_syntaxes",
            "pdu_timeout_seconds",
            "private_sop_classes",
            "release_timeout_seconds",
            "transfer_syntaxes",
        }
    ),
}
"""Options that it takes; every other one waits for a restart."""
_COUNTED_UNLESS_ZERO = frozenset({"max_connections", "max_connections_per_address"})
"""What is open now was counted, or was not: from 0 and to 0 only at a start."""


def taken(in_force: Config, new: Config) -> tuple[Config, list[str]]:
    """What is in force when a running node has taken `new`, and the options (`[section] option`) that wait.

    ConfigError where a part can't wait: it would be another promise to a caller than the file makes.
    """
    if _staged(new) and not _staged(in_force):
        # Receipts are given at a desk that is opened at the start, if there is such a caller.
        raise ConfigError(['the first caller with ack = "staged" needs a restart of the node: nothing was changed'])
    sections: dict[str, object] = {}
    waiting: list[str] = []
    for name in Config.model_fields:
        before, after = getattr(in_force, name), getattr(new, name)
        if name in WHOLE:
            sections[name] = after
            continue
        changes = {}
        for option in type(before).model_fields:
            old, value = getattr(before, option), getattr(after, option)
            if old == value:
                continue
            if option in OPTIONS.get(name, ()) and not (option in _COUNTED_UNLESS_ZERO and 0 in (old, value)):
                changes[option] = value
            else:
                waiting.append(f"[{name}] {option}")
        sections[name] = before.model_copy(update=changes)
    return in_force.model_copy(update=sections), waiting


def _staged(config: Config) -> bool:
    return any(one.ack == "staged" for one in config.caller)
